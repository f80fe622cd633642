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

from marketlake.errors import ConfigError
from marketlake.services.sandbox.world import View

WIRE_KINDS = frozenset(
    {
        "http_429",
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
    """One rule; empty conditions match everything, ``remaining`` None means for ever."""

    rule_id: int
    kind: str
    namespace: str = ""
    vendor: str = ""
    path_contains: str = ""
    symbol: str = ""
    remaining: int | None = None
    args: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, *, namespace: str, vendor: str, path: str, symbol: str) -> bool:
        """Whether the rule applies to a request."""
        return (
            self.remaining != 0
            and self.namespace in {"", namespace}
            and self.vendor in {"", vendor}
            and self.path_contains in path
            and self.symbol in {"", symbol}
        )


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
            if rule.kind in WIRE_KINDS and rule.matches(**request):
                _count(rule)
                return rule
        return None

    def edit(self, view: View, **request: str) -> View:
        """Return the view with every data fault for a request applied, each counted."""
        for rule in self._rules:
            if rule.kind in DATA_FAULTS and rule.matches(**request):
                _count(rule)
                view = DATA_FAULTS[rule.kind](view, rule.args)
        return view


def _count(rule: Rule) -> None:
    if rule.remaining is not None:
        rule.remaining -= 1


def replayed_body(rule: Rule) -> bytes:
    """Return the bytes that a replay rule answers with."""
    return base64.b64decode(str(rule.args["body_base64"]))


def _on_sessions(view: View, args: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    wanted = args.get("sessions", [])
    return np.isin(view.sessions, np.asarray(wanted, dtype="datetime64[D]"))


def _missing_days(view: View, args: Mapping[str, Any]) -> View:
    return view.rows(~_on_sessions(view, args))


def _null_row(view: View, args: Mapping[str, Any]) -> View:
    hit = _on_sessions(view, args)
    names = args.get("fields") or [*_PRICES, "adj_close_usd", "volume_shares"]
    return _replaced(view, {name: np.where(hit, np.nan, getattr(view, name)) for name in names})


def _outlier(view: View, args: Mapping[str, Any]) -> View:
    factor = np.where(_on_sessions(view, args), float(args.get("factor", 100.0)), 1.0)
    names = args.get("fields") or [*_PRICES, "adj_close_usd"]
    return _replaced(view, {name: getattr(view, name) * factor for name in names})


def _replaced(view: View, columns: dict[str, Any]) -> View:
    return replace(view, **columns)


def _swapped_high_low(view: View, args: Mapping[str, Any]) -> View:
    hit = _on_sessions(view, args)
    return replace(
        view,
        high_usd=np.where(hit, view.low_usd, view.high_usd),
        low_usd=np.where(hit, view.high_usd, view.low_usd),
    )


_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")

DATA_FAULTS: Mapping[str, Callable[[View, Mapping[str, Any]], View]] = {
    "missing_days": _missing_days,
    "null_row": _null_row,
    "outlier": _outlier,
    "swapped_high_low": _swapped_high_low,
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


def _planted(session: date, symbol: str, kind: str, story: str, **args: Any) -> PlantedFault:
    sessions = [session.isoformat()]
    return PlantedFault(session, "yahoo", symbol, kind, {"sessions": sessions, **args}, story)


PLANTED = (
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
)


def planted_at(session: date | None) -> list[PlantedFault]:
    """Return the planted faults of a session, or all of them."""
    return [fault for fault in PLANTED if session is None or fault.session == session]


def apply_planted(view: View, *, vendor: str) -> View:
    """Return the view as the vendor first published it at the session of its clock."""
    for fault in planted_at(view.known):
        if fault.vendor == vendor and fault.symbol == view.symbol:
            view = DATA_FAULTS[fault.kind](view, fault.args)
    return view
