"""What a step of a pipeline is given: stores, ledger, calendar, and who is running.

Every publish goes through :meth:`RunContext.publish`, so that an ``intent`` stands in the ledger
before the bytes and a ``published`` entry after them, whoever writes the pipeline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa

from marketlake.calendars import Calendar
from marketlake.clock import utc_now
from marketlake.contracts import Contract
from marketlake.contracts.arrow import schema
from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_REFERENCE_UNIVERSE_MEMBER,
)
from marketlake.errors import ContractViolation
from marketlake.settings import PROJECT_ROOT, LakeSettings, PostgresSettings, Settings
from marketlake.storage.dbt_project import Model
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient, LedgerWriter
from marketlake.storage.recorded_store import Noted, NotingStore
from marketlake.storage.warehouse import Loaded, Warehouse
from marketlake.types import ArtifactRef, Partition, RunIdentity

# An entry holds a megabyte; a name is 100 to 150 bytes of it.
_NAMES_AN_ENTRY = 4000

Content: TypeAlias = "pa.Table | pl.DataFrame | Mapping[str, Any]"


@dataclass(frozen=True)
class Touched:
    """What a run really read, wrote (published or staged), loaded, built: what its lineage says.

    ``loaded`` is by contract: how many rows went into the warehouse. ``noted`` is what went
    through the lake's store, for the run's snapshot. ``built`` are dbt's models. ``secrets`` are
    the names of those that the ledger knows of.
    """

    read: set[ArtifactRef] = field(default_factory=set)
    written: set[ArtifactRef] = field(default_factory=set)
    loaded: dict[str, int] = field(default_factory=dict)
    noted: Noted = field(default_factory=Noted)
    built: list[Model] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class RunContext:
    """Everything a step may touch. Steps are functions ``step(ctx, session, **inputs)``."""

    settings: Settings
    run: RunIdentity
    lake: Lake
    ledger: LedgerWriter
    warehouse: Warehouse
    calendar: Calendar
    code_version: str
    touched: Touched

    def publish(
        self,
        contract: Contract,
        partition: Partition,
        content: Content,
        *,
        sessions: Sequence[date],
        parents: Sequence[ArtifactRef],
        export: bytes | None = None,
    ) -> ArtifactRef:
        """Publish one artifact: intent, write-audit-publish, receipt."""
        self.ledger.record(
            "intent",
            contract=contract.name,
            partition=partition.key,
            n_parents=len(parents),
        )
        ref = self.lake.write(
            contract,
            partition,
            as_content(content),
            sessions=sessions,
            parents=parents,
            run=self.run,
            code_version=self.code_version,
            recorded_at=utc_now(),
            export=export,
        )
        self.ledger.record(
            "published",
            code_version=self.code_version,
            parents=sorted({parent.versioned_name for parent in parents}),
            **ref.as_json(),
        )
        self.touched.read.update(parents)
        self.touched.written.add(ref)
        return ref

    def stage(
        self,
        contract: Contract,
        partition: Partition,
        part: str,
        content: Content,
    ) -> ArtifactRef:
        """Keep an intermediate result for a later step of the same run; readers never see it."""
        ref = self.lake.stage(
            contract,
            partition,
            part,
            as_content(content),
            run=self.run,
        )
        self.touched.written.add(ref)
        return ref

    def record_calculation(
        self,
        name: str,
        *,
        inputs: Sequence[ArtifactRef],
        outputs: Sequence[ArtifactRef],
        seed: int | None = None,
        **parameters: Any,
    ) -> None:
        """Put one calculation, with the hashes of what went in and came out, into the ledger.

        ``seed`` is None where nothing is drawn: the inputs and parameters alone decide.
        """
        self.ledger.record(
            "calculation",
            name=name,
            inputs=[ref.versioned_name for ref in inputs],
            outputs=[ref.versioned_name for ref in outputs],
            parameters=parameters,
            seed=seed,
            code_version=self.code_version,
        )

    def record_secret_access(self, names: Sequence[str], *, purpose: str) -> None:
        """Tell the ledger, before a secret is read, which and what for: once each a task.

        What every task needs to reach lake, warehouse and ledger is not told: each task that
        started has read it.
        """
        for name in names:
            if name not in self.touched.secrets:
                self.ledger.record("secret_access", name=name, purpose=purpose)
                self.touched.secrets.add(name)

    def known_at(self, session: date) -> datetime:
        """Return when bars of a session could first be known: once the slowest source has them."""
        lags = (getattr(self.settings, name).lag_minutes for name in self.settings.market.sources)
        return self.calendar.known_by(session, max(lags))

    def history_window(self, last: date, length: int) -> list[date]:
        """Return up to ``length`` sessions ending with ``last``, none before the market's first."""
        self.calendar.require_session(last)
        return self.calendar.sessions(self.settings.market.first_session, last)[-length:]

    def read(
        self, contract: Contract, sessions: Sequence[date], *, as_of: date
    ) -> tuple[pl.DataFrame, list[ArtifactRef]]:
        """Read sessions of a contract, with references to exactly what was read."""
        table, refs = self.lake.read_with_refs(contract, sessions, as_of=as_of)
        return as_polars(table), refs

    def known_bars(
        self, sessions: Sequence[date], *, as_of: date
    ) -> tuple[pl.DataFrame, pl.DataFrame, list[ArtifactRef]]:
        """Read bars and corporate actions of a window, with references to what was read."""
        bars, bar_refs = self.read(CORE_MARKET_DAILY_BAR, sessions, as_of=as_of)
        actions, action_refs = self.read(CORE_MARKET_CORPORATE_ACTION, sessions, as_of=as_of)
        return bars, actions, bar_refs + action_refs

    def members(
        self, sessions: Sequence[date], *, as_of: date
    ) -> tuple[pl.DataFrame, list[ArtifactRef]]:
        """Read the published universe (session, symbol, sector), with references."""
        rows, refs = self.read(CORE_REFERENCE_UNIVERSE_MEMBER, sessions, as_of=as_of)
        return rows.select("session", "symbol", "sector"), refs

    def table(self, ref: ArtifactRef) -> pl.DataFrame:
        """Read exactly the table that a reference means."""
        content = self.lake.read_ref(ref)
        if not isinstance(content, pa.Table):
            raise _wrong_form(ref, expected="a table", was="a document")
        return as_polars(content)

    def document(self, ref: ArtifactRef) -> dict[str, Any]:
        """Read exactly the document that a reference means."""
        content = self.lake.read_ref(ref)
        if isinstance(content, pa.Table):
            raise _wrong_form(ref, expected="a document", was="a table")
        return dict(content)

    def staged(self, contract: Contract, refs: Sequence[ArtifactRef]) -> pl.DataFrame:
        """Read back and join the staged parts of one contract, in the order they were staged."""
        parts = [self.table(ref) for ref in refs if ref.contract == contract.name]
        if not parts:
            raise ContractViolation(
                expected=f"at least one staged part of {contract.name}",
                was=f"only {sorted({ref.contract for ref in refs})}",
                where=self.run.key,
                todo="clear the run's first task so that it stages its parts again",
            )
        return pl.concat(parts)


@contextmanager
def recorded(ledger: LedgerWriter, touched: Touched, *, step: str) -> Iterator[None]:
    """Tell the ledger that a task started, and how it ended: what it read, wrote and loaded.

    Whoever writes a pipeline adds nothing for this: ``touched`` fills while the step works.
    """
    ledger.record("task_started", step=step)
    try:
        yield
    except BaseException as error:
        failure = {"error": type(error).__name__, "message": str(error)}
        _record_end(ledger, "task_failed", touched, step=step, **failure)
        raise
    _record_end(ledger, "task_finished", touched, step=step)


def _record_end(ledger: LedgerWriter, kind: str, touched: Touched, **what: str) -> None:
    """Record how a task ended; a long list of artifacts goes on in further entries of the kind."""
    # What a run wrote and read back is not its input.
    sides = {"inputs": touched.read - touched.written, "outputs": touched.written}
    named = [(side, name) for side, refs in sides.items() for name in sorted(map(_told, refs))]
    loaded = [{"contract": name, "rows": rows} for name, rows in sorted(touched.loaded.items())]
    parts = max(1, -(-len(named) // _NAMES_AN_ENTRY))
    for part in range(parts):
        some = named[part * _NAMES_AN_ENTRY : (part + 1) * _NAMES_AN_ENTRY]
        ledger.record(
            kind,
            **what,
            **{side: [name for of, name in some if of == side] for side in sides},
            loaded=loaded,
            part=part + 1,
            parts=parts,
        )


def _told(ref: ArtifactRef) -> str:
    """Return a reference's name; a staged part, which no reader sees, is said to be one."""
    return f"{'_staging/' if '/_staging/' in ref.uri else ''}{ref.versioned_name}"


class _NotingLake(Lake):
    """A lake that notes every artifact that is read from it, whichever way a step reads."""

    def __init__(self, settings: LakeSettings, touched: Touched) -> None:
        super().__init__(settings, store=NotingStore(settings, touched.noted))
        self._touched = touched

    def read_ref(self, ref: ArtifactRef) -> pa.Table | dict[str, Any]:
        content = super().read_ref(ref)  # reads by session end here too
        self._touched.read.add(ref)
        return content


class _NotingWarehouse(Warehouse):
    """A warehouse that notes what is loaded into it."""

    def __init__(self, settings: PostgresSettings, touched: Touched) -> None:
        super().__init__(settings)
        self._touched = touched

    def load(self, contract: Contract, table: pa.Table, *, sessions: Sequence[date]) -> Loaded:
        loaded = super().load(contract, table, sessions=sessions)
        before = self._touched.loaded.get(contract.name, 0)
        self._touched.loaded[contract.name] = before + loaded.inserted
        return loaded


def _wrong_form(ref: ArtifactRef, *, expected: str, was: str) -> ContractViolation:
    return ContractViolation(
        expected=expected,
        was=was,
        where=ref.uri,
        todo="the contract's form changed: publish the artifact again",
    )


def as_content(content: Content) -> pa.Table | Mapping[str, Any]:
    """Return frames as Arrow tables and documents as they are."""
    return content.to_arrow() if isinstance(content, pl.DataFrame) else content


def no_rows(contract: Contract) -> pl.DataFrame:
    """Return an empty frame of a contract."""
    return as_polars(schema(contract).empty_table())


def as_polars(table: pa.Table) -> pl.DataFrame:
    """Return an Arrow table as a polars frame."""
    frame = pl.from_arrow(table)
    if not isinstance(frame, pl.DataFrame):
        raise ContractViolation(
            expected="a table", was=type(frame).__name__, where="as_polars", todo="pass a pa.Table"
        )
    return frame


@lru_cache(maxsize=1)
def loaded_code_hash() -> str:
    """Return a hash of the package as this process, or the one it was forked from, loaded it.

    Asked first before a fork: files edited later are not what the inherited modules run.
    """
    return _hash_of("include/marketlake/**/*.py")


@lru_cache(maxsize=1)
def measure_code_version() -> str:
    """Return a hash of the code, SQL and suites that numbers depend on; no git is needed."""
    read_by_each_task = _hash_of("dbt/**/*.sql", "expectations/*.json")
    return hashlib.sha256(f"{loaded_code_hash()} {read_by_each_task}".encode()).hexdigest()[:16]


def _hash_of(*patterns: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in PROJECT_ROOT.glob(pattern)):
        relative = path.relative_to(PROJECT_ROOT)
        if "target" in relative.parts:
            continue
        digest.update(f"{relative.as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def open_context(settings: Settings, run: RunIdentity) -> Iterator[RunContext]:
    """Connect a run to the stores. A ledger that does not answer stops the run here."""
    client = LedgerClient(settings.ledger)
    client.ping()
    touched = Touched()
    yield RunContext(
        settings=settings,
        run=run,
        lake=_NotingLake(settings.lake, touched),
        ledger=LedgerWriter(client, run),
        warehouse=_NotingWarehouse(settings.postgres, touched),
        calendar=Calendar.of(settings.market.calendar),
        code_version=settings.code_version or measure_code_version(),
        touched=touched,
    )
