"""Which market a state folder holds: settled at its first start, refused to change afterwards.

What does not belong: making a market (``services.sandbox``) and reading its universe (pipelines).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from marketlake.calendars import Calendar
from marketlake.errors import ConfigError
from marketlake.settings import Settings

_MODE = "MARKETLAKE_MODE"
_NAME = "MARKETLAKE_MARKET__NAME"
_DATA = "MARKETLAKE_SANDBOX__DATA"


def market_of(settings: Settings, known: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that name the market; ``known`` are those of earlier starts.

    A replayed folder's span and symbols come from its files. What a person sets is stronger than
    what is returned here.

    Raises
    ------
    ConfigError
        When the state folder holds another market: two of them in one lake would mix silently.
    """
    chosen: dict[str, str] = {_MODE: settings.mode, _NAME: settings.market.name}
    if settings.market.name == "folder":
        chosen[_DATA] = str(_data_folder(settings))
    for name, value in chosen.items():
        if known.get(name, value) != value:
            raise ConfigError(
                expected=f"the market that this state folder holds, {name}={known[name]}",
                was=value,
                where=str(settings.home),
                todo="set MARKETLAKE_HOME to a new folder, or first `marketlake clean` this one",
            )
    return chosen | _replayed(settings, Path(chosen[_DATA])) if _DATA in chosen else chosen


def _data_folder(settings: Settings) -> Path:
    data = settings.sandbox.data
    if data is None or not data.is_absolute():
        raise ConfigError(
            expected="the absolute path of a folder of Parquet files for the market 'folder'",
            was=str(data or "nothing"),
            where=_DATA,
            todo="set it, or choose another MARKETLAKE_MARKET__NAME",
        )
    return data.resolve()


def _replayed(settings: Settings, data: Path) -> dict[str, str]:
    # Polars costs most of a second to import and only this market needs it.
    from marketlake.services.sandbox.folder import folder_spans

    benchmark, spans = settings.market.benchmark, folder_spans(data)
    members = sorted(name for name in spans if name != benchmark and not name.startswith("^"))
    if benchmark not in spans or not members:
        raise ConfigError(
            expected=f"bars of the benchmark {benchmark} and of at least one other symbol",
            was=f"bars of {', '.join(sorted(spans)[:20])}",
            where=str(data),
            todo="add them, or set MARKETLAKE_MARKET__BENCHMARK to a symbol of the folder",
        )
    first = max(spans[benchmark][0], min(spans[name][0] for name in members))
    last = min(spans[benchmark][1], max(spans[name][1] for name in members))
    sessions = Calendar.of(settings.market.calendar).sessions(first, last)
    if not sessions:
        raise ConfigError(
            expected=f"sessions of {settings.market.calendar} with the benchmark and other symbols",
            was=f"none from {first} to {last}",
            where=str(data),
            todo="correct the dates in the files, or MARKETLAKE_MARKET__CALENDAR",
        )
    folder = settings.home / "market"
    return {
        "MARKETLAKE_MARKET__FIRST_SESSION": sessions[0].isoformat(),
        "MARKETLAKE_MARKET__LAST_SESSION": sessions[-1].isoformat(),
        "MARKETLAKE_MARKET__UNIVERSE_FILE": _written(
            folder / "universe.csv",
            [("symbol", "valid_from", "valid_to"), *((name, "", "") for name in members)],
        ),
        "MARKETLAKE_MARKET__SECTOR_FILE": _written(
            folder / "sector.csv",
            [("symbol", "name", "sector"), *((name, name, "Unknown") for name in members)],
        ),
    }


def _written(file: Path, rows: Iterable[tuple[str, ...]]) -> str:
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows(rows)
    return str(file)
