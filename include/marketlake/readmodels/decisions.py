"""Why one signal was given: data, features, model, gates, what was not chosen, and the proofs.

Everything is read from the very versions that the signal's ledger entry names, and from entries of
the runs that published them; each entry is proven. What the platform does not record is said to be
so. What does not belong: computing anything again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_FACTORS_DAILY,
    CORE_FEATURES_DAILY,
    CORE_MODELS_MODEL,
    CORE_MODELS_PROMOTION,
    CORE_QUALITY_GATE_REPORT,
    CORE_SIGNALS_SIGNAL,
    OUT_ML_MODELS_DAILY_PREDICTIONS,
)
from marketlake.contracts.features import FEATURES
from marketlake.readmodels.lineage import prove_entry, proven_publication
from marketlake.readmodels.signals import SignalId, signal
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient, Recorded
from marketlake.storage.lineage_index import LineageIndex, split_name
from marketlake.types import ArtifactRef, Partition

NOT_RECORDED = "not recorded"

_ALL_OF_A_RUN = 1_000_000
_OF_A_SIGNAL = ("side", "rank", "score_bps", "base_rate", "horizon_sessions", "simulated")


def why(lake: Lake, ledger: LedgerClient, index: LineageIndex, wanted: SignalId) -> dict[str, Any]:
    """Return the tree of why as JSON-ready values."""
    return _Why(lake, ledger, index, wanted).tree()


class _Why:
    """One signal and everything its entry names, read once."""

    def __init__(
        self, lake: Lake, ledger: LedgerClient, index: LineageIndex, wanted: SignalId
    ) -> None:
        self._lake, self._ledger, self._index, self._wanted = lake, ledger, index, wanted
        self._row = signal(lake, wanted)
        (self._ref,) = lake.refs_for(CORE_SIGNALS_SIGNAL, [wanted.session])
        self._said = proven_publication(ledger, index, self._ref.versioned_name)
        named = () if self._said is None or self._said.parents is None else self._said.parents
        publications = {name: proven_publication(ledger, index, name) for name in sorted(named)}
        self._behind = publications
        self._decision = self._entry_of(
            self._ref,
            "decision",
            lambda told: any(row["symbol"] == wanted.symbol for row in told["signals"]),
            name="signal",
            session=wanted.session.isoformat(),
        )
        self._refs = {
            item.ref.contract: item.ref for item in publications.values() if item is not None
        }

    def tree(self) -> dict[str, Any]:
        row = self._row
        return {
            "signal": str(self._wanted),
            "what": {name: row[name] for name in _OF_A_SIGNAL},
            "confidence": {
                "hit_rate": row["confidence"],
                "interval_95": [row["confidence_low"], row["confidence_high"]],
                "n": row["confidence_n"],
                "base_rate": row["base_rate"],
                "probability_up": row["probability_up"],
                "probability_right": row["probability_right"],
                "directions_not_ruled_out_at_80_pct": row["conformal_set"],
            },
            "data": self._data(),
            "features": self._features(),
            "model": self._model(),
            "gates": self._gates(),
            "limits": self._decided().get("limits", NOT_RECORDED),
            "not_chosen": self._not_chosen(),
            "proof": self._proof(),
        }

    def _decided(self) -> dict[str, Any]:
        """Return what the session's decision says of this symbol."""
        told = {} if isinstance(self._decision, str) else self._decision
        own = [row for row in told.get("signals", ()) if row["symbol"] == self._wanted.symbol]
        return dict(own[0]) if own else {}

    def _data(self) -> list[dict[str, Any]] | str:
        if not self._behind:
            return NOT_RECORDED + ": the signal's entry names no parents"
        rows = []
        for name, said in self._behind.items():
            contract, partition, sha256 = split_name(name)
            rows.append(
                {
                    "contract": contract,
                    "partition": partition,
                    "sha256": sha256,
                    "ledger_index": None if said is None else said.index,
                    "recorded_at_utc": NOT_RECORDED if said is None else said.recorded_at_utc,
                }
            )
        return rows

    def _features(self) -> dict[str, Any] | str:
        row = self._row_of(CORE_FEATURES_DAILY)
        if not isinstance(row, dict):
            return row
        document, factors = self._document(CORE_MODELS_MODEL.name), self._row_of(CORE_FACTORS_DAILY)
        own = {item.name for item in FEATURES}
        seen = () if document is None else document["features"]
        return {
            **{item.name: row.get(item.name) for item in FEATURES},
            "simulated": row["simulated"],
            "known_at_utc": row["known_at_utc"].isoformat(),
            "factors": {name: factors.get(name) for name in seen if name not in own}
            if isinstance(factors, dict)
            else factors,
        }

    def _row_of(self, contract: Contract) -> dict[str, Any] | str:
        """Return this symbol's row of the very version that the model read."""
        table = self._table(contract.name)
        if table is None:
            return NOT_RECORDED
        own = pc.and_(
            pc.equal(table.column("session"), pa.scalar(self._wanted.session, pa.date32())),
            pc.equal(table.column("symbol"), self._wanted.symbol),
        )
        rows = table.filter(own).to_pylist()
        if not rows:
            return NOT_RECORDED + ": the version that the model read has no row of this symbol"
        return dict(rows[0])

    def _model(self) -> dict[str, Any]:
        row, document = self._row, self._document(CORE_MODELS_MODEL.name)
        promotion = self._promotion()
        ref = self._refs.get(CORE_MODELS_PROMOTION.name)
        trained = self._refs.get(CORE_MODELS_MODEL.name)
        found: dict[str, Any] = {"name": row["model_name"], "sha256": row["model_sha256"]}
        if document is not None:
            fitted = document["models"][row["model_name"]]
            found |= {
                "trained_as_of": document["as_of"],
                "training_window": document["fit_window"],
                "kind": fitted["kind"],
                "parameters": fitted["parameters"],
                "seeds": fitted["seeds"],
                "members": {
                    name: member
                    for name, member in document["models"].items()
                    if name != row["model_name"]
                },
                "files": document["files"],
                "trials": document["trials"],
                "out_of_fold": document["validation"]["metrics"][row["model_name"]],
                "caveats": document["caveats"],
            }
        else:
            found |= {"training_window": NOT_RECORDED}
        return found | {
            "promotion": NOT_RECORDED if promotion is None else promotion,
            "promotion_decision": self._entry_of(
                ref, "decision", name="promotion", model_sha256=row["model_sha256"]
            ),
            "training_entry": self._entry_of(trained, "model", sha256=row["model_sha256"]),
        }

    def _gates(self) -> list[dict[str, Any]] | str:
        """Return what gates said of the signal, its features and the session's bars."""
        session = Partition.of_session(self._wanted.session).key
        report = self._index.newest([(CORE_QUALITY_GATE_REPORT.name, session)])
        names = [self._ref.versioned_name, *self._behind, *report.values()]
        found: dict[int, dict[str, Any]] = {}
        for name in names:
            contract, partition, _ = split_name(name)
            said = proven_publication(self._ledger, self._index, name)
            if said is None:
                continue
            for entry in self._entries_of_run(said.run, "gate"):
                told = entry.payload
                judged = {contract, told["contract"]} if name in report.values() else {contract}
                if told["partition"] == partition and told["contract"] in judged:
                    found[entry.index] = {
                        "contract": told["contract"],
                        "partition": partition,
                        "verdict": told["verdict"],
                        "rows_in": told["rows_in"],
                        "rows_quarantined": told["rows_quarantined"],
                        "ledger_index": entry.index,
                    }
        return [found[index] for index in sorted(found)] or NOT_RECORDED

    def _not_chosen(self) -> dict[str, Any]:
        document = self._document(CORE_MODELS_MODEL.name)
        promotion = self._promotion()
        others: Any = NOT_RECORDED
        if document is not None:
            others = {
                name: metrics
                for name, metrics in document["validation"]["metrics"].items()
                if name != self._row["model_name"]
            }
        (table,) = (self._lake.read_ref(self._ref),)
        ranks = [
            {name: row[name] for name in ("rank", "symbol", "side", "score_bps")}
            for row in (table.to_pylist() if isinstance(table, pa.Table) else [])
            if row["session"] == self._wanted.session and row["symbol"] != self._wanted.symbol
        ]
        return {
            "other_models": others,
            "why_this_model": NOT_RECORDED if promotion is None else promotion["reason"],
            "other_symbols": sorted(ranks, key=lambda row: int(row["rank"])),
            "not_predicted": self._not_predicted(),
        }

    def _not_predicted(self) -> Any:
        session = Partition.of_session(self._wanted.session).key
        newest = self._index.newest([(OUT_ML_MODELS_DAILY_PREDICTIONS.name, session)])
        for name in newest.values():
            said = proven_publication(self._ledger, self._index, name)
            content = None if said is None else self._lake.read_ref(said.ref)
            if isinstance(content, Mapping):
                return content["not_predicted"]
        return NOT_RECORDED

    def _proof(self) -> dict[str, Any]:
        said = self._said
        told = {} if isinstance(self._decision, str) else self._decision
        decided = {**self._decided(), **{name: told[name] for name in told if name != "signals"}}
        return {
            "artifact": self._ref.versioned_name,
            "published": NOT_RECORDED
            if said is None
            else {"recorded_at_utc": said.recorded_at_utc, **said.proof},
            "run": NOT_RECORDED if said is None else dict(said.run),
            "code_version": NOT_RECORDED if said is None else said.code_version,
            "decision": decided or NOT_RECORDED,
        }

    def _entry_of(
        self,
        ref: ArtifactRef | None,
        kind: str,
        says: Callable[[Mapping[str, Any]], bool] = lambda told: True,
        **payload: Any,
    ) -> Any:
        """Return the proven entry of the run that published something which says this."""
        said = (
            None
            if ref is None
            else proven_publication(self._ledger, self._index, ref.versioned_name)
        )
        found = [] if said is None else list(self._entries_of_run(said.run, kind))
        told = [
            entry
            for entry in found
            if all(entry.payload.get(name) == value for name, value in payload.items())
            and says(entry.payload)
        ]
        if not told:
            return NOT_RECORDED
        entry = told[-1]
        content = {name: value for name, value in entry.payload.items() if name != "run"}
        return {
            **content,
            "recorded_at_utc": entry.recorded_at_utc,
            **prove_entry(self._ledger, entry.index, entry.canonical()),
        }

    def _entries_of_run(self, run: Mapping[str, Any], kind: str) -> Iterable[Recorded]:
        entries = self._ledger.entries(
            kind, run.get("dag_id"), run_id=run.get("run_id"), limit=_ALL_OF_A_RUN
        )
        for entry in entries:
            prove_entry(self._ledger, entry.index, entry.canonical())
            yield entry

    def _promotion(self) -> dict[str, Any] | None:
        table = self._table(CORE_MODELS_PROMOTION.name)
        rows = [] if table is None else table.to_pylist()
        own = [row for row in rows if row["model_sha256"] == self._row["model_sha256"]]
        return own[-1] if own else None

    def _table(self, contract: str) -> pa.Table | None:
        content = self._content(contract)
        return content if isinstance(content, pa.Table) else None

    def _document(self, contract: str) -> dict[str, Any] | None:
        content = self._content(contract)
        return dict(content) if isinstance(content, Mapping) else None

    def _content(self, contract: str) -> pa.Table | dict[str, Any] | None:
        ref = self._refs.get(contract)
        return None if ref is None else self._lake.read_ref(ref)
