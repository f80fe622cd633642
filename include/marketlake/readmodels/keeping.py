"""How long the lake keeps things, and where old answers go, in words."""

from __future__ import annotations

from marketlake.settings import LakeSettings
from marketlake.storage.lake import Lake


def keeping(settings: LakeSettings) -> str:
    """Return what the bucket does now; whether it can move objects is asked of the store."""
    old = f"raw answers of sessions older than {settings.archive_raw_after_days} days"
    archived = {
        "transition": f"{old} are moved by the store to {settings.archive_storage_class}",
        "copy": f"{old} are copied below archive/ by archive_lake (this store moves none)",
        "nothing": "raw answers are not archived",
    }
    return (
        f"replaced versions stay at least {settings.superseded_days:,} days; "
        f"{archived[Lake(settings).archived_by()]}"
    )
