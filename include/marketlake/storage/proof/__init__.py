"""What it takes to check the ledger: tree, encoding, signed checkpoints, export file, verdict.

Nothing here imports the rest of the project: the folder runs by itself as one zipped file
(``storage/verifier_file.py``), with the standard library and ``cryptography``, so that an auditor
needs neither the platform nor trust in it. What does not belong here: appending, and the key.
"""
