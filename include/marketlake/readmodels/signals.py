"""The signals of a session, best first, each with the evidence behind its confidence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Any, Self

from marketlake.contracts.catalog import CORE_SIGNALS_SIGNAL, OUT_ML_MODELS_DAILY_PREDICTIONS
from marketlake.errors import ConfigError, MissingPartition, NotFound
from marketlake.storage.lake import Lake
from marketlake.types import Partition

_SIGNAL_ID = re.compile(r"(\d{4}-\d{2}-\d{2})/([^/\s]+)")


@dataclass(frozen=True)
class SignalId:
    """What identifies a signal, its contract's key; written ``2022-12-28/KO``."""

    session: date
    symbol: str

    def __str__(self) -> str:
        """Return it as a person writes it."""
        return f"{self.session.isoformat()}/{self.symbol}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``SESSION/SYMBOL``; raise ConfigError when it is none."""
        match = _SIGNAL_ID.fullmatch(text)
        try:
            if match is not None:
                return cls(date.fromisoformat(match[1]), match[2])
        except ValueError:
            pass
        raise ConfigError(
            expected="a signal as SESSION/SYMBOL, for example 2022-12-28/KO",
            was=repr(text),
            where="the id of a signal",
            todo="`marketlake signals` shows a session's symbols",
        )


def newest_session(lake: Lake) -> date:
    """Return the newest session with signals; MissingPartition when there is none."""
    sessions = lake.published_sessions(CORE_SIGNALS_SIGNAL)
    if not sessions:
        raise MissingPartition(
            expected="signals of at least one session",
            was="none",
            where=f"{CORE_SIGNALS_SIGNAL.prefix}/",
            todo="run `make run`, or `marketlake backfill` for some sessions",
        )
    return sessions[-1]


def signals(lake: Lake, session: date | None = None) -> list[dict[str, Any]]:
    """Return the rows of ``core_signals__signal`` of a session (the newest, if none is given)."""
    chosen = session or newest_session(lake)
    table = lake.read(CORE_SIGNALS_SIGNAL, [chosen], as_of=chosen)
    rows: list[dict[str, Any]] = table.sort_by("rank").to_pylist()
    return rows


def model(lake: Lake, session: date) -> dict[str, Any] | None:
    """Return what ``out_ml_models__daily_predictions`` says of the model behind the signals.

    None as long as that is not published; it follows the signals.
    """
    partition = Partition.of_session(session)
    if partition not in lake.partitions(OUT_ML_MODELS_DAILY_PREDICTIONS):
        return None
    document = lake.read_ref(lake.ref(OUT_ML_MODELS_DAILY_PREDICTIONS, partition))
    return dict(document["model"])


def signal(lake: Lake, wanted: SignalId) -> dict[str, Any]:
    """Return one row of ``core_signals__signal``.

    Raises
    ------
    NotFound
        When the session has signals, but none of this symbol.
    """
    rows = signals(lake, wanted.session)
    for row in rows:
        if row["symbol"] == wanted.symbol:
            return row
    raise NotFound(
        expected=f"a signal of {wanted.symbol} on {wanted.session}",
        was=f"signals of {', '.join(sorted(row['symbol'] for row in rows))}",
        where=f"{CORE_SIGNALS_SIGNAL.name}/session={wanted.session}",
        todo=f"`marketlake show out_ml_models__daily_predictions/{wanted.session}` says who was "
        "not predicted, and why",
    )
