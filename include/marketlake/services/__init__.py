"""Long-running processes: the platform's own supervisor, the ledger appender, the vendor sandbox.

What does not belong: what a process computes (domain, pipelines) or declares (dags).
"""
