"""Known faults as they arrive: a real history replayed by the vendor sandbox to the three clients.

The sandbox shows StockNet's prices as Yahoo, Alpha Vantage and IEX; rules at seeded cells make one
of them faulty, its real client reads what it sends, and consensus and integrity rules judge the
bars that come out. Each class has a namespace of its own, so the clean answers are fetched once.

Splits and dividends are not in the recording. For the two classes that need them a second market
has made ones, told by the vendors in their own ways. What a vendor cannot say decides which one is
faulty: only IEX shows a row twice (yfinance and Alpha Vantage's JSON object keep one of them, and
a second row with another close cannot be asked of the sandbox), only Yahoo adjusts for splits.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from marketlake.calendars import Calendar
from marketlake.domain import consensus, prices
from marketlake.domain.integrity import alarms, detect
from marketlake.services.sandbox.embedded import RunningSandbox, running_sandbox
from marketlake.settings import Settings
from marketlake.sources.catalog import ONE_VENUE, open_source
from marketlake.sources.recording import VendorCall

from tests.acceptance import figures
from tests.acceptance.consensus_faults import (
    CELLS,
    FALSE_ALARMS,
    Tally,
    half,
    missed_scores,
    show_scores,
)
from tests.acceptance.integrity_corpora import one_source, reference, scored, show_alone
from tests.corpora.price_faults import (
    ACTION_SCHEMA,
    BAR,
    FAULTS,
    PRICES,
    SPLIT_RATIOS,
    Injected,
    draw_cells,
)
from tests.corpora.vendor_histories import stocknet

SOURCES = ("yahoo", "alpha_vantage", "iex")
FAULTY = {
    "x100": "yahoo",
    "split_not_applied": "yahoo",
    "dividend_adjusted": "alpha_vantage",
    "stale_repeat": "alpha_vantage",
    "swapped_ohlc": "iex",
    "wrong_day": "yahoo",
    "one_venue_print": "alpha_vantage",
    "price_spike": "iex",
    "duplicate": "iex",
    "missing_day": "alpha_vantage",
}
"""Which vendor is faulty, by class."""
OF_ACTIONS = ("split_not_applied", "dividend_adjusted")
DIFFERENCE_BPS = 4.0
"""Whole bars are off by up to this much: about the 2 basis points of the frames' third copy."""
_KEY = ["session", "symbol"]
_MADE_ACTIONS = {
    "session": pl.Date,
    "symbol": pl.String,
    "split": pl.Float64,
    "paid": pl.Float64,
}
LEAST_CELLS = 200
PATIENCE_S = 120.0
"""For one answer: figures of a busy machine are the same, only later."""
IEX_SYMBOLS_A_CALL = 7
"""Whose bars of five years fit one page: the sandbox makes every page from the whole answer."""
_CLOSES = ["close_usd", "adj_close_usd"]

Rule = tuple[str, dict[str, Any]]  # its kind and its args without the sessions


@dataclass(frozen=True)
class Cell:
    """A run of sessions of one symbol, and the rules that spoil it."""

    symbol: str
    sessions: tuple[date, ...]
    detail: float
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Told:
    """What one source said: ``raw`` as its client gave it, ``bars`` as traded, its actions."""

    raw: pl.DataFrame
    bars: pl.DataFrame
    actions: pl.DataFrame


@dataclass(frozen=True)
class Arrived:
    """The cells whose bars came changed, how many did not, and how many other bars did."""

    cells: pl.DataFrame
    unchanged: int
    beside: int


class Market:
    """A folder of bars behind a sandbox, and the three clients that look at it."""

    def __init__(self, sandbox: RunningSandbox, settings: Settings, bars: pl.DataFrame) -> None:
        self._sandbox = sandbox
        self._settings = settings
        self._calendar = Calendar.of(settings.market.calendar)
        self._symbols = bars["symbol"].unique().sort().to_list()
        self.sessions: list[date] = bars["session"].unique().sort().to_list()
        self.calls: list[VendorCall] = []
        self.clean = {name: self.told(name, "untouched") for name in SOURCES}

    def told(self, name: str, namespace: str) -> Told:
        """Fetch every symbol's whole history from one source."""
        egress = self._sandbox.egress(namespace)
        source = open_source(name, self._settings.model_copy(update={"egress": egress}))
        first, last = self.sessions[0], self.sessions[-1]
        bars, actions = [], []
        step = source.plan.symbols_a_call
        for start in range(0, len(self._symbols), step):
            answers = source.fetch(
                self._symbols[start : start + step],
                first,
                last,
                as_of=last,
                calendar=self._calendar,
                on_call=self.calls.append,
            )
            if answers.left_out:
                raise AssertionError(f"{name}: nothing of {', '.join(answers.left_out)}")
            bars += [history.bars for history in answers.histories.values()]
            actions += [history.actions for history in answers.histories.values()]
        raw = pl.concat(bars).with_columns(source=pl.lit(name))
        own = pl.concat(actions).select(list(ACTION_SCHEMA))
        if source.semantics.basis == "as_traded":
            return Told(raw, raw, own)
        as_traded = consensus.normalise(raw, own, semantics={name: source.semantics}, as_of=last)
        return Told(raw, as_traded, prices.unadjust_dividends(own, own))

    def spoil(self, fault: str, cells: Iterable[Cell]) -> None:
        """Ask the sandbox for the faults, a cell's rules in their order; like cells share one."""
        alike: dict[tuple[int, str, str, str], list[date]] = {}
        for cell in cells:
            for number, (kind, args) in enumerate(cell.rules):
                key = (number, cell.symbol, kind, json.dumps(args))
                alike.setdefault(key, []).extend(cell.sessions)
        for (_, symbol, kind, args), sessions in sorted(alike.items()):
            rule = {
                "kind": kind,
                "namespace": fault,
                "vendor": FAULTY[fault],
                "symbol": symbol,
                "args": {**json.loads(args), "sessions": [day.isoformat() for day in sessions]},
            }
            self._sandbox.control("POST", "/__ctl/faults", rule)

    def judged(self, told: dict[str, Told]) -> tuple[consensus.Consensus, pl.DataFrame]:
        """Return the consensus of three sources and its episodes."""
        actions = union(told)
        found = consensus.reconcile(
            pl.concat(one.bars.select("source", *_KEY, *BAR) for one in told.values()),
            actions,
            sessions=self.sessions,
            one_venue=ONE_VENUE,
            preference=SOURCES,
        )
        return found, consensus.episodes(found, actions)


def union(told: dict[str, Told]) -> pl.DataFrame:
    """Return one row an action: that of the first source that tells it."""
    return pl.concat(one.actions for one in told.values()).unique(
        [*_KEY, "kind"], keep="first", maintain_order=True
    )


@contextmanager
def replayed(bars: pl.DataFrame, actions: pl.DataFrame) -> Iterator[Market]:
    """Serve split-adjusted bars with their actions as a market, and open the clients."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bars"
        folder.mkdir()
        as_traded(bars, actions).write_parquet(folder / "bars.parquet")
        settings = Settings(
            home=Path(scratch) / "home",
            market={"name": "folder"},
            yahoo={"timeout_s": PATIENCE_S},
            alpha_vantage={"api_key": "key", "plan": "premium", "timeout_s": PATIENCE_S},
            iex={
                "api_key": "key",
                "secret_key": "secret",
                "timeout_s": PATIENCE_S,
                "batch_symbols": IEX_SYMBOLS_A_CALL,
            },
            sandbox={
                **dict.fromkeys(("http_port", "tls_port", "proxy_port"), 0),
                "control_token": "wire",
                "data": folder,
                "difference_bps": DIFFERENCE_BPS,
            },
        )
        with running_sandbox(settings) as sandbox:
            yield Market(sandbox, settings, bars)


def as_traded(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a sandbox's folder of bars."""
    split = pl.col("split").fill_null(1.0)
    # An ex-date's own bar is on the new basis already.
    later = (split.cum_prod(reverse=True) / split).over("symbol")
    return (
        bars.join(actions, on=_KEY, how="left")
        .sort("symbol", "session")
        .select(
            "symbol",
            "paid",
            "split",
            pl.col("session").alias("date"),
            *(pl.col(name) * later for name in PRICES),
            pl.col("volume_shares") / later,
        )
        .with_columns(dividend=pl.col("paid") * pl.col("close_usd").shift(1).over("symbol"))
        .rename({name: name.rpartition("_")[0] for name in BAR})
    )


def with_actions(
    bars: pl.DataFrame, *, cells: int, seed: int
) -> tuple[pl.DataFrame, dict[str, list[Cell]]]:
    """Make splits and dividends in turns, and runs before them that they did not reach.

    Returns the actions (``split``: new shares per old; ``paid``: part of the close before) and the
    cells by class. A symbol's splits undo each other by pairs, so that its prices stay prices.
    """
    rng = np.random.default_rng([seed, 1])
    made: dict[str, list[Cell]] = {fault: [] for fault in OF_ACTIONS}
    rows: list[tuple[date, str, float | None, float | None]] = []
    sessions = bars["session"].unique().sort().to_list()
    drawn = draw_cells(bars, cells, seed=seed)
    for (symbol,), own in drawn.sort("symbol", "session").group_by("symbol", maintain_order=True):
        undo = None
        for number, session in enumerate(own["session"]):
            at = sessions.index(session)
            *run, ex_date = sessions[at : at + int(rng.integers(3, 16)) + 1]
            if number % 2:
                factor = float(1.0 - rng.uniform(0.003, 0.025))
                rule = ("outlier", {"factor": factor})
                made["dividend_adjusted"].append(Cell(symbol, tuple(run), factor, (rule,)))
                rows.append((ex_date, symbol, None, 1.0 - factor))
                continue
            ratio = undo or float(rng.choice(SPLIT_RATIOS))
            undo = None if undo else 1.0 / ratio
            rule = ("split_unadjusted", {"ratio": ratio})
            made["split_not_applied"].append(Cell(symbol, tuple(run), ratio, (rule,)))
            rows.append((ex_date, symbol, ratio, None))
    return pl.DataFrame(rows, _MADE_ACTIONS, orient="row"), made


def of_one_bar(fault: str, bars: pl.DataFrame, *, cells: int, seed: int) -> list[Cell]:
    """Draw the cells of a class that needs no action."""
    rng = np.random.default_rng([seed, FAULTS.index(fault)])
    drawn = bars.join(draw_cells(bars, cells, seed=seed), on=_KEY, how="semi")
    made = []
    for row in drawn.sort("symbol", "session").iter_rows(named=True):
        detail, rules = _rules(fault, row, rng)
        made.append(Cell(row["symbol"], (row["session"],), detail, rules))
    return made


def _rules(
    fault: str, bar: dict[str, Any], rng: np.random.Generator
) -> tuple[float, tuple[Rule, ...]]:
    """Return a cell's detail and its rules: the changes of ``price_faults``, as rules can say."""
    if fault == "x100":
        factor = float(rng.choice([100.0, 0.01]))
        alone = {"fields": _CLOSES} if rng.random() < 0.3 else {}
        return factor, (("outlier", {"factor": factor, **alone}),)
    if fault == "swapped_ohlc":
        if rng.random() < 0.2:
            return 0.0, (("swapped_high_low", {}),)
        # Each turn moves the four prices by one place: the close becomes the open, high or low.
        turns = int(rng.integers(1, 4))
        return float(turns), (("swapped_ohlc", {}),) * turns
    if fault == "wrong_day":
        shift = 1 if rng.random() < 0.3 else -int(rng.integers(2, 6))
        return float(shift), (("wrong_day", {"shift": shift}),)
    if fault == "one_venue_print":
        # Tenths of a percent, so that cells can share a rule.
        pct = float(rng.choice([-1, 1]) * rng.integers(2, 31)) / 10.0
        return pct, (("one_venue_print", {"pct": pct}),)
    if fault == "price_spike":
        factor = float(1.0 + rng.choice([-1.0, 1.0]) * rng.uniform(0.11, 0.40))
        close = bar["close_usd"] * factor
        name = "high_usd" if factor > 1.0 else "low_usd"
        reach = (max if factor > 1.0 else min)(close / bar[name], 1.0)
        spoiled = ("outlier", {"factor": factor, "fields": _CLOSES})
        return factor, (spoiled, ("outlier", {"factor": reach, "fields": [name]}))
    kind = {"stale_repeat": "stale_repeat", "duplicate": "dup_rows", "missing_day": "missing_days"}
    return 0.0, ((kind[fault], {}),)


def arrived(fault: str, cells: list[Cell], clean: pl.DataFrame, got: pl.DataFrame) -> Arrived:
    """Return the cells as they came over the wire: what changed in them, and what beside them."""
    spoilt = pl.DataFrame(
        [
            (number, cell.symbol, session)
            for number, cell in enumerate(cells)
            for session in cell.sessions
        ],
        {"cell": pl.Int64, "symbol": pl.String, "session": pl.Date},
        orient="row",
    )
    rows = got.group_by(_KEY).agg(pl.len().alias("rows"), pl.col(BAR).first().name.suffix("_got"))
    both = clean.select(*_KEY, *BAR).join(rows, on=_KEY, how="left")
    same = pl.all_horizontal(pl.col(name) == pl.col(f"{name}_got") for name in BAR)
    changed = both.with_columns(
        same=(same & (pl.col("rows") == 1)).fill_null(value=False),
        move=(pl.col("close_usd_got") / pl.col("close_usd") - 1.0).abs().fill_null(0.0),
    )
    hit = (
        changed.join(spoilt, on=_KEY)
        .group_by("cell")
        .agg(close_move=pl.col("move").max(), same=pl.col("same").all())
        .sort("cell")
    )
    beside = changed.filter(~pl.col("same")).join(spoilt, on=_KEY, how="anti").height
    table = pl.DataFrame(
        {
            "symbol": [cell.symbol for cell in cells],
            "session": [cell.sessions[0] for cell in cells],
            "last_session": [cell.sessions[-1] for cell in cells],
            "fault": fault,
            "detail": [cell.detail for cell in cells],
            "close_move": hit["close_move"],
        }
    )
    # A fault that says what the bar said anyway (a bar whose prices are all one) is none.
    return Arrived(table.filter(~hit["same"]), hit["same"].sum(), beside)


def measure(
    shared_data: Path, *, which: str = "report", cells: int = CELLS, seed: int = 11
) -> dict[str, Any]:
    """Return all figures of one half of the symbols."""
    began = time.perf_counter()
    bars = half(stocknet(shared_data), which)
    recorded = {
        fault: of_one_bar(fault, bars, cells=cells, seed=seed + number)
        for number, fault in enumerate(FAULTS)
        if fault not in OF_ACTIONS
    }
    actions, before_actions = with_actions(bars, cells=cells, seed=seed)
    tally = Tally()
    worlds = {
        "as_recorded": replay(bars, pl.DataFrame(schema=_MADE_ACTIONS), recorded, tally),
        "with_made_actions": replay(bars, actions, before_actions, tally),
    }
    return {
        "half": which,
        "symbols": bars["symbol"].n_unique(),
        "bars": bars.height,
        "difference_bps": DIFFERENCE_BPS,
        "with_peers": tally.as_found(),
        **{
            part: {fault: row for world in worlds.values() for fault, row in world[part].items()}
            for part in ("wire", "single_source")
        },
        "untouched": {name: world["untouched"] for name, world in worlds.items()},
        "vendor_calls": sum(world["vendor_calls"] for world in worlds.values()),
        "seconds": time.perf_counter() - began,
    }


def replay(
    bars: pl.DataFrame, actions: pl.DataFrame, cells: dict[str, list[Cell]], tally: Tally
) -> dict[str, Any]:
    """Show one market untouched and with each class of faults; count what is said of them."""
    wire, alone = {}, {}
    with replayed(bars, actions) as market:
        clean = untouched(market)
        for fault, spoilt in cells.items():
            name = FAULTY[fault]
            market.spoil(fault, spoilt)
            told = market.told(name, fault)
            came = arrived(fault, spoilt, market.clean[name].raw, told.raw)
            everyone = {**market.clean, name: told}
            _, runs = market.judged(everyone)
            tally.add(fault, came.cells, name, runs)
            injected = Injected(told.bars, came.cells, union(everyone))
            alone[fault] = scored(injected, basis="as_traded")
            wire[fault] = {
                "vendor": name,
                "injected": len(spoilt),
                "arrived": came.cells.height,
                "no_change": came.unchanged,
                "changed_beside": came.beside,
            }
            figures.say(f"{fault}: {wire[fault]}")
        calls = len(market.calls)
    return {"untouched": clean, "wire": wire, "single_source": alone, "vendor_calls": calls}


def untouched(market: Market) -> dict[str, Any]:
    """Return the alarms on what the vendors say when nothing is spoilt."""
    found, runs = market.judged(market.clean)
    years = found.bars.height / 252.0
    judged_by = reference(union(market.clean), basis="as_traded")
    return {
        "symbol_years": years,
        "with_peers": {
            "runs": runs.height,
            "classes": dict(Counter(runs["class"])),
            "per_symbol_year": runs.height / years,
        },
        "single_source": {
            name: alarms(detect(one_source(told.bars), judged_by)).height / years
            for name, told in market.clean.items()
        },
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    figures.table(
        "What came over the wire",
        ("fault", "faulty vendor", "cells", "arrived", "same as before", "changed beside"),
        [(fault, *one.values()) for fault, one in found["wire"].items()],
    )
    show_scores(
        f"One of three clients' vendors faulty ({found['half']} half, {found['symbols']} symbols)",
        found["with_peers"],
    )
    show_alone("The faulty source on its own", found["single_source"])
    for name, one in found["untouched"].items():
        alone = ", ".join(f"{rate:.3f} {source}" for source, rate in one["single_source"].items())
        figures.say(
            f"untouched, {name}: in {one['symbol_years']:.0f} symbol-years "
            f"{one['with_peers']['per_symbol_year']:.3f} false alarms a symbol-year with peers; "
            f"alone {alone}"
        )
    figures.say(f"{found['vendor_calls']} vendor calls, {found['seconds']:.0f} s")


def missed(found: dict[str, Any]) -> list[str]:
    """Name the targets that are not met."""
    problems = missed_scores(found["with_peers"]["scores"])
    problems += [
        f"false alarms, {name}"
        for name, one in found["untouched"].items()
        if one["with_peers"]["per_symbol_year"] > FALSE_ALARMS
    ]
    for fault, one in found["wire"].items():
        if one["arrived"] < LEAST_CELLS:
            problems.append(f"{fault}: only {one['arrived']} cells arrived")
        if one["changed_beside"]:
            problems.append(f"{fault}: {one['changed_beside']} bars beside its cells changed")
    return problems
