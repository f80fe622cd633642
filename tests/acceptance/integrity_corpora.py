"""What the integrity rules and repair make of one source on its own, on real data.

Faults are put into StockNet's Yahoo prices at seeded cells and looked for without any peer; the
maintainers of yfinance have given the right answers to real faults. No half of the symbols is
unseen: the rules were looked at on the faults of the half ``report`` and on the untouched bars of
both, and repair was narrowed until it left the clean controls alone. Only the faults of the half
``tune`` came after the rules.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from marketlake.calendars import Calendar
from marketlake.domain.integrity import (
    ACTION_SCHEMA,
    Basis,
    Limits,
    Reference,
    alarms,
    apply,
    detect,
    propose,
    revert,
)

from tests.acceptance import figures
from tests.corpora.price_faults import BAR, FAULTS, Injected, draw_cells, inject
from tests.corpora.vendor_histories import stocknet

CELLS = 220
TOLERANCE = 0.001
FALSE_ALARMS = 0.5
SMALL_MOVE = 0.01
"""Twice the discrepancy threshold: faults that move the close by less are scored apart."""
SPIKE_CASES = ("-100x-error", "-bad-stock-split", "-bad-unit", "-missing-div-adjust")
FIELDS = dict(
    zip(
        (*BAR, "adj_close_usd"),
        ("Open", "High", "Low", "Close", "Volume", "Adj Close"),
        strict=True,
    )
)
NAMED = {
    "x100": ("unit",),
    "split_not_applied": ("split_not_applied", "split_missing"),
    "dividend_adjusted": ("dividend_adjustment",),
    "stale_repeat": ("stale_repeat",),
    "swapped_ohlc": ("swapped_ohlc",),
    "wrong_day": ("wrong_day",),
    "one_venue_print": ("thin_volume",),
    "price_spike": ("price_spike", "spike_reverted"),
    "duplicate": ("duplicate_bar",),
    "missing_day": ("missing_bar",),
}
_RULES = [rule for rules in NAMED.values() for rule in rules]
_SERIES = ["symbol", "source"]


def half(bars: pl.DataFrame, which: str) -> pl.DataFrame:
    """Return the bars of every other symbol: ``tune`` or ``report``."""
    names = bars["symbol"].unique().sort().to_list()
    return bars.filter(pl.col("symbol").is_in(names[0 if which == "tune" else 1 :: 2]))


def reference(actions: pl.DataFrame | None = None, *, basis: Basis = "split_adjusted") -> Reference:
    """Return New York's calendar with the actions that make a fault one."""
    base = Reference(calendar=Calendar.of("XNYS"), basis=basis)
    return base if actions is None else replace(base, actions=actions)


def one_source(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the bars as those of one source."""
    return bars.with_columns(source=pl.lit("yahoo"))


def scored(injected: Injected, *, basis: Basis = "split_adjusted") -> dict[str, Any]:
    """Return how one fault class was found: a row a cell, and what else alarmed."""
    bars = one_source(injected.frame)
    found = alarms(detect(bars, reference(injected.actions, basis=basis)))
    fault = injected.cells["fault"][0]
    order = {rule: number for number, rule in enumerate([*NAMED[fault], *_RULES])}
    sessions = bars["session"].unique().sort().to_list()
    following = dict(zip(sessions, [*sessions[1:], None], strict=True))
    windows = injected.cells.with_row_index("cell").with_columns(
        after=pl.col("last_session").replace_strict(following)
    )
    # The bar after a fault shows it too: the way back, or the bar that came a day early.
    hits = found.join(windows, on="symbol").filter(
        pl.col("session") >= pl.col("session_right"), pl.col("session") <= pl.col("after")
    )
    inside = pl.col("session") <= pl.col("last_session")
    named = (
        hits.with_columns(
            rank=pl.col("rule").replace_strict(order, default=99, return_dtype=pl.Int64)
            + pl.when(inside).then(0).otherwise(50)
        )
        .sort("rank")
        .group_by("cell", maintain_order=True)
        .agg(pl.first("rule"))
    )
    cells = windows.join(named, on="cell", how="left")
    own = found.filter(pl.col("rule").is_in(NAMED[fault]))
    mine = hits.filter(pl.col("rule").is_in(NAMED[fault]))
    small = pl.col("close_move") < SMALL_MOVE
    if fault in ("duplicate", "missing_day"):
        small = pl.lit(value=False)
    right = pl.col("rule").is_in(NAMED[fault])
    large = cells.filter(~small)
    key = ["session", "symbol", "rule"]
    return {
        "cells": large.height,
        "found": large["rule"].is_not_null().mean(),
        "recall": large.select(right.fill_null(value=False).mean()).item(),
        "precision": mine.unique(key).height / max(own.unique(key).height, 1),
        "confusion": dict(Counter(str(rule) for rule in cells["rule"])),
        "small": {
            "cells": cells.height - large.height,
            "recall": cells.filter(small).select(right.fill_null(value=False).mean()).item(),
        },
    }


def repaired(clean: pl.DataFrame, injected: Injected) -> dict[str, Any]:
    """Return how many cells of a fault repair brings back, and how many others it changes."""
    bars = one_source(injected.frame)
    proposals = propose(bars, injected.actions)
    got = apply(bars, proposals)
    if not revert(got, proposals).equals(bars):
        raise AssertionError("revert is not the inverse of apply")
    both = got.join(one_source(clean), on=["session", *_SERIES], suffix="_clean")
    before = bars.join(one_source(clean), on=["session", *_SERIES], suffix="_clean")
    off = pl.any_horizontal(
        (pl.col(name) / pl.col(f"{name}_clean") - 1.0).abs() > TOLERANCE for name in BAR[:4]
    )
    wrong, still = before.filter(off), both.filter(off)
    key = ["session", *_SERIES]
    return {
        "bars_wrong": wrong.height,
        "repaired": wrong.join(still, on=key, how="anti").height,
        "spoiled": still.join(wrong, on=key, how="anti").height,
    }


def injected_faults(bars: pl.DataFrame, *, cells: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return the score of every fault class in ``bars``."""
    result = {}
    for number, fault in enumerate(FAULTS):
        chosen = draw_cells(bars, cells, seed=seed + number)
        injected = inject(bars, fault, chosen, seed=seed)
        result[fault] = scored(injected)
        if fault in ("x100", "split_not_applied", "swapped_ohlc"):
            result[fault]["repair"] = repaired(bars, injected)
    return result


def untouched(bars: pl.DataFrame) -> dict[str, Any]:
    """Return the alarms per symbol-year on the data as they are."""
    years = bars.height / 252
    strict = replace(reference(), limits=Limits(volume_confirms=False))
    found = detect(one_source(bars), reference())
    return {
        "symbol_years": years,
        "alarms_per_symbol_year": alarms(found).height / years,
        "with_spikes_on_unusual_volume": alarms(detect(one_source(bars), strict)).height / years,
        "by_rule": {
            f"{rule}, {severity}": n / years
            for rule, severity, n in found.group_by("rule", "severity").len().sort("rule").rows()
        },
        "proposals": propose(one_source(bars), reference().actions).height,
    }


def read_case(text: bytes) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the bars and actions of one file of yfinance's repair tests."""
    rows = pl.read_csv(io.BytesIO(text), infer_schema_length=0)
    stamp = pl.col(rows.columns[0]).str.slice(0, 19).str.to_datetime()
    rows = rows.with_columns(
        session=stamp,
        symbol=pl.lit("CASE"),
        source=pl.lit("yahoo"),
        dividend_usd=pl.col("Dividends").cast(pl.Float64),
        split_ratio=pl.col("Stock Splits").cast(pl.Float64),
        **{new: pl.col(old).cast(pl.Float64) for new, old in FIELDS.items()},
    )
    actions = rows.select(
        "session",
        "symbol",
        *(pl.when(pl.col(name) > 0).then(name) for name in ("split_ratio", "dividend_usd")),
    ).filter(pl.any_horizontal(pl.col("split_ratio", "dividend_usd").is_not_null()))
    return rows.select("session", "symbol", "source", *FIELDS), actions


def maintainers_cases(shared_data: Path) -> list[dict[str, Any]]:
    """Return what repair makes of each real case, against the maintainers' answer."""
    archive = shared_data / "yfinance_price_repair" / "yfinance_repair_pairs.zip"
    with zipfile.ZipFile(archive) as zipped:
        files = {Path(n).stem: zipped.read(n) for n in zipped.namelist() if n.endswith(".csv")}
    cases = []
    for name, text in sorted(files.items()):
        if name.endswith("-fixed"):
            continue
        bars, actions = read_case(text)
        proposals = propose(bars, actions)
        got = apply(bars, proposals)
        if not revert(got, proposals).equals(bars):
            raise AssertionError(f"{name}: revert is not the inverse of apply")
        control = f"{name}-fixed" not in files
        answer = bars if control else read_case(files[f"{name}-fixed"])[0]
        found = alarms(detect(bars, Reference(actions=actions)))
        cases.append(
            {
                "case": name,
                "kind": _kind(name),
                "cells_wrong": _off(bars, answer),
                "cells_changed": proposals.height,
                "cells_wrong_after": _off(got, answer),
                "rules": dict(sorted(proposals.group_by("rule").len().rows())),
                "dividend_findings": found.filter(
                    pl.col("rule").str.starts_with("dividend")
                ).height,
            }
        )
    return cases


def _kind(name: str) -> str:
    if "no-bad" in name:
        return "control"
    return "price" if name.endswith(SPIKE_CASES) else "dividend"


def _off(bars: pl.DataFrame, answer: pl.DataFrame) -> int:
    """Return how many cells are further than 0.1 % from the answer."""
    both = bars.join(answer, on=["session", *_SERIES], suffix="_right")
    if both.height != bars.height:
        raise AssertionError("the answer has other bars than the case")
    return sum(
        both.filter(
            (pl.col(name) - pl.col(f"{name}_right")).abs()
            > TOLERANCE * pl.col(f"{name}_right").abs()
        ).height
        for name in FIELDS
    )


def gamestop(shared_data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return GME through January 2021 with a second source, and the split of July 2022.

    The second source is the first with its own last trades: nobody recorded another one.
    """
    with zipfile.ZipFile(shared_data / "text_wsb_2020_2021" / "text_wsb_2020_2021.zip") as zipped:
        rows = pl.read_csv(io.BytesIO(zipped.read("market_prices.csv")), infer_schema_length=0)
    first = rows.filter(pl.col("symbol") == "GME").select(
        pl.col("date").str.to_date().alias("session"),
        "symbol",
        pl.lit("yahoo").alias("source"),
        *(
            pl.col(old.lower()).cast(pl.Float64, strict=False).alias(new)
            for new, old in list(FIELDS.items())[:5]
        ),
    )
    first = first.filter(pl.col("volume_shares").is_not_nan() & (pl.col("volume_shares") > 0))
    near = pl.int_range(pl.len()).mod(7).cast(pl.Float64) * 2e-4 + 0.9994
    second = first.with_columns(
        pl.lit("iex").alias("source"),
        *(pl.col(name) * near for name in BAR[:4]),
        volume_shares=pl.col("volume_shares") * 0.03,
    )
    split = pl.DataFrame(
        {
            "session": [first["session"].max()],
            "symbol": ["GME"],
            "split_ratio": [4.0],
            "dividend_usd": [None],
        },
        schema=ACTION_SCHEMA,
    )
    return pl.concat([first, second]), split


def true_spikes(shared_data: Path) -> dict[str, Any]:
    """Return what is said of GME's spikes alone and with a second source; nothing is repaired."""
    bars, split = gamestop(shared_data)
    spike = pl.col("rule").is_in(["price_spike", "split_missing", "spike_reverted", "unit"])
    alone = detect(bars.filter(pl.col("source") == "yahoo"), reference(split)).filter(spike)
    both = detect(bars, reference(split)).filter(spike)
    return {
        "bars": bars.height // 2,
        "spikes": both.filter(pl.col("source") == "yahoo").height,
        "alarms_alone": alarms(alone).height,
        "alarms_with_second_source": alarms(both).height,
        "proposals": propose(bars, split).height,
    }


def speed(bars: pl.DataFrame, *, symbols: int = 500, sessions: int = 2520) -> dict[str, Any]:
    """Return seconds for a history of ``symbols`` made of the real one, tiled."""
    calendar = Calendar.of("XNYS")
    last = bars["session"].max()
    days = pl.DataFrame({"session": calendar.window(last, sessions)}).with_row_index("day")
    own = bars.with_columns(day=pl.int_range(pl.len(), dtype=pl.UInt32).over("symbol"))
    names = own["symbol"].unique().sort().to_list()
    whole = own.select(pl.max("day")).item() + 1
    tiled = pl.concat(
        own.filter(pl.col("symbol") == names[n % len(names)]).with_columns(
            pl.col("volume_shares") + n, symbol=pl.lit(f"S{n:03d}")
        )
        for n in range(symbols)
    )
    tiled = pl.concat(
        tiled.with_columns(day=(pl.col("day") + part * whole).cast(pl.UInt32))
        for part in range(sessions // whole)
    )
    tiled = one_source(tiled.drop("session").join(days, on="day").drop("day"))
    began, cpu = time.perf_counter(), time.process_time()
    found = detect(tiled, reference())
    detected, cpu_detected = time.perf_counter(), time.process_time()
    propose(tiled, reference().actions)
    return {
        "bars": tiled.height,
        "findings": found.height,
        "detect_s": detected - began,
        "detect_cpu_s": cpu_detected - cpu,
        "propose_s": time.perf_counter() - detected,
        "propose_cpu_s": time.process_time() - cpu_detected,
    }


def measure(shared_data: Path, *, cells: int = CELLS, seed: int = 11) -> dict[str, Any]:
    """Return every figure."""
    bars = stocknet(shared_data)
    own = half(bars, "report")
    return {
        "cells_a_class": cells,
        "injected": injected_faults(own, cells=cells, seed=seed),
        "injected_other_half": injected_faults(half(bars, "tune"), cells=cells, seed=77),
        "untouched": {which: untouched(half(bars, which)) for which in ("tune", "report")},
        "cases": maintainers_cases(shared_data),
        "true_spikes": true_spikes(shared_data),
        "speed": speed(bars),
    }


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were not met."""
    cases = found["cases"]
    wrong = [c["case"] for c in cases if c["kind"] == "price" and c["cells_wrong_after"]]
    wrong += [c["case"] for c in cases if c["kind"] == "control" and c["cells_changed"]]
    wrong += [
        f"{fault}: repair spoiled clean bars"
        for which in ("injected", "injected_other_half")
        for fault, one in found[which].items()
        if one.get("repair", {}).get("spoiled")
    ]
    if found["untouched"]["report"]["alarms_per_symbol_year"] > FALSE_ALARMS:
        wrong.append("false alarms")
    if found["true_spikes"]["alarms_with_second_source"] or found["true_spikes"]["proposals"]:
        wrong.append("true spikes")
    return wrong


def show_alone(title: str, scores: dict[str, dict[str, Any]]) -> None:
    """Print how each fault was found in one source, a row a fault."""
    figures.table(
        title,
        ("fault", "cells", "found", "named", "precision", "small", "named", "what was said"),
        [
            (
                fault,
                one["cells"],
                one["found"],
                one["recall"],
                one["precision"],
                one["small"]["cells"],
                one["small"]["recall"] or 0.0,
                ", ".join(f"{rule} {n}" for rule, n in sorted(one["confusion"].items())),
            )
            for fault, one in scores.items()
        ],
    )


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    show_alone("Faults at seeded cells, one source", found["injected"])
    for fault, one in found["injected"].items():
        if "repair" in one:
            figures.say(f"repair of {fault}: {one['repair']}")
    figures.table(
        "Real cases against the maintainers' answers",
        ("case", "kind", "wrong", "changed", "wrong after", "dividend findings"),
        [
            (
                c["case"],
                c["kind"],
                c["cells_wrong"],
                c["cells_changed"],
                c["cells_wrong_after"],
                c["dividend_findings"],
            )
            for c in found["cases"]
        ],
    )
    for name in ("untouched", "true_spikes", "speed"):
        figures.say(f"{name}: {found[name]}")
