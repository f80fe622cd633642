"""A warehouse of its own for the dbt tests, filled with the packaged market's real returns."""

from __future__ import annotations

import gzip
import importlib.util
import uuid
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from marketlake.calendars import Calendar
from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_QUALITY_DISAGREEMENT,
    CORE_REFERENCE_UNIVERSE_MEMBER,
)
from marketlake.settings import Settings
from marketlake.storage.warehouse import Warehouse

LAST = date(2022, 12, 28)
N_SESSIONS = 3300
BENCHMARK = "^GSPC"


@dataclass(frozen=True)
class Market:
    """Real adjusted closes, and as-traded tables with actions that lead back to them.

    ``adjusted`` is NaN where there is no bar.
    """

    adjusted: pd.DataFrame
    bars: pd.DataFrame
    actions: pd.DataFrame
    members: pd.DataFrame
    disagreements: pd.DataFrame

    def table(self, frame: pd.DataFrame, first: date, last: date) -> pa.Table:
        """Return the rows of some sessions as Arrow."""
        wanted = frame[(frame["session"] >= first) & (frame["session"] <= last)]
        return pa.Table.from_pandas(wanted, preserve_index=False)


def real_adjusted_closes() -> pd.DataFrame:
    """Return skfolio's adjusted closes of 20 stocks and the S&P 500, session by symbol."""
    spec = importlib.util.find_spec("skfolio")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "data"

    def read(name: str) -> pd.DataFrame:
        with gzip.open(folder / name, "rt") as stream:
            return pd.read_csv(stream, index_col=0, parse_dates=True)

    stocks = read("sp500_dataset.csv.gz")
    index = read("sp500_index.csv.gz").iloc[:, 0].rename(BENCHMARK)
    closes = stocks.join(index, how="inner")
    closes.index = pd.Index([stamp.date() for stamp in closes.index], name="session")
    return closes


def as_traded(adjusted: pd.Series[float], rng: np.random.Generator) -> pd.DataFrame:
    """Choose actions, and walk back from the newest close so that adjusting them gives `adjusted`.

    With as-traded closes c, ratio k and dividend D at t: A[t]/A[t-1] = c[t] k / (c[t-1] - D).
    """
    n = len(adjusted)
    values = adjusted.to_numpy()
    ratio = np.where(rng.random(n) < 0.002, rng.choice([2.0, 3.0, 1.5, 0.5], n), 1.0)
    dividend = np.where(rng.random(n) < 0.016, np.round(rng.uniform(0.05, 1.5, n), 2), 0.0)
    if adjusted.name == BENCHMARK:
        ratio[:], dividend[:] = 1.0, 0.0
    close = np.empty(n)
    close[-1] = values[-1]
    for t in range(n - 1, 0, -1):
        close[t - 1] = close[t] * ratio[t] * values[t - 1] / values[t] + dividend[t]
    ratio[0], dividend[0] = 1.0, 0.0
    return pd.DataFrame(
        {
            "session": adjusted.index,
            "symbol": adjusted.name,
            "close_usd": close,
            "split_ratio": ratio,
            "dividend_usd": dividend,
        }
    )


def sessions_without_bar(sessions: list[date]) -> dict[str, list[date]]:
    """Return which sessions of three symbols have no bar.

    In some windows of 20 sessions 16 bars are left, but fewer returns.
    """
    return {
        "RRC": sessions[:-480],  # listed late
        "BBY": sessions[-300:-296],  # one halt
        "AMD": [sessions[back] for back in (-17, -13, -9, -6)],  # as long, in four pieces
    }


def build_market() -> Market:
    """Return the whole made-up-actions, real-returns market."""
    calendar = Calendar.of("XNYS")
    adjusted = real_adjusted_closes().loc[:LAST].tail(N_SESSIONS)
    assert list(adjusted.index) == calendar.window(LAST, N_SESSIONS)
    rng = np.random.default_rng(20221228)
    traded = pd.concat([as_traded(adjusted[name], rng) for name in adjusted], ignore_index=True)
    for symbol, sessions in sessions_without_bar(list(adjusted.index)).items():
        adjusted.loc[sessions, symbol] = np.nan
        traded = traded[(traded["symbol"] != symbol) | ~traded["session"].isin(sessions)]
    traded = traded.reset_index(drop=True)
    known_at = traded["session"].map({day: calendar.known_at(day, 15) for day in adjusted.index})
    known_at = pd.to_datetime(known_at, utc=True)
    simulated = [["close_usd", "volume_shares"] for _ in range(len(traded))]
    bars = traded[["session", "symbol", "close_usd"]].assign(
        open_usd=traded["close_usd"],
        high_usd=traded["close_usd"] * 1.01,
        low_usd=traded["close_usd"] * 0.99,
        volume_shares=np.round(rng.uniform(1e5, 1e7, len(traded))),
        close_move_pct=0.0,
        n_sources=1,
        n_agreed=1,
        chosen_source="yahoo",
        volume_source="yahoo",
        flags=[[] for _ in range(len(traded))],
        simulated_fields=simulated,
        known_at_utc=known_at,
    )
    return Market(
        adjusted=adjusted,
        bars=bars,
        actions=_actions(traded, known_at),
        members=_members(adjusted),
        disagreements=_disagreements(),
    )


def _actions(traded: pd.DataFrame, known_at: pd.Series[pd.Timestamp]) -> pd.DataFrame:
    rows = traded.assign(known_at_utc=known_at)
    splits = rows[rows["split_ratio"] != 1.0].assign(kind="split", dividend_usd=np.nan)
    dividends = rows[rows["dividend_usd"] != 0.0].assign(kind="dividend", split_ratio=np.nan)
    both = pd.concat([splits, dividends], ignore_index=True)
    assert set(both["kind"]) == {"split", "dividend"}
    return both.assign(simulated_fields=[["dividend_usd"]] * len(both)).drop(columns="close_usd")


def _disagreements() -> pd.DataFrame:
    """Return a bar that is apart in two prices, and one that a source does not have."""
    prices = ("open", "high", "low", "close")
    apart = {"open": 0.1, "high": 0.2, "low": -7.5, "close": -4.0}
    nothing = dict.fromkeys(("evidence", "volume_share"), np.nan)
    rows = [
        {
            "session": session,
            "symbol": "KO",
            "source": source,
            "kind": kind,
            "fields": fields,
            **{f"{name}_usd": 60.0 if fields else np.nan for name in prices},
            **{f"{name}_apart_pct": apart[name] if fields else np.nan for name in prices},
            "weight": 0.8 if fields else np.nan,
            **nothing,
        }
        for session in Calendar.of("XNYS").window(LAST, 2)
        for source, kind, fields in (
            ("iex", "wrong_day", ["low_usd", "close_usd"]),
            ("alpha_vantage", "missing_day", []),
        )
    ]
    return pd.DataFrame(rows)


def _members(adjusted: pd.DataFrame) -> pd.DataFrame:
    sectors = pd.read_csv(Path(__file__).parents[2] / "dbt" / "seeds" / "sector.csv")
    by_symbol = sectors.set_index("symbol")["sector"]
    symbols = [name for name in adjusted if name != BENCHMARK]
    pairs = pd.MultiIndex.from_product([adjusted.index, symbols], names=["session", "symbol"])
    frame = pairs.to_frame(index=False)
    listed = adjusted.apply(pd.Series.first_valid_index)
    frame = frame[frame["session"] >= frame["symbol"].map(listed)]
    return frame.assign(sector=frame["symbol"].map(by_symbol), membership_dated=False)


@pytest.fixture(scope="session")
def market() -> Market:
    """Return the market that the dbt tests load."""
    return build_market()


@pytest.fixture(scope="module")
def dbt_settings(storage_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return settings of an empty warehouse database that no other test module uses."""
    database = f"warehouse_{uuid.uuid4().hex[:12]}"
    postgres = storage_settings.postgres
    with psycopg.connect(postgres.conninfo(postgres.warehouse_db), autocommit=True) as connection:
        connection.execute(f'create database "{database}"')
    settings = storage_settings.model_copy(
        update={
            "postgres": postgres.model_copy(update={"warehouse_db": database}),
            "home": tmp_path_factory.mktemp("home"),
        }
    )
    Warehouse(settings.postgres).ensure_schema()
    return settings


@pytest.fixture(scope="module")
def loaded(dbt_settings: Settings, market: Market) -> Warehouse:
    """Return the warehouse with the market's whole history in its tables."""
    warehouse = Warehouse(dbt_settings.postgres)
    load_all(warehouse, market)
    return warehouse


def load_all(warehouse: Warehouse, market: Market) -> None:
    """Load every session of the market."""
    sessions = list(market.adjusted.index)
    for contract, frame in (
        (CORE_REFERENCE_UNIVERSE_MEMBER, market.members),
        (CORE_MARKET_DAILY_BAR, market.bars),
        (CORE_MARKET_CORPORATE_ACTION, market.actions),
        (CORE_QUALITY_DISAGREEMENT, market.disagreements),
    ):
        warehouse.load(contract, market.table(frame, sessions[0], sessions[-1]), sessions=sessions)
