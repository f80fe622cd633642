"""The gate for our own numbers: what breaks its contract is not published, and not mended."""

from __future__ import annotations

import polars as pl

from marketlake.contracts import Contract
from marketlake.errors import GateFailed
from marketlake.pipelines.context import RunContext
from marketlake.quality.gate import judge
from marketlake.types import Partition


def refuse_bad(
    ctx: RunContext, contract: Contract, partition: Partition, frame: pl.DataFrame
) -> None:
    """Raise GateFailed when any row breaks its contract: our own numbers get no quarantine."""
    judgement = judge(
        contract, frame.to_pandas(), partition=partition, max_quarantined_fraction=1.0
    )
    bad = judgement.report["rows_quarantined"]
    passed = not bad and judgement.report["verdict"] == "passed"
    ctx.ledger.record(
        "gate",
        contract=contract.name,
        partition=partition.key,
        verdict="passed" if passed else "failed",
        rows_in=judgement.report["rows_in"],
        rows_quarantined=bad,
    )
    if not passed:
        reasons = sorted(set(judgement.quarantined["check"])) if bad else ["table-level check"]
        raise GateFailed(
            expected=f"every row of {contract.name} inside its contract",
            was=f"{bad} bad rows: {'; '.join(reasons)}",
            where=f"{contract.name}/{partition.key}",
            todo="this is a fault of the computation or its inputs; nothing was published",
        )
