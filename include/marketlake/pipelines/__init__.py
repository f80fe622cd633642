"""Use cases, one module a DAG: read artifacts, compute purely, gate, write.

Belongs here: the order of reading and writing. Does not belong: a formula (domain), a vendor's
wire (sources), an S3 or SQL call (storage), or anything that knows the orchestrator.
"""
