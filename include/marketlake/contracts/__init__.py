"""What exists and how it is shaped: one declaration per artifact, rendered to everything else.

Belongs here: contracts, the feature catalog, column lineage, the specification's named files, and
the one-way projections (Arrow, Postgres DDL, Great Expectations, dbt, dictionary). Does not belong:
any I/O beyond writing renderings, and any number made from numbers.
"""

from marketlake.contracts.model import Check, Contract, Export, Field

__all__ = ["Check", "Contract", "Export", "Field"]
