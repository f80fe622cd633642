"""The daily report: the document a session is told in, and the page made from it.

Everything here is pure: artifacts in, a document or bytes out. Reading and publishing artifacts
belongs to ``pipelines``; measuring risk, forecasts and regimes to the other topics of ``domain``.
"""
