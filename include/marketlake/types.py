"""The vocabulary that every floor shares: partitions, artifacts, runs, what prices mean."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal

from marketlake.errors import ConfigError

_PARTITION = re.compile(r"^(session)=(\d{4}-\d{2}-\d{2})$|^(year)=(\d{4})$")


@dataclass(frozen=True, order=True)
class Partition:
    """One published unit of a contract: an exchange session, or a compacted year of them.

    ``label`` is ``2022-12-28`` for a session and ``2022`` for a year; ``key`` is the path segment.
    """

    kind: str
    label: str

    @classmethod
    def of_session(cls, session: date) -> Partition:
        """Return the partition of one exchange session."""
        return cls("session", session.isoformat())

    @classmethod
    def of_year(cls, year: int) -> Partition:
        """Return the partition that holds a whole calendar year of sessions."""
        return cls("year", f"{year:04d}")

    @classmethod
    def parse(cls, key: str) -> Partition:
        """Read a path segment such as ``session=2022-12-28``; raise ConfigError if it is none."""
        match = _PARTITION.match(key)
        if match is None:
            raise ConfigError(
                expected="session=YYYY-MM-DD or year=YYYY",
                was=repr(key),
                where="partition key",
                todo="pass one exchange session or one year",
            )
        return cls(match[1] or match[3], match[2] or match[4])

    @property
    def key(self) -> str:
        """Return the path segment, for example ``session=2022-12-28``."""
        return f"{self.kind}={self.label}"

    @property
    def session(self) -> date:
        """Return the exchange session; only a session partition has one."""
        if self.kind != "session":
            raise ConfigError(
                expected="a session partition",
                was=self.key,
                where="Partition.session",
                todo="read the partition's sessions from its manifest",
            )
        return date.fromisoformat(self.label)


@dataclass(frozen=True)
class ArtifactRef:
    """A pointer to one published artifact: what tasks hand to each other instead of data.

    ``sha256`` is of the canonical content; ``version_id`` is the store's version of that object,
    so that a reference goes on meaning the same bytes after a republish.
    """

    contract: str
    partition: str
    uri: str
    sha256: str
    rows: int
    version_id: str

    @property
    def versioned_name(self) -> str:
        """Return how the ledger names this content: ``contract/partition@sha256``."""
        return f"{self.contract}/{self.partition}@{self.sha256}"

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping (what goes into XCom)."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ArtifactRef:
        """Rebuild a reference from :meth:`as_json`."""
        return cls(**value)


Basis = Literal["as_traded", "split_adjusted", "total_return", "value"]
"""For what prices are adjusted, as of the vendor's answer; a publisher of values has no prices."""


@dataclass(frozen=True)
class Semantics:
    """What a source's numbers mean.

    ``close``: what its close is. ``actions``: which corporate actions it tells, dividends in the
    shares of their own day when the basis is ``as_traded``, of the answer's day otherwise.
    ``volume_follows_dividends``: a total-return vendor that also scales volume by its factor.
    """

    basis: Basis
    close: Literal["auction", "last_trade", "value"] = "auction"
    volume: Literal["consolidated", "one_venue", "none"] = "consolidated"
    actions: tuple[Literal["split", "dividend"], ...] = ()
    lag_minutes: int = 0
    volume_follows_dividends: bool = False


@dataclass(frozen=True)
class RunIdentity:
    """Who is computing: the orchestrator's run and task, or a test's stand-in for them."""

    dag_id: str
    run_id: str
    task_id: str
    try_number: int = 1
    map_index: int = -1

    @property
    def key(self) -> str:
        """Return the prefix of this try's ledger idempotency keys."""
        return f"{self.dag_id}/{self.run_id}/{self.task_id}/{self.map_index}/{self.try_number}"
