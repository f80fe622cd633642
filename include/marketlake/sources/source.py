"""What a source declares about itself: credentials, meaning of its numbers, calls, how to ask it.

What does not belong here: which sources there are (``catalog``) and how one is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from marketlake.calendars import Calendar
from marketlake.errors import EmptyAnswer, NotFound
from marketlake.sources.history import SourceHistory
from marketlake.sources.recording import VendorCall
from marketlake.types import Semantics


@dataclass(frozen=True)
class CallPlan:
    """How often a source may be asked; None is no limit that its vendor declares.

    ``dated``: a request names its dates. Where it carries none, one call brings the whole history.
    """

    a_day: int | None = None
    a_minute: int | None = None
    symbols_a_call: int = 1
    calls_a_symbol: int = 1
    dated: bool = True


@dataclass(frozen=True)
class Answers:
    """What a source said about several symbols, and of which it has nothing."""

    histories: Mapping[str, SourceHistory]
    left_out: Mapping[str, EmptyAnswer | NotFound]


class Fetch(Protocol):
    """Asks a source for symbols over the sessions ``first`` to ``last``, both included.

    ``as_of`` is the session on behalf of which the call is made. A symbol that the vendor does not
    have is left out with its reason; any other failure is raised.
    """

    def __call__(
        self,
        symbols: Sequence[str],
        first: date,
        last: date,
        *,
        as_of: date,
        calendar: Calendar,
        on_call: Callable[[VendorCall], None],
    ) -> Answers:
        """Ask."""


@dataclass(frozen=True)
class Source:
    """One vendor, ready to be asked.

    ``kinds`` are the kinds of instruments it lists under our symbols: ``equity``, ``index``
    (``^GSPC``), ``currency`` (``EURUSD=X``), or ``series``: values that a publisher has under names
    of its own. ``credentials`` are the settings whose secrets its calls carry; ``not_configured``
    names those that have no value, and such a source is not asked at all.
    """

    name: str
    vendor: str
    semantics: Semantics
    plan: CallPlan
    fetch: Fetch
    kinds: frozenset[str] = frozenset({"equity"})
    credentials: tuple[str, ...] = ()
    not_configured: str | None = None


class FetchOne(Protocol):
    """Asks a source for one symbol."""

    def __call__(
        self,
        symbol: str,
        first: date,
        last: date,
        *,
        as_of: date,
        calendar: Calendar,
        on_call: Callable[[VendorCall], None],
    ) -> SourceHistory:
        """Ask."""


def one_by_one(fetch: FetchOne) -> Fetch:
    """Return how to ask for several symbols where a vendor answers about one at a time."""

    def fetch_all(
        symbols: Sequence[str],
        first: date,
        last: date,
        *,
        as_of: date,
        calendar: Calendar,
        on_call: Callable[[VendorCall], None],
    ) -> Answers:
        histories: dict[str, SourceHistory] = {}
        left_out: dict[str, EmptyAnswer | NotFound] = {}
        for symbol in symbols:
            try:
                histories[symbol] = fetch(
                    symbol, first, last, as_of=as_of, calendar=calendar, on_call=on_call
                )
            except (EmptyAnswer, NotFound) as error:
                left_out[symbol] = error
        return Answers(histories, left_out)

    return fetch_all


def missing(**values: object) -> str | None:
    """Return the names of the settings that have no value, or None when all have one."""
    names = [name for name, value in values.items() if not value]
    return " and ".join(names) or None
