"""How long the lake bucket keeps what nobody publishes any more, and where old answers go.

Belongs here: the bucket's lifecycle rules. Does not belong: the archive copy that stands in for a
transition (``Lake.archive``). Rules are told from an operator's own by their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from marketlake.settings import LakeSettings
from marketlake.storage.objects import ObjectStore

_OURS = "marketlake-"
_TRANSITION = f"{_OURS}archive-raw"
_UNFINISHED = ("_staging/", "_publishing/")

Rule = dict[str, Any]


def ensure_lifecycle(store: ObjectStore, settings: LakeSettings) -> None:
    """Give the bucket our rules, and touch nothing if it has them.

    A store that knows no transition is asked again at each start, so that it may learn one.
    """
    held = store.lifecycle(settings.bucket)
    others = [rule for rule in held if not _is_ours(rule)]
    ours = [rule for rule in held if _is_ours(rule)]
    always, transition = rules(settings)
    for wanted in ([*always, *transition], always):
        if _same(ours, wanted) or store.set_lifecycle(settings.bucket, [*others, *wanted]):
            return


def archived_by(
    store: ObjectStore, settings: LakeSettings
) -> Literal["transition", "copy", "nothing"]:
    """Return how old raw artifacts are archived: by the store itself, by a copy of ours, or not."""
    if not settings.archive_raw_after_days:
        return "nothing"
    held = {rule.get("ID") for rule in store.lifecycle(settings.bucket)}
    return "transition" if _TRANSITION in held else "copy"


def rules(settings: LakeSettings) -> tuple[list[Rule], list[Rule]]:
    """Return the rules that every store knows, and the transition that some do not."""
    unfinished = [
        _rule(
            f"unfinished-{prefix.strip('_/')}",
            prefix,
            Expiration={"Days": settings.unfinished_days},
            NoncurrentVersionExpiration={"NoncurrentDays": 1},
        )
        for prefix in _UNFINISHED
    ]
    superseded = _rule(
        "superseded",
        "",
        NoncurrentVersionExpiration={"NoncurrentDays": settings.superseded_days},
        AbortIncompleteMultipartUpload={"DaysAfterInitiation": settings.unfinished_days},
    )
    days = settings.archive_raw_after_days
    transition = {"Days": days, "StorageClass": settings.archive_storage_class}
    return (
        [*unfinished, superseded],
        [_rule("archive-raw", "raw/", Transitions=[transition])] if days else [],
    )


def _rule(name: str, prefix: str, **actions: Any) -> Rule:
    return {"ID": _OURS + name, "Status": "Enabled", "Filter": {"Prefix": prefix}, **actions}


def _is_ours(rule: Mapping[str, Any]) -> bool:
    return str(rule.get("ID", "")).startswith(_OURS)


def _same(held: Sequence[Rule], wanted: Sequence[Rule]) -> bool:
    def by_name(rules: Sequence[Rule]) -> dict[str, Rule]:
        # A store may leave out an empty prefix.
        return {
            rule["ID"]: {**rule, "Filter": {"Prefix": "", **rule.get("Filter", {})}}
            for rule in rules
        }

    return by_name(held) == by_name(wanted)
