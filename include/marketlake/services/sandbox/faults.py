"""Faults: rules that someone asked for, and a few that are planted in the data.

A rule says where it applies (namespace, vendor, path, symbol), what happens, and how often. Wire
faults spoil one answer; data faults change the view that an answer is made from, and so look like
a vendor's own error. What does not belong here: a vendor's wording of a refusal.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from marketlake.errors import ConfigError
from marketlake.services.sandbox.world import View

WIRE_KINDS = frozenset(
    {
        "http_429",
        "soft_limit",
        "http_5xx",
        "hang",
        "reset",
        "truncate",
        "malformed",
        "html_200",
        "empty_200",
        "bad_auth",
        "status500_with_good_body",
        "replay",
    }
)
"""``replay`` is no fault: it answers with given bytes, for example a vendor's recorded body."""


@dataclass
class Rule:
    """One rule; empty conditions match everything, ``remaining`` None means for ever.

    ``spared`` requests go through unharmed first, so that a limit can be reached.
    """

    rule_id: int
    kind: str
    namespace: str = ""
    vendor: str = ""
    path_contains: str = ""
    symbol: str = ""
    spared: int = 0
    remaining: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, *, namespace: str, vendor: str, path: str, symbol: str) -> bool:
        """Whether the rule applies to a request; ``symbol`` may be several, joined by commas."""
        return (
            self.remaining != 0
            and self.namespace in {"", namespace}
            and self.vendor in {"", vendor}
            and self.path_contains in path
            and (not self.symbol or self.symbol in symbol.split(","))
        )

    def strikes(self) -> bool:
        """Count a request that the rule applies to; whether it is harmed."""
        if self.spared:
            self.spared -= 1
            return False
        if self.remaining is not None:
            self.remaining -= 1
        return True


class FaultBook:
    """The rules in force, counted per rule."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._next_id = 1

    def add(self, document: Mapping[str, Any]) -> Rule:
        """Add the rule of a control request; ConfigError tells what is wrong with it."""
        kind = str(document.get("kind", ""))
        if kind not in WIRE_KINDS and kind not in DATA_FAULTS:
            raise ConfigError(
                expected=f"a kind of {', '.join(sorted(WIRE_KINDS | set(DATA_FAULTS)))}",
                was=repr(kind),
                where="POST /__ctl/faults",
                todo="correct the rule",
            )
        times = document.get("times")
        rule = Rule(
            rule_id=self._next_id,
            kind=kind,
            spared=int(document.get("after", 0)),
            remaining=None if times is None else int(times),
            args=dict(document.get("args", {})),
            **{
                name: str(document.get(name, ""))
                for name in ("namespace", "vendor", "path_contains", "symbol")
            },
        )
        self._next_id += 1
        self._rules.append(rule)
        return rule

    def reset(self, namespace: str = "") -> None:
        """Forget the rules of a namespace, or all of them."""
        self._rules = [
            rule for rule in self._rules if namespace and rule.namespace not in {"", namespace}
        ]

    def wire_fault(self, **request: str) -> Rule | None:
        """Return the first wire fault for a request, and count it."""
        for rule in self._rules:
            if rule.kind in WIRE_KINDS and rule.matches(**request) and rule.strikes():
                return rule
        return None

    def edit(self, view: View, **request: str) -> View:
        """Return the view with every data fault for a request applied, each counted."""
        for rule in self._rules:
            if rule.kind in DATA_FAULTS and rule.matches(**request) and rule.strikes():
                view = DATA_FAULTS[rule.kind](view, rule.args)
        return view


def replayed_body(rule: Rule) -> bytes:
    """Return the bytes that a replay rule answers with."""
    return base64.b64decode(str(rule.args["body_base64"]))


_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
_ADJUSTED = (*_PRICES, "adj_close_usd")
_VALUES = (*_ADJUSTED, "volume_shares")
_VENUE_SHARE = 0.001


def _on_sessions(view: View, args: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return where a fault hits: the sessions of its rule, or the newest bar if it names none."""
    wanted = args.get("sessions", view.sessions[-1:])
    return np.isin(view.sessions, np.asarray(wanted, dtype="datetime64[D]"))


def _missing_days(view: View, args: Mapping[str, Any]) -> View:
    return view.rows(~_on_sessions(view, args))


def _null_row(view: View, args: Mapping[str, Any]) -> View:
    hit = _on_sessions(view, args)
    names = args.get("fields") or _VALUES
    return _replaced(view, {name: np.where(hit, np.nan, getattr(view, name)) for name in names})


def _outlier(view: View, args: Mapping[str, Any]) -> View:
    factor = np.where(_on_sessions(view, args), float(args.get("factor", 100.0)), 1.0)
    names = args.get("fields") or _ADJUSTED
    return _replaced(view, {name: getattr(view, name) * factor for name in names})


def _wrong_currency(view: View, args: Mapping[str, Any]) -> View:
    """Quote everything in another currency; only some vendors say which."""
    rate = float(args.get("rate", 1.35))
    prices = {name: getattr(view, name) * rate for name in _ADJUSTED}
    return replace(_replaced(view, prices), currency=str(args.get("currency", "CAD")))


def _swapped_high_low(view: View, args: Mapping[str, Any]) -> View:
    return _permuted(view, args, {"high_usd": "low_usd", "low_usd": "high_usd"})


def _swapped_ohlc(view: View, args: Mapping[str, Any]) -> View:
    """Give open, high, low and close in the order high, low, close, open."""
    return _permuted(view, args, dict(zip(_PRICES, (*_PRICES[1:], _PRICES[0]), strict=True)))


def _permuted(view: View, args: Mapping[str, Any], source_of: Mapping[str, str]) -> View:
    hit = _on_sessions(view, args)
    moved = {
        name: np.where(hit, getattr(view, source), getattr(view, name))
        for name, source in source_of.items()
    }
    return _replaced(view, moved)


def _stale(view: View, args: Mapping[str, Any]) -> View:
    """End the history some sessions early, as a vendor does that is late."""
    return view.bars_at(np.arange(max(len(view.sessions) - int(args.get("days", 1)), 0)))


def _stale_repeat(view: View, args: Mapping[str, Any]) -> View:
    """Repeat the last bar before a run of hit sessions in each of them."""
    position = np.arange(len(view.sessions))
    good = np.where(_on_sessions(view, args), 0, position)
    return _with_values_of(view, np.maximum.accumulate(good))


def _wrong_day(view: View, args: Mapping[str, Any]) -> View:
    """Show the bar of a neighbouring session, by default of the one before."""
    position = np.arange(len(view.sessions))
    moved = position + int(args.get("shift", -1))
    inside = _on_sessions(view, args) & (moved >= 0) & (moved < len(position))
    return _with_values_of(view, np.where(inside, moved, position))


def _with_values_of(view: View, positions: npt.NDArray[np.int64]) -> View:
    return replace(view.bars_at(positions), sessions=view.sessions)


def _dup_rows(view: View, args: Mapping[str, Any]) -> View:
    times = np.where(_on_sessions(view, args), int(args.get("copies", 2)), 1)
    return view.bars_at(np.repeat(np.arange(len(view.sessions)), times))


def _split_unadjusted(view: View, args: Mapping[str, Any]) -> View:
    """Leave a split out: of the vendor's books, or (given a ratio) of the hit sessions alone."""
    if "ratio" in args:
        ratio = np.where(_on_sessions(view, args), float(args["ratio"]), 1.0)
        view = _replaced(view, {name: getattr(view, name) * ratio for name in _ADJUSTED})
        return replace(view, volume_shares=np.rint(view.volume_shares / ratio))
    adjusted = view.adj_close_usd / view.close_usd
    raw = view.as_traded()
    return replace(
        raw,
        adj_close_usd=raw.close_usd * adjusted,
        split_sessions=view.split_sessions[:0],
        split_ratios=view.split_ratios[:0],
    )


def _one_venue_print(view: View, args: Mapping[str, Any]) -> View:
    """Close on one odd trade of a single venue, far from where the market was."""
    hit = _on_sessions(view, args)
    close = view.close_usd * np.where(hit, 1.0 + float(args.get("pct", 3.0)) / 100.0, 1.0)
    return replace(
        view,
        close_usd=close,
        adj_close_usd=view.adj_close_usd * close / view.close_usd,
        high_usd=np.fmax(view.high_usd, close),
        low_usd=np.fmin(view.low_usd, close),
        volume_shares=np.where(hit, np.ceil(view.volume_shares * _VENUE_SHARE), view.volume_shares),
    )


def _replaced(view: View, columns: dict[str, Any]) -> View:
    return replace(view, **columns)


DATA_FAULTS: Mapping[str, Callable[[View, Mapping[str, Any]], View]] = {
    "missing_days": _missing_days,
    "null_row": _null_row,
    "outlier": _outlier,
    "wrong_currency": _wrong_currency,
    "swapped_high_low": _swapped_high_low,
    "swapped_ohlc": _swapped_ohlc,
    "stale": _stale,
    "stale_repeat": _stale_repeat,
    "wrong_day": _wrong_day,
    "dup_rows": _dup_rows,
    "split_unadjusted": _split_unadjusted,
    "one_venue_print": _one_venue_print,
}


@dataclass(frozen=True)
class PlantedFault:
    """A fault that the packaged market's vendor makes at one session, corrected by the next."""

    session: date
    vendor: str
    symbol: str
    kind: str
    args: Mapping[str, Any]
    story: str

    def as_json(self) -> dict[str, Any]:
        """Return what the control API lists."""
        return {
            "session": self.session.isoformat(),
            "vendor": self.vendor,
            "symbol": self.symbol,
            "kind": self.kind,
            "story": self.story,
        }


def _planted(
    session: date, symbol: str, kind: str, story: str, *, vendor: str = "yahoo", **args: Any
) -> PlantedFault:
    sessions = [session.isoformat()]
    return PlantedFault(session, vendor, symbol, kind, {"sessions": sessions, **args}, story)


PLANTED = (
    _planted(
        date(2022, 12, 21),
        "PG",
        "swapped_ohlc",
        "open, high, low and close in another order",
        vendor="iex",
    ),
    _planted(
        date(2022, 12, 22),
        "XOM",
        "outlier",
        "close in cents instead of dollars",
        factor=100.0,
        fields=["close_usd", "adj_close_usd"],
    ),
    _planted(date(2022, 12, 23), "JPM", "swapped_high_low", "high and low swapped"),
    _planted(date(2022, 12, 27), "KO", "missing_days", "bar missing"),
    _planted(
        date(2022, 12, 27),
        "PFE",
        "null_row",
        "close missing",
        fields=["close_usd", "adj_close_usd"],
    ),
    _planted(
        date(2022, 12, 22),
        "MRK",
        "stale_repeat",
        "the bar of the day before again",
        vendor="alpha_vantage",
    ),
    _planted(
        date(2022, 12, 23),
        "WMT",
        "one_venue_print",
        "close on one odd trade, 4 % away",
        vendor="iex",
        pct=4.0,
    ),
    _planted(
        date(2022, 12, 27),
        "UNH",
        "split_unadjusted",
        "prices of before a 2:1 split that there was not",
        vendor="alpha_vantage",
        ratio=2.0,
    ),
)


def planted_at(session: date | None, *, vendor: str = "") -> list[PlantedFault]:
    """Return the planted faults of a session and a vendor, or all of them."""
    return [
        fault
        for fault in PLANTED
        if session in {None, fault.session} and vendor in {"", fault.vendor}
    ]


def apply_planted(view: View, *, vendor: str) -> View:
    """Return the view as the vendor first published it at the session of its clock."""
    for fault in planted_at(view.known, vendor=vendor):
        if fault.symbol == view.symbol:
            view = DATA_FAULTS[fault.kind](view, fault.args)
    return view
