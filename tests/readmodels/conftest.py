"""One small published day, in a bucket of its own, for questions to the readmodels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from marketlake.contracts import Contract, catalog
from marketlake.contracts.arrow import schema
from marketlake.types import ArtifactRef, Partition, RunIdentity

if TYPE_CHECKING:
    from marketlake.settings import PostgresSettings, Settings
    from marketlake.storage.lake import Lake
    from marketlake.storage.ledger import LedgerClient

SESSION = date(2022, 12, 23)
KNOWN_AT = datetime(2022, 12, 23, 21, 15, tzinfo=UTC)
RECORDED_AT = datetime(2022, 12, 23, 22, 0, tzinfo=UTC)
BODY = b'{"chart": {"result": []}}'


@dataclass
class Publisher:
    """Publishes as a pipeline does: the artifact, then its entry in the ledger."""

    lake: Lake
    ledger: LedgerClient
    postgres: PostgresSettings
    run_id: str
    refs: dict[str, ArtifactRef] = field(default_factory=dict)

    def publish(
        self,
        contract: Contract,
        content: Sequence[Mapping[str, Any]] | Mapping[str, Any],
        *,
        parents: Sequence[ArtifactRef] = (),
        session: date = SESSION,
        recorded: bool = True,
        with_parents: bool = True,
        export: bytes | None = None,
    ) -> ArtifactRef:
        from marketlake.storage.ledger import LedgerWriter

        run = RunIdentity(contract.owner, self.run_id, contract.name)
        table: pa.Table | Mapping[str, Any]
        if isinstance(content, Mapping):
            table = content
        else:
            table = pa.Table.from_pylist([dict(row) for row in content], schema=schema(contract))
        ref = self.lake.write(
            contract,
            Partition.of_session(session),
            table,
            sessions=[session],
            parents=parents,
            run=run,
            code_version="test",
            recorded_at=RECORDED_AT,
            export=export,
        )
        if recorded:
            named = sorted(parent.versioned_name for parent in parents)
            LedgerWriter(self.ledger, run).record(
                "published", **(ref.as_json() | ({"parents": named} if with_parents else {}))
            )
        self.refs[contract.name] = ref
        return ref


def response_rows(body: bytes = BODY) -> list[dict[str, Any]]:
    return [
        {
            "symbol": "KO",
            "request_no": 0,
            "method": "GET",
            "url": "https://query2.finance.yahoo.com/v8/finance/chart/KO",
            "status": 200,
            "body": body,
            "body_sha256": hashlib.sha256(BODY).hexdigest(),
        }
    ]


def bar_rows() -> list[dict[str, Any]]:
    return [
        {
            "session": SESSION,
            "symbol": "KO",
            **dict.fromkeys(("open_usd", "high_usd", "low_usd", "close_usd"), 63.0),
            "adj_close_usd": 63.0,
            "volume_shares": 1e6,
            "previous_close_usd": 62.5,
            "repeat_no": 0,
            "simulated_fields": ["open_usd"],
            "known_at_utc": KNOWN_AT,
        }
    ]


def signal_rows(scores: Mapping[str, float]) -> list[dict[str, Any]]:
    order = sorted(scores, key=scores.__getitem__, reverse=True)
    return [
        {
            "session": SESSION,
            "symbol": symbol,
            "score_bps": scores[symbol],
            "rank": order.index(symbol) + 1,
            "side": "long" if scores[symbol] > 0 else "short",
            "probability_up": 0.503,
            "probability_right": 0.52,
            "conformal_set": "both",
            "confidence": 0.51,
            "confidence_low": 0.50,
            "confidence_high": 0.52,
            "confidence_n": 9000,
            "base_rate": 0.505,
            "horizon_sessions": 5,
            "model_name": "linear",
            "model_sha256": "ab" * 32,
            "simulated": False,
            "known_at_utc": KNOWN_AT,
        }
        for symbol in scores
    ]


@pytest.fixture(scope="module")
def publisher(lake: Lake, ledger: LedgerClient, storage_settings: Settings) -> Publisher:
    return Publisher(lake, ledger, storage_settings.postgres, f"readmodels-{lake.bucket}")


@pytest.fixture(scope="module")
def day(publisher: Publisher) -> dict[str, ArtifactRef]:
    """Publish the day's artifacts, each naming its parents, and return their references."""
    responses = publisher.publish(catalog.RAW_YAHOO_RESPONSE, response_rows())
    bars = publisher.publish(catalog.RAW_YAHOO_DAILY_BAR, bar_rows(), parents=[responses])
    gate = publisher.publish(
        catalog.CORE_QUALITY_GATE_REPORT,
        {
            "contract": "core_market__daily_bar",
            "partition": f"session={SESSION}",
            "verdict": "passed",
            "rows_in": 21,
            "rows_quarantined": 0,
            "sources": [
                {"source": name, "outcome": outcome, "rows_quarantined": refused}
                for name, outcome, refused in (
                    ("yahoo", "answered", 1),
                    ("alpha_vantage", "dropped", 0),
                    ("iex", "answered", 0),
                )
            ],
            "results": [],
            "engine": "none",
        },
        parents=[bars],
    )
    publisher.publish(
        catalog.CORE_QUALITY_QUARANTINE,
        [
            {
                "contract": "core_market__source_bar",
                "session": SESSION,
                "symbol": "JPM",
                "row_no": 0,
                "check": "not_above(low_usd, high_usd)",
                "reason": "low above high",
                "row_json": '{"source": "yahoo"}',
            }
        ],
        parents=[bars],
    )
    publisher.publish(
        catalog.CORE_QUALITY_DISAGREEMENT,
        [
            {
                "session": SESSION,
                "symbol": "WMT",
                "source": source,
                "kind": kind,
                "fields": ["close_usd"],
            }
            for source, kind in (("iex", "one_venue_print"), ("yahoo", "missing_day"))
        ],
        parents=[bars],
    )
    publisher.publish(
        catalog.OUT_DATA_VALIDATION_ANOMALY_LOG,
        [
            {
                "session": SESSION,
                "symbol": "JPM",
                "source": source,
                "kind": kind,
                "value": None,
                "expected": None,
                "limit": None,
                "severity": "critical",
                "detail": "low above high",
            }
            for source, kind in (("yahoo", "quarantined"), ("yahoo", "swapped_ohlc"))
        ],
        parents=[gate],
    )
    scores = {"KO": 1.0, "PFE": -7.5, "XOM": 12.0, "BAC": 3.0, "GE": 0.5, "HD": -1.0, "PG": -2.0}
    signals = publisher.publish(
        catalog.CORE_SIGNALS_SIGNAL, signal_rows(scores), parents=[bars, responses]
    )
    risk = publisher.publish(
        catalog.OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
        [
            {
                "session": SESSION,
                "scope": scope,
                "name": name,
                "measure": measure,
                "value": value,
                "n": 500,
                "simulated": False,
            }
            for scope, name, measure, value in (
                ("book", "reference", "var_95_pct", 1.7),
                ("book", "reference", "beta", 0.9),
                ("symbol", "KO", "beta", 0.6),
            )
        ],
        parents=[bars],
    )
    publisher.publish(
        catalog.OUT_REPORTS_DAILY,
        {
            **dict.fromkeys((item.name for item in catalog.OUT_REPORTS_DAILY.fields), "text"),
            "session": SESSION.isoformat(),
        },
        parents=[signals, risk],
        export=b"<!doctype html><title>day</title>",
    )
    return dict(publisher.refs)
