"""Vendors: build a request, fetch through the vendor's real client, parse. One module a vendor.

What does not belong here: retries (the task layer's), quality judgements (``quality``), storage.
"""
