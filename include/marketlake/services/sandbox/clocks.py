"""Market clocks, one a namespace.

A namespace that is a date stands at that session, after the vendor has published it. Any other
namespace stands where the control API put it, or at the end of the market. What does not belong
here: the wall clock.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from marketlake.calendars import Calendar
from marketlake.errors import ConfigError


class Clocks:
    """Which session each namespace knows; ``default`` is that of a mere name."""

    def __init__(self, *, calendar: str, publish_delay_minutes: int, default: date) -> None:
        self._calendar = calendar
        self._delay = timedelta(minutes=publish_delay_minutes)
        self.default = default
        self._set: dict[str, date] = {}

    def known(self, namespace: str) -> date:
        """Return the newest session that the vendors have published for a namespace."""
        if namespace in self._set:
            return self._set[namespace]
        try:
            return date.fromisoformat(namespace)
        except ValueError:
            return self.default

    def set(self, namespace: str, at: str) -> date:
        """Put a namespace's clock at a session, or at an instant (ISO 8601 with an offset)."""
        self._set[namespace] = self._session_of(at)
        return self._set[namespace]

    def reset(self, namespace: str = "") -> None:
        """Forget where a namespace's clock was put, or all of them."""
        if namespace:
            self._set.pop(namespace, None)
        else:
            self._set.clear()

    def _session_of(self, at: str) -> date:
        try:
            return date.fromisoformat(at)
        except ValueError:
            pass
        try:
            instant = datetime.fromisoformat(at)
        except ValueError:
            instant = None
        if instant is None or instant.tzinfo is None:
            raise ConfigError(
                expected="YYYY-MM-DD, or an instant with an offset such as 2022-12-28T21:30:00Z",
                was=repr(at),
                where="PUT /__ctl/clock",
                todo="correct the member 'at'",
            )
        return Calendar.of(self._calendar).latest_closed(instant - self._delay)
