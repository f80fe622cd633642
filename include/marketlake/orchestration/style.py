"""The words DAG files share: owners, pools, tags.

Each source has a pool of its own name. The platform creates the pools when it starts
(``services.platform``), and says there why each has the size it has.
"""

from __future__ import annotations

from enum import StrEnum

OWNER_DATA = "market-data"
OWNER_RESEARCH = "research"
OWNER_RISK = "risk"
OWNER_PLATFORM = "platform"

POOL_DBT = "dbt"


class Tag(StrEnum):
    """Every tag a DAG may carry; a DAG has one of each family (the part before the slash)."""

    LAYER_RAW = "layer/raw"
    LAYER_CORE = "layer/core"
    LAYER_OUT = "layer/out"

    TIER_DAILY = "tier/daily"
    TIER_ON_DEMAND = "tier/on-demand"

    DOMAIN_MARKET = "domain/market"
    DOMAIN_WAREHOUSE = "domain/warehouse"
    DOMAIN_MODELS = "domain/models"
    DOMAIN_RISK = "domain/risk"
    DOMAIN_REPORTS = "domain/reports"
    DOMAIN_AUDIT = "domain/audit"


TAG_FAMILIES = ("layer", "tier", "domain")
