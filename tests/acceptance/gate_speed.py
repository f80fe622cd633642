"""The fast kernel against Great Expectations on one candidate, in turns, answers compared first.

What is timed of Great Expectations is its own work alone; of the kernel, the whole call with its
quarantine. The gate of record in full is shown beside them.
"""

from __future__ import annotations

import statistics
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from marketlake.clock import monotonic_s
from marketlake.contracts import gx
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR as BAR
from marketlake.contracts.model import Check
from marketlake.quality.gate import as_judged, great_expectations_answers, judge
from marketlake.quality.kernel import judge_fast
from marketlake.types import Partition

from tests.acceptance import figures
from tests.acceptance.made_bars import made_bars

TARGET_TIMES = 5.0
_FAULTS_A_CHECK = 100
_CHRISTMAS = date(2022, 12, 25)


def candidate(rows: int, *, seed: int = 11) -> pl.DataFrame:
    """Return made bars, of which a hundred are spoiled for every check of a row."""
    frame = pl.DataFrame(made_bars(rows))
    random = np.random.default_rng(seed)
    for check in BAR.checks:
        if check.name in {"unique", "row_count"}:
            continue
        column = check.columns[0]
        hit = pl.int_range(pl.len()).is_in(random.choice(rows, _FAULTS_A_CHECK).tolist())
        frame = frame.with_columns(
            pl.when(hit).then(_spoiled(check)).otherwise(column).alias(column)
        )
    return pl.concat([frame, frame[:_FAULTS_A_CHECK]])


def _spoiled(check: Check) -> pl.Expr:
    if check.name == "not_above":
        return pl.col(check.columns[1]) * 1.5
    return {
        "not_null": pl.lit(None),
        "in_range": pl.lit(check.params.get("min", 0.0) - 1.0),
        "only_sessions": pl.lit(_CHRISTMAS),
    }[check.name]


def measure(*, rows: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each, by rounds, after finding their answers the same."""
    bars = candidate(rows)
    partition = Partition.of_session(bars["session"].max())  # type: ignore[arg-type]
    as_pandas = bars.to_pandas()
    table = as_judged(BAR, as_pandas)
    with tempfile.TemporaryDirectory() as folder:
        suites = Path(folder)
        (suites / f"{BAR.name}.json").write_text(gx.render_suite(BAR), encoding="utf-8")
        began = monotonic_s()
        of_record = judge(
            BAR, as_pandas, partition=partition, max_quarantined_fraction=1.0, suites=suites
        )
        whole_gate_s = monotonic_s() - began
        fast = judge_fast(BAR, bars, partition=partition)
        failing = _require_same(of_record.report["results"], fast.answers)
        if not fast.quarantined.equals(pl.from_pandas(of_record.quarantined)):
            raise SystemExit("the kernel and the gate of record quarantine other rows")
        peer, ours = [], []
        for number in range(1, rounds + 1):
            began = monotonic_s()
            great_expectations_answers(BAR, table, partition=partition, suites=suites)
            peer.append(monotonic_s() - began)
            began = monotonic_s()
            judge_fast(BAR, bars, partition=partition)
            ours.append(monotonic_s() - began)
            figures.say(f"round {number}: {peer[-1]:.2f} s and {ours[-1]:.2f} s")
    return {
        "rows": bars.height,
        "checks": len(BAR.checks),
        "failing_rows_by_check": failing,
        "great_expectations_s": peer,
        "kernel_s": ours,
        "whole_gate_of_record_s": whole_gate_s,
        "times_faster": statistics.median(peer) / statistics.median(ours),
        "target_times_faster": TARGET_TIMES,
    }


def _require_same(results: list[dict[str, Any]], answers: Any) -> dict[str, int]:
    of_record = {
        (one["check"], one["severity"]): [row["row_no"] for row in one["failing_rows"]]
        for one in results
        if one["type"] != "gate_rule"
    }
    fast = {(one.check, one.severity): one.rows.tolist() for one in answers}
    if of_record != fast:
        raise SystemExit("the kernel and the gate of record find other rows")
    if not all(rows for (check, _), rows in fast.items() if not check.startswith("row_count")):
        raise SystemExit("a check found no row: the candidate proves less than it should")
    return {f"{check} {severity}": len(rows) for (check, severity), rows in fast.items()}


def show(found: dict[str, Any]) -> None:
    """Print the seconds as a table."""
    figures.table(
        f"{found['rows']:,} rows, {found['checks']} checks",
        ("round", "Great Expectations, s", "kernel, s"),
        [
            (number, *pair)
            for number, pair in enumerate(
                zip(found["great_expectations_s"], found["kernel_s"], strict=True), start=1
            )
        ],
    )
    figures.say(f"{found['times_faster']:.1f} times faster, at least {TARGET_TIMES:g} asked")


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were not met."""
    slow = found["times_faster"] < TARGET_TIMES
    return [f"only {found['times_faster']:.1f} times faster"] if slow else []
