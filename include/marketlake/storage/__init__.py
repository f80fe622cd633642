"""Lake, warehouse and ledger: everything that opens a bucket, a database or a file."""
