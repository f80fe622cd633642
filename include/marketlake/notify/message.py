"""One thing worth telling a person: what happened, where, how bad, and where to look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class Severity(StrEnum):
    """How bad it is, from the mildest on; the values are Apprise's own."""

    INFO = "info"
    WARNING = "warning"
    FAILURE = "failure"

    def reaches(self, minimum: Severity) -> bool:
        """Whether this is as bad as ``minimum``, or worse."""
        order = list(Severity)
        return order.index(self) >= order.index(minimum)


@dataclass(frozen=True)
class Message:
    """What is sent. One event has one ``id``: told twice, it is still one message."""

    id: str
    severity: Severity
    title: str
    body: str
    dag_id: str
    run_id: str
    task_id: str
    session: str | None
    link: str

    @property
    def text(self) -> str:
        """Return the body with the link below it."""
        return f"{self.body}\n\n{self.link}"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a message from :meth:`as_json`."""
        return cls(**{**value, "severity": Severity(value["severity"])})
