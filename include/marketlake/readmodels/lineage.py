"""The walk from an artifact back to the vendor's bytes, or on to everything made from it.

Which artifact was made from which is said by the ledger's ``published`` entries, by content hash;
the index only finds them. Every artifact shown here is proven: the bytes of its entry hash to a
leaf with an inclusion proof, and they name exactly this content and these parents. So a version
that was replaced since is walked like any other. Walking up, the entries themselves say what is
next. Walking down nothing can: that no child is missing is the index's word, which a rebuilt index
takes from the whole ledger.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from marketlake.contracts.catalog import contract
from marketlake.contracts.model import Contract
from marketlake.errors import BadPayload, ConfigError, MissingPartition, NotFound
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import Entry, LedgerClient
from marketlake.storage.lineage_index import Closure, Direction, LineageIndex, split_name
from marketlake.storage.manifest import Manifest
from marketlake.storage.proof.merkle import leaf_hash
from marketlake.types import ArtifactRef, Partition

_LEAST_PREFIX = 8
_SHOWN_ALONE = 3
_SHOWN_ABOVE = "shown above"
_GONE = "its bytes are no longer in the store"
_CHANGED = "its stored bytes are not those that were published"
_OF_THE_MANIFEST = "its entry names no parents: they are those of its manifest"


@dataclass(frozen=True)
class VendorBytes:
    """One stored answer of a vendor; ``intact`` says its body still has the recorded hash."""

    symbol: str
    method: str
    url: str
    status: int
    body_bytes: int
    body_sha256: str
    intact: bool


@dataclass(frozen=True)
class TracedArtifact:
    """One artifact of the walk.

    ``ledger_index`` is its newest ``published`` entry with exactly this content, whose inclusion
    proof was checked; None when the ledger knows no such entry. Walking up fills ``parents``,
    walking down ``children``. ``note`` says why nothing is listed below it (shown above), or what
    else there is to know (replaced since).
    """

    contract: str
    partition: str
    rows: int | None
    sha256: str
    uri: str | None
    run_id: str | None
    code_version: str | None
    recorded_at_utc: str | None
    ledger_index: int | None
    note: str
    parents: tuple[TracedArtifact, ...] = ()
    vendor_bytes: tuple[VendorBytes, ...] = ()
    children: tuple[TracedArtifact, ...] = ()

    @property
    def name(self) -> str:
        """Return what the ledger calls it."""
        return f"{self.contract}/{self.partition}@{self.sha256}"

    @property
    def onward(self) -> tuple[TracedArtifact, ...]:
        """Return what comes after it on this walk."""
        return self.parents or self.children

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready tree."""
        return asdict(self)

    def walk(self) -> Iterator[TracedArtifact]:
        """Yield this artifact and everything behind it, each once per mention."""
        yield self
        for item in self.onward:
            yield from item.walk()


def trace(
    lake: Lake,
    ledger: LedgerClient,
    index: LineageIndex,
    *,
    artifact: Contract,
    partition: Partition,
    sha256: str = "",
    direction: Direction = "up",
    symbol: str | None = None,
) -> TracedArtifact:
    """Return an artifact with everything it was made from, or everything made from it.

    Parameters
    ----------
    sha256
        The beginning (8 digits or more) of one version's hash; the published one, if not given.
    direction
        ``up`` ends at the vendors' answers, their bodies hashed again; ``down`` at what nothing
        was made from.
    symbol
        Look at this symbol's vendor answers only.
    """
    start = _version(lake, index, artifact, partition, sha256)
    return _Walk(lake, ledger, index, direction=direction, symbol=symbol).tree(start)


@dataclass(frozen=True)
class Branch:
    """Artifacts of one contract at one place of a walk: one, or many that are told as one.

    ``above`` of them were shown before; below the rest comes what all of them lead to.
    """

    members: tuple[TracedArtifact, ...]
    above: int
    below: tuple[Branch, ...]

    @property
    def title(self) -> str:
        """Return the contract, and which partitions of it."""
        contracts, partitions = self.members[0].contract, [item.partition for item in self.members]
        if len(partitions) == 1:
            return f"{contracts} {partitions[0]}"
        spans = []
        for kind in ("session", "year"):
            labels = sorted(
                {item.removeprefix(f"{kind}=") for item in partitions if item.startswith(kind)}
            )
            if labels:
                spans.append(
                    f"{kind} {labels[0]}"
                    if len(labels) == 1
                    else f"{len(labels)} {kind}s {labels[0]}..{labels[-1]}"
                )
        versions = len(partitions) - len(set(partitions))
        more = f" ({versions} more versions)" if versions else ""
        return f"{contracts}: {', '.join(spans)}{more}"

    @property
    def note(self) -> str:
        """Return what there is to know of it besides: shown above, replaced since."""
        if self.is_shown_above:
            return _SHOWN_ABOVE
        if len(self.members) == 1:
            return self.members[0].note
        noted = Counter(item.note.partition(" by ")[0] for item in self.members if item.note)
        if self.above:
            noted[_SHOWN_ABOVE] = self.above
        return ", ".join(f"{count} {note}" for note, count in noted.items())

    @property
    def is_shown_above(self) -> bool:
        """Whether all of it was shown before."""
        return self.above == len(self.members)

    @property
    def vendor_bytes(self) -> tuple[VendorBytes, ...]:
        """Return the vendors' answers of all members that are shown here first."""
        if self.is_shown_above:
            return ()
        return tuple(answer for item in self.members for answer in item.vendor_bytes)


def folded(tree: TracedArtifact, *, full: bool = False) -> Branch:
    """Return a walk as a person reads it: many artifacts of one contract become one branch."""
    nodes = {item.name: item for item in tree.walk() if item.note != _SHOWN_ABOVE}
    shown: set[str] = set()

    def branch(names: Sequence[str]) -> Branch:
        first = [name for name in names if name not in shown]
        shown.update(first)
        onward = dict.fromkeys(item.name for name in first for item in nodes[name].onward)
        groups: dict[str, list[str]] = {}
        for name in onward:
            groups.setdefault(split_name(name)[0], []).append(name)
        below = [
            part
            for own in groups.values()
            for part in ([own] if len(own) > _SHOWN_ALONE and not full else [[one] for one in own])
        ]
        return Branch(
            members=tuple(nodes[name] for name in names),
            above=len(names) - len(first),
            below=tuple(map(branch, below)),
        )

    return branch([tree.name])


def _version(
    lake: Lake, index: LineageIndex, artifact: Contract, partition: Partition, sha256: str
) -> str:
    if not sha256:
        return lake.ref(artifact, partition).versioned_name
    if len(sha256) < _LEAST_PREFIX:
        raise ConfigError(
            expected=f"at least {_LEAST_PREFIX} digits of a hash",
            was=sha256,
            where=f"{artifact.name}/{partition.key}@{sha256}",
            todo="give more of it: `marketlake artifacts --json` has the published ones",
        )
    found = list(index.versions(artifact.name, partition.key, sha256.lower()))
    if len(found) != 1:
        raise NotFound(
            expected=f"one version of {artifact.name}/{partition.key} that begins with {sha256}",
            was=", ".join(found) or "none",
            where="the ledger's `published` entries",
            todo="give more digits of the hash, or none for the version that is published now",
        )
    return found[0]


@dataclass(frozen=True)
class Publication:
    """What one proven ``published`` entry says of an artifact; old entries name no parents."""

    index: int
    ref: ArtifactRef
    run: Mapping[str, Any]
    code_version: str | None
    recorded_at_utc: str
    parents: frozenset[str] | None
    proof: Mapping[str, Any]


def proven_publication(ledger: LedgerClient, index: LineageIndex, name: str) -> Publication | None:
    """Return the newest publication of exactly this content; None when the ledger has none."""
    contract_name, partition, sha256 = split_name(name)
    at = index.versions(contract_name, partition, sha256).get(name)
    if at is None:
        return None
    ((_, content),) = index.entries([at])
    return _publication(ledger, at, content, of=name)


def prove_entry(ledger: LedgerClient, index: int, content: bytes) -> dict[str, Any]:
    """Return where an entry lies under which root; BadPayload when these are not its bytes."""
    proof = ledger.prove(index)
    if leaf_hash(content).hex() != proof.leaf_hash:
        raise BadPayload(
            expected=f"the bytes of entry {index} as they were recorded",
            was="others",
            where="the ledger's database",
            todo="run `marketlake audit verify`",
        )
    return {
        "ledger_index": index,
        "leaf_hash": proof.leaf_hash,
        "size": proof.size,
        "root_hash": proof.root_hash,
    }


def _publication(ledger: LedgerClient, index: int, content: bytes, *, of: str) -> Publication:
    proof = prove_entry(ledger, index, content)
    entry = Entry.from_canonical(content)
    payload = entry.payload
    named: dict[str, Any] = {item.name: payload.get(item.name) for item in fields(ArtifactRef)}
    ref = ArtifactRef(**named)
    if entry.kind != "published" or ref.versioned_name != of:
        raise BadPayload(
            expected=f"entry {index} to be the publication of {of}",
            was=f"a {entry.kind} of {ref.versioned_name}",
            where="the index of the ledger (schema lineage)",
            todo="trace again with --reindex",
        )
    parents = payload.get("parents")
    return Publication(
        index=index,
        ref=ref,
        run=entry.run,
        code_version=payload.get("code_version"),
        recorded_at_utc=entry.recorded_at_utc,
        parents=None if parents is None else frozenset(parents),
        proof=proof,
    )


@dataclass
class _Walk:
    lake: Lake
    ledger: LedgerClient
    index: LineageIndex
    direction: Direction
    symbol: str | None
    nodes: dict[str, int | None] = field(default_factory=dict)
    said: dict[str, Publication] = field(default_factory=dict)
    onward: dict[str, list[str]] = field(default_factory=dict)
    refs: dict[str, ArtifactRef] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)

    def tree(self, start: str) -> TracedArtifact:
        """Find everything, prove everything, and put it into a tree."""
        wanted = {start}
        while wanted:
            wanted = self._add(wanted)
        self._note_replaced()
        return self._expand(start)

    def _add(self, names: Collection[str]) -> set[str]:
        """Take up what lies behind some artifacts; return what only a manifest leads to."""
        closure = self.index.closure(list(names), self.direction)
        told = dict(closure.nodes.values())
        new = {name: index for name, index in told.items() if name not in self.nodes}
        new |= {name: None for name in names if name not in self.nodes and name not in new}
        self.nodes |= new
        proven = self._prove(new, closure)
        self._connect(closure, proven)
        if self.direction == "down":
            return set()
        return {parent for name in new for parent in self._parents(name)} - self.nodes.keys()

    def _prove(self, new: Mapping[str, int | None], closure: Closure) -> dict[int, Publication]:
        """Read and prove each artifact's newest entry, and each that an edge comes from."""
        of = {index: name for name, index in new.items() if index is not None}
        of |= {index: child for child, _, index in closure.edges()}
        proven = {
            index: _publication(self.ledger, index, content, of=of[index])
            for index, content in self.index.entries(list(of))
        }
        for name, at in new.items():
            if at is not None and at in proven:
                self.said[name] = proven[at]
                self.refs[name] = proven[at].ref
            else:
                self.nodes[name] = None
        return proven

    def _connect(self, closure: Closure, proven: Mapping[int, Publication]) -> None:
        """Keep the edges that their entries really tell."""
        for child, parent, index in closure.edges():
            said = proven.get(index) or self.said.get(child)
            if said is None or parent not in (said.parents or ()):
                raise BadPayload(
                    expected=f"entry {index} to name {parent}",
                    was=f"an entry of {child} that does not",
                    where="the index of the ledger (schema lineage)",
                    todo="run `marketlake audit verify`, then trace again with --reindex",
                )
            if self.direction == "down":
                self.onward.setdefault(parent, []).append(child)
                if index != self.nodes[child]:
                    self.notes[child] = f"so by entry {index}, published again since"

    def _parents(self, name: str) -> list[str]:
        """Return what an artifact was made from: by its entry, or an older one by its manifest."""
        said = self.said.get(name)
        if said is not None and said.parents is not None:
            self.onward[name] = sorted(said.parents)
            return self.onward[name]
        manifest = self._manifest_of(name)
        if manifest is None:
            return []
        if said is not None and manifest.parents:
            self.notes[name] = _OF_THE_MANIFEST
        for parent in manifest.parents:
            self.refs.setdefault(parent.versioned_name, parent)
        self.refs.setdefault(name, manifest.ref(self.lake.bucket))
        self.onward[name] = [parent.versioned_name for parent in manifest.parents]
        return self.onward[name]

    def _manifest_of(self, name: str) -> Manifest | None:
        artifact, partition, sha256 = split_name(name)
        try:
            manifest = self.lake.manifest(contract(artifact), Partition.parse(partition))
        except MissingPartition:
            self.notes[name] = "no longer published"
            return None
        return manifest if manifest.sha256 == sha256 else None

    def _note_replaced(self) -> None:
        newest = self.index.newest({split_name(name)[:2] for name in self.nodes})
        for name in self.nodes:
            latest = newest.get(name.rpartition("@")[0], name)
            if latest != name:
                self.notes[name] = f"replaced since by {split_name(latest)[2]}"

    def _expand(self, name: str) -> TracedArtifact:
        artifact, partition, sha256 = split_name(name)
        ref, said = self.refs.get(name), self.said.get(name)
        first = name not in self.shown
        self.shown.add(name)
        answers, fault = self._vendor_bytes(ref) if first else ((), "")
        onward = tuple(map(self._expand, self.onward.get(name, ()))) if first else ()
        note = self.notes.get(name, "")
        return TracedArtifact(
            contract=artifact,
            partition=partition,
            rows=ref.rows if ref else None,
            sha256=sha256,
            uri=ref.uri if ref else None,
            run_id=said.run.get("run_id") if said else None,
            code_version=said.code_version if said else None,
            recorded_at_utc=said.recorded_at_utc if said else None,
            ledger_index=self.nodes[name],
            note="; ".join(filter(None, (note, fault))) if first else _SHOWN_ABOVE,
            parents=onward if self.direction == "up" else (),
            vendor_bytes=answers,
            children=onward if self.direction == "down" else (),
        )

    def _vendor_bytes(self, ref: ArtifactRef | None) -> tuple[tuple[VendorBytes, ...], str]:
        if ref is None or not ref.contract.endswith("__response"):
            return (), ""
        try:
            table = self.lake.read_ref(ref)
        except NotFound:
            return (), _GONE
        except BadPayload:
            return (), _CHANGED
        if not isinstance(table, pa.Table):
            return (), ""
        if self.symbol is not None:
            table = table.filter(pc.equal(table.column("symbol"), self.symbol))
        return tuple(map(_answer, table.to_pylist())), ""


def _answer(row: Mapping[str, Any]) -> VendorBytes:
    return VendorBytes(
        symbol=row["symbol"],
        method=row["method"],
        url=row["url"],
        status=row["status"],
        body_bytes=len(row["body"]),
        body_sha256=row["body_sha256"],
        intact=hashlib.sha256(row["body"]).hexdigest() == row["body_sha256"],
    )


def document(
    tree: TracedArtifact,
    *,
    direction: Direction,
    signal: Mapping[str, Any] | None = None,
    full: bool = False,
) -> dict[str, Any]:
    """Return a walk as its page is made from it (``domain.reporting.lineage_page``)."""
    return {
        "direction": direction,
        "signal": signal,
        "counts": counts(tree),
        "tree": _as_document(folded(tree, full=full)),
    }


def counts(tree: TracedArtifact) -> dict[str, int]:
    """Return how many artifacts and answers a walk has, and how many of them are broken.

    Answers that cannot be read any more count as one that has changed.
    """
    nodes = {item.name: item for item in tree.walk() if item.note != _SHOWN_ABOVE}
    answers = [answer for item in nodes.values() for answer in item.vendor_bytes]
    return {
        "artifacts": len(nodes),
        "unproven": sum(item.ledger_index is None for item in nodes.values()),
        "answers": len(answers),
        "changed": sum(not answer.intact for answer in answers)
        + sum(item.note.endswith((_GONE, _CHANGED)) for item in nodes.values()),
    }


def _as_document(branch: Branch) -> dict[str, Any]:
    return {
        "title": branch.title,
        "note": branch.note,
        "members": [
            {
                name: getattr(item, name)
                for name in ("contract", "partition", "sha256", "ledger_index", "note")
            }
            for item in branch.members
        ],
        "answers": [asdict(answer) for answer in branch.vendor_bytes],
        "below": [_as_document(item) for item in branch.below],
    }
