"""Take a snapshot of every step as it ends, whoever wrote the pipeline.

Belongs here: what of a run goes into its snapshot, and under which of the three names. Does not
belong: how snapshots are kept (``storage/snapshots.py``) and running one again (``replay``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from marketlake.clock import utc_now
from marketlake.contracts.catalog import contract as contract_of
from marketlake.errors import MarketlakeError
from marketlake.pipelines.context import RunContext
from marketlake.settings import Settings
from marketlake.storage.canonical import canonical_json, sha256_hex
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.snapshots import (
    Snapshot,
    SnapshotObject,
    Snapshots,
    arguments_with_places,
    refs_in,
)
from marketlake.types import ArtifactRef, Partition

PARAMETERS = ("mode", "market", "yahoo", "alpha_vantage", "iex", "fred", "stooq", "gates", "models",
              "risk")  # fmt: skip
"""The settings that numbers depend on; the others say where things are."""
FILES = ("universe_file", "sector_file")
"""Files of the market's settings that steps read beside the lake."""

_CATEGORIES = {
    "ingest_market_data": "data_fetch",
    "validate_market_data": "data_fetch",
    "load_history": "data_fetch",
    "predict_signals": "signals",
}
_MOMENTS = {
    "predict_signals.predict": "before_decision",
    "predict_signals.publish": "after_decision",
    "train_models.train": "before_decision",
    "train_models.promote": "after_decision",
}


@contextmanager
def snapshot_of(
    ctx: RunContext, session: date, function: Callable[..., Any], arguments: Mapping[str, Any]
) -> Iterator[None]:
    """Keep a snapshot of a step when it ends; of one that failed, if it had published something."""
    step = f"{function.__module__}.{function.__qualname__}"
    try:
        yield
    except BaseException as error:
        if ctx.touched.written:
            # What stopped the step is the error to see, not this.
            with suppress(MarketlakeError):
                _keep(ctx, session, step, arguments, error=type(error).__name__)
        raise
    _keep(ctx, session, step, arguments, error=None)


def _keep(
    ctx: RunContext, session: date, step: str, arguments: Mapping[str, Any], *, error: str | None
) -> None:
    snapshot = take(ctx, session, step, arguments, error=error)
    kept = Snapshots(ctx.lake, LedgerClient(ctx.settings.ledger))
    recorded_at = datetime.fromisoformat(snapshot.recorded_at_utc)
    kept.write(snapshot, local=ctx.calendar.local(recorded_at))


def take(
    ctx: RunContext, session: date, step: str, arguments: Mapping[str, Any], *, error: str | None
) -> Snapshot:
    """Return the snapshot of what a run has done so far; nothing is read or written."""
    touched, noted = ctx.touched, ctx.touched.noted
    bucket = f"s3://{ctx.lake.bucket}/"

    def version(ref: ArtifactRef) -> tuple[str, str]:
        return ref.uri.removeprefix(bucket), ref.version_id

    refs = {version(ref): ref for ref in (*touched.read, *touched.written, *refs_in(arguments))}
    exports = {
        (key, noted.put[key])
        for key in filter(None, map(_export_key, touched.written))
        if key in noted.put
    }
    asked = [(key, own) for key, answers in noted.newest.items() for own in _collapsed(answers)]
    found = [(key, own) for key, own in asked if own is not None]
    objects = sorted({*refs, *exports, *found})
    places = {item: place for place, item in enumerate(objects)}
    by_name = {f"{bucket}{key}@{own}": place for (key, own), place in places.items()}
    return Snapshot(
        step=step,
        session=session.isoformat(),
        category=_CATEGORIES.get(ctx.run.dag_id, "analysis"),
        moment=_MOMENTS.get(step.removeprefix("marketlake.pipelines."), "after_step"),
        run=ctx.run,
        recorded_at_utc=utc_now().isoformat(),
        code_version=ctx.code_version,
        parameters=parameters(ctx.settings),
        arguments=arguments_with_places(arguments, by_name),
        error=error,
        bucket=ctx.lake.bucket,
        objects=tuple(
            SnapshotObject(
                *item,
                sha256=refs[item].sha256 if item in refs else noted.hashes.get(item),
                bytes=noted.sizes.get(item),
                rows=refs[item].rows if item in refs else None,
            )
            for item in objects
        ),
        read=_places(places, map(version, touched.read - touched.written)),
        wrote=_places(places, map(version, touched.written)),
        exported=_places(places, exports),
        newest=tuple(places[item] for item in found),
        absent=tuple(sorted({key for key, own in asked if own is None})),
        listed=tuple(sorted(noted.listed - noted.newest.keys() - noted.put.keys())),
        loaded=dict(touched.loaded),
    )


def parameters(settings: Settings) -> dict[str, Any]:
    """Return the settings that numbers depend on, their hash, and hashes of the market's files."""
    values = _plain(settings.model_dump(include=set(PARAMETERS)))
    return {
        "settings": values,
        "settings_sha256": sha256_hex(canonical_json(values, where="settings")),
        "files": {name: _file_hash(getattr(settings.market, name)) for name in FILES},
    }


def _plain(value: Any) -> Any:
    """Return JSON-ready settings without secrets and without places on this machine."""
    if isinstance(value, dict):
        return {
            name: _plain(item)
            for name, item in value.items()
            if not isinstance(item, SecretStr | Path)
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def _collapsed(answers: list[str | None]) -> list[str | None]:
    """Return one answer where all are the same; else each, for a replay to give in order."""
    return answers[:1] if len(set(answers)) == 1 else answers


def _places(
    places: Mapping[tuple[str, str], int], items: Iterable[tuple[str, str]]
) -> tuple[int, ...]:
    return tuple(sorted(places[item] for item in items))


def _export_key(ref: ArtifactRef) -> str | None:
    export = contract_of(ref.contract).export
    partition = Partition.parse(ref.partition)
    if export is None or partition.kind != "session" or "/_staging/" in ref.uri:
        return None
    day = partition.label.replace("-", "")
    return export.pattern.format(yyyymmdd=day, yyyymm=day[:6])


@lru_cache(maxsize=8)
def _file_hash(path: Path) -> str | None:
    return sha256_hex(path.read_bytes()) if path.is_file() else None
