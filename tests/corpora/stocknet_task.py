"""StockNet's public task: will a stock move up or down tomorrow, from prices and tweets until now.

Xu and Cohen 2018 (ACL), Feng et al. 2019 (IJCAI, Adv-ALSTM). A row is a stock and a target session
t whose adjusted close moved by less than -0.5 % or at least +0.55 %. Its features know the bars up
to the session before, and tweets of UTC days before t, and nothing else: what is known before the
open of t. Read from the shared data only.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from marketlake.domain.forecasting.classifiers import Samples
from marketlake.domain.forecasting.validation import LabelSpans
from threadpoolctl import threadpool_limits

DOWN, UP = -0.005, 0.0055
LAGS = 5
PHASES = {
    "train": (date(2014, 1, 1), date(2015, 7, 31)),
    "dev": (date(2015, 8, 1), date(2015, 9, 30)),
    "test": (date(2015, 10, 1), date(2015, 12, 31)),
}
PAPER_COUNTS = {"train": 20_339, "dev": 2_555, "test": 3_720}
PAPERS = {
    "StockNet (Xu and Cohen 2018)": {"accuracy": 0.5823, "mcc": 0.0808},
    "Adv-ALSTM (Feng et al. 2019)": {"accuracy": 0.5720, "mcc": 0.1483},
}
KEY = ["symbol", "session"]


def read_bars(shared_data: Path) -> pl.DataFrame:
    """Return all bars with a close: ``session``, ``symbol``, ``sector``, prices, volume; sorted."""
    archive = shared_data / "us_daily_yahoo_stocknet" / "price_raw_88.zip"
    parts = []
    with zipfile.ZipFile(archive) as zipped:
        table = pl.read_csv(io.BytesIO(zipped.read("StockTable")), separator="\t")
        for name in sorted(zipped.namelist()):
            if name.startswith("price/raw/") and name.endswith(".csv"):
                rows = pl.read_csv(
                    io.BytesIO(zipped.read(name)),
                    null_values="null",
                    infer_schema_length=None,
                    schema_overrides={"Volume": pl.Float64},
                    try_parse_dates=True,
                )
                parts.append(rows.with_columns(symbol=pl.lit(Path(name).stem)))
    sectors = table.select(
        pl.col("Symbol").str.strip_chars("$").alias("symbol"), pl.col("Sector").alias("sector")
    )
    return (
        pl.concat(parts)
        .select(
            pl.col("Date").alias("session"),
            "symbol",
            *(pl.col(name).alias(name.lower()) for name in ("Open", "High", "Low", "Close")),
            pl.col("Adj Close").alias("adjusted"),
            pl.col("Volume").alias("volume"),
        )
        .drop_nulls()
        .join(sectors, on="symbol", how="left")
        .sort(KEY)
    )


def read_tweets(shared_data: Path) -> pl.DataFrame:
    """Return ``symbol``, ``day`` and ``text`` (tokens joined by blanks) of every tweet.

    ``day`` is the recording's own: never before the tweet's day in UTC, at times a day after it.
    """
    file = shared_data / "text_stocknet_tweets" / "tweets_preprocessed_88.ndjson.gz"
    with gzip.open(file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return pl.DataFrame(
        {
            "symbol": [row["symbol"] for row in rows],
            "day": [date.fromisoformat(row["date"]) for row in rows],
            "text": [" ".join(row["text"]) for row in rows],
        }
    )


def movements(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the task's rows.

    Returns
    -------
    polars.DataFrame
        ``symbol``, ``session`` (the target), ``known`` (the session before, whose close is the last
        that is known), ``movement`` (fraction) and ``up`` (0 or 1). A row needs a window of
        ``LAGS`` calendar days before it, as in the paper's own code.
    """
    moved = bars.select(
        "symbol",
        "session",
        pl.col("session").shift(1).over("symbol").alias("known"),
        (pl.col("adjusted") / pl.col("adjusted").shift(1).over("symbol") - 1).alias("movement"),
        # The first session with a movement of its own is the symbol's second.
        pl.col("session").sort().slice(1, 1).first().over("symbol").alias("first"),
    )
    whole_window = pl.col("first") < pl.col("session").dt.offset_by(f"-{LAGS - 1}d")
    return moved.filter(
        whole_window & ((pl.col("movement") < DOWN) | (pl.col("movement") >= UP))
    ).select(*KEY, "known", "movement", (pl.col("movement") > 0).cast(pl.Int64).alias("up"))


def of_phase(rows: pl.DataFrame, *phases: str) -> pl.DataFrame:
    """Return the rows whose target lies in one of the phases."""
    inside = [pl.col("session").is_between(*PHASES[phase]) for phase in phases]
    return rows.filter(pl.any_horizontal(inside))


# ------------------------------------------------------------------------------------------- prices


PRICE_CHANNELS = ["close_in_range", "r", "own", "night", "volume", "residual_1"]
_PCA_SESSIONS, _PCA_FACTORS = 120, {"": 8, "_fine": 15}
RESIDUALS = [f"residual_{name}{suffix}" for suffix in _PCA_FACTORS for name in ("1", "5", "level")]


def price_features(bars: pl.DataFrame) -> pl.DataFrame:
    """Return features of each bar from it and earlier ones: ``symbol``, ``session`` and floats.

    Each is its rank among the session's stocks, from -0.5 to 0.5: with 400 sessions to learn from,
    features that all stocks share would only name the sessions. Prices enter as ratios of prices of
    one symbol, so a later split or dividend that rescales its adjusted history changes nothing.
    """
    close = pl.col("close")
    daily = bars.with_columns(
        r=_log_return(1),
        night=(pl.col("open") / close.shift(1).over("symbol")).log(),
        open_=(pl.col("open") / close).log(),
        high_=(pl.col("high") / close).log(),
        low_=(pl.col("low") / close).log(),
        log_volume=pl.col("volume").clip(lower_bound=1).log(),
    ).with_columns(
        close_in_range=pl.col("low_") / (pl.col("low_") - pl.col("high_") - 1e-9),
        volatility=pl.col("r").rolling_std(20, min_samples=10).over("symbol"),
        own=pl.col("r") - pl.col("r").mean().over("session", "sector"),
        volume=pl.col("log_volume")
        - pl.col("log_volume").rolling_mean(20, min_samples=5).over("symbol"),
    )
    slower = {
        "r_scaled": pl.col("r") / pl.col("volatility"),
        "r_3_scaled": _log_return(3) / pl.col("volatility"),
        **{f"momentum_{n}": _log_return(n) for n in (5, 20, 60, 120)},
        **{
            f"average_{n}": (
                pl.col("adjusted").rolling_mean(n).over("symbol") / pl.col("adjusted")
            ).log()
            for n in (5, 30)
        },
        "drawdown_60": (
            pl.col("adjusted") / pl.col("adjusted").rolling_max(60, min_samples=20).over("symbol")
        ).log(),
    }
    daily = daily.with_columns(**slower)
    made = [*PRICE_CHANNELS[:-1], *slower, "open_", "high_", "low_", "volatility"]
    daily = daily.join(residuals(bars), on=KEY, how="left")
    made += RESIDUALS
    rank = [
        pl.when(pl.col(name).is_finite())
        .then(pl.col(name))
        .rank()
        .over("session")
        .truediv(pl.col(name).is_finite().sum().over("session"))
        .sub(0.5)
        .alias(name)
        for name in made
    ]
    return daily.select(*KEY, *rank).sort(KEY)


def residuals(bars: pl.DataFrame) -> pl.DataFrame:
    """Return what each stock did beyond the universe's leading factors (Avellaneda and Lee 2010).

    At each session a PCA of the last 120 sessions' standardised returns, of stocks that have all of
    them: the last residual, the sum of the last five, both over their spread, and how far the sum
    of the last 60 stands from its mean; beyond 8 factors, and (``_fine``) beyond 15. NaN before.
    """
    wide = (
        bars.select(*KEY, _log_return(1).alias("r"))
        .pivot("symbol", index="session", values="r")
        .sort("session")
    )
    symbols = [name for name in wide.columns if name != "session"]
    returns = wide.select(symbols).to_numpy().astype(float)
    out = {name: np.full(returns.shape, np.nan) for name in RESIDUALS}
    # Many small matrices: one thread each is the fastest, and always the same sums.
    with threadpool_limits(1):
        for at in range(_PCA_SESSIONS, len(returns)):
            window = returns[at - _PCA_SESSIONS + 1 : at + 1]
            whole = np.isfinite(window).all(axis=0)
            Z = window[:, whole]
            Z = (Z - Z.mean(axis=0)) / (Z.std(axis=0) + 1e-9)
            U, s, V = np.linalg.svd(Z, full_matrices=False)
            for suffix, factors in _PCA_FACTORS.items():
                rest = Z - (U[:, :factors] * s[:factors]) @ V[:factors]
                spread = rest.std(axis=0) + 1e-9
                path = np.cumsum(rest[-60:], axis=0)
                out[f"residual_1{suffix}"][at, whole] = rest[-1] / spread
                out[f"residual_5{suffix}"][at, whole] = rest[-5:].sum(axis=0) / spread
                out[f"residual_level{suffix}"][at, whole] = (path[-1] - path.mean(axis=0)) / (
                    path.std(axis=0) + 1e-9
                )
    keys = wide.select("session")
    long = keys.join(pl.DataFrame({"symbol": symbols}), how="cross", maintain_order="left_right")
    return long.with_columns(pl.Series(name, values.ravel()) for name, values in out.items())


def _log_return(n: int) -> pl.Expr:
    return (pl.col("adjusted") / pl.col("adjusted").shift(n).over("symbol")).log()


# --------------------------------------------------------------------------------------------- text

WORDS = {
    "good": "beat beats bullish upgrade upgraded upgrades buy strong breakout higher raises raised "
    "gains surge surges soars rally long calls record outperform jumps growth",
    "bad": "miss misses missed bearish downgrade downgraded downgrades sell weak breakdown lower "
    "cuts cut falls drop drops plunges short puts lawsuit underperform slump recall layoffs",
    "earnings": "earnings eps revenue guidance quarter q1 q2 q3 q4 results outlook forecast",
    "analyst": "rating analyst analysts target upgrade downgrade initiated reiterates",
}


@dataclass(frozen=True)
class Lexicons:
    """Words to scores: AFINN (-5..5) and Loughran-McDonald's positive and negative (1, -1)."""

    afinn: dict[str, float]
    finance: dict[str, float]


def read_lexicons(shared_data: Path) -> Lexicons:
    """Return both lexicons, in lower case."""
    folder = shared_data / "lexicons"
    afinn = {}
    for line in (folder / "AFINN-111.txt").read_text().splitlines():
        word, _, score = line.rpartition("\t")
        afinn[word] = float(score)
    master = pl.read_csv(
        folder / "LoughranMcDonald_MasterDictionary_2014_LM.csv.gz", infer_schema_length=0
    )
    finance = {}
    for row in master.iter_rows(named=True):
        positive, negative = (int(float(row[name] or 0)) for name in ("Positive", "Negative"))
        if positive or negative:
            finance[str(row["Word"]).lower()] = 1.0 if positive else -1.0
    return Lexicons(afinn, finance)


def scored_tweets(tweets: pl.DataFrame, lexicons: Lexicons) -> pl.DataFrame:
    """Return the tweets with ``vader`` (compound), ``afinn`` and ``finance`` (mean a word), words.

    A tweet's scores depend on its text alone.
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    vader = SentimentIntensityAnalyzer()
    distinct = tweets["text"].unique().sort().to_list()
    lists = {name: frozenset(words.split()) for name, words in WORDS.items()}
    rows = []
    for text in distinct:
        words = text.split()
        n = max(len(words), 1)
        rows.append(
            (
                text,
                vader.polarity_scores(text)["compound"],
                sum(lexicons.afinn.get(word, 0.0) for word in words) / n,
                sum(lexicons.finance.get(word, 0.0) for word in words) / n,
                *(float(sum(word in found for word in words)) for found in lists.values()),
                float(words[:1] == ["rt"]),
            )
        )
    names = ["text", "vader", "afinn", "finance", *lists, "retweet"]
    return tweets.join(pl.DataFrame(rows, schema=names, orient="row"), on="text", how="left")


TEXT_CHANNELS = ["fresh_vader", "fresh_good", "fresh_bad", "fresh_earnings", "fresh_count"]


def text_features(tweets: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Return features of tweets for each symbol and target session, from earlier days only.

    A tweet belongs to the first session of its symbol after its day. ``fresh_`` columns are of the
    target's own tweets, ``week_`` of those of the last ``LAGS`` targets together. Each is above the
    session's mean over all stocks; a stock without tweets so says how much the others were tweeted.
    """
    targets = bars.select(*KEY).sort("session")
    scores = [name for name in tweets.columns if name not in {"symbol", "day", "text"}]
    aligned = tweets.sort("day").join_asof(
        targets.with_columns(before=pl.col("session")),
        left_on="day",
        right_on="before",
        by="symbol",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,  # both are sorted by day, which polars cannot see within symbols
    )
    summed = (
        aligned.drop_nulls("session")
        .group_by(KEY)
        .agg(
            pl.len().cast(pl.Float64).alias("n"),
            pl.col(scores).sum(),
            pl.col("vader").std().alias("fresh_spread"),
        )
    )
    daily = (
        targets.join(summed, on=KEY, how="left")
        .sort(KEY)
        .with_columns(pl.col("n", *scores).fill_null(0.0))
    )
    sums = pl.col("n", *scores).rolling_sum(LAGS, min_samples=1).over("symbol")
    count = pl.col("n").log1p()
    daily = daily.with_columns(sums.name.prefix("total_")).with_columns(
        # Means over tweets, drawn to 0 by one tweet without a word.
        *(
            (pl.col(f"{total}{name}") / (pl.col(f"{total}n") + 1)).alias(f"{of}_{name}")
            for of, total in (("fresh", ""), ("week", "total_"))
            for name in scores
        ),
        fresh_count=count,
        fresh_attention=count - count.rolling_mean(20, min_samples=5).over("symbol"),
    )
    daily = daily.with_columns(change_vader=pl.col("fresh_vader") - pl.col("week_vader"))
    made = [name for name in daily.columns if name.startswith(("fresh_", "week_", "change_"))]
    above = [(pl.col(name) - pl.col(name).mean().over("session")).alias(name) for name in made]
    return daily.select(*KEY, *above).sort(KEY)


# ------------------------------------------------------------------------------------------ samples


@dataclass(frozen=True)
class Task:
    """The task's rows, in order of target session and symbol, and what models see of them."""

    rows: pl.DataFrame
    spans: LabelSpans
    samples: dict[str, Samples]
    names: dict[str, list[str]]

    def phase(self, *phases: str) -> np.ndarray:
        """Return the positions of the rows of some phases."""
        return of_phase(self.rows.with_row_index("at"), *phases)["at"].to_numpy().astype(np.int64)


def build(bars: pl.DataFrame, tweets: pl.DataFrame) -> Task:
    """Join movements with what was known before; ``tweets`` are :func:`scored_tweets`."""
    rows = of_phase(movements(bars), *PHASES).sort("session", "symbol")
    # On each target's row: prices of its symbol's session before, tweets since.
    prices = price_features(bars)
    price_names = [name for name in prices.columns if name not in KEY]
    known = prices.with_columns(pl.col(price_names).shift(1).over("symbol"))
    texts = text_features(tweets, bars)
    text_names = [name for name in texts.columns if name not in KEY]
    both = known.join(texts, on=KEY, how="left").sort(KEY)
    at = rows.join(both.with_row_index("at"), on=KEY, how="left")["at"].to_numpy()
    inputs = {
        "price": (price_names, PRICE_CHANNELS),
        "price_text": ([*price_names, *text_names], [*PRICE_CHANNELS, *TEXT_CHANNELS]),
    }
    return Task(
        rows=rows,
        spans=LabelSpans.of(
            rows["known"].to_list(),
            rows["session"].to_list(),
            sessions=bars["session"].unique().sort().to_list(),
        ),
        samples={
            name: Samples(_values(both, columns)[at], _lagged(both, channels)[at])
            for name, (columns, channels) in inputs.items()
        },
        names={name: columns for name, (columns, _) in inputs.items()},
    )


def read_task(shared_data: Path) -> Task:
    """Return the task of the shared data."""
    return build(
        read_bars(shared_data), scored_tweets(read_tweets(shared_data), read_lexicons(shared_data))
    )


def _values(frame: pl.DataFrame, columns: list[str]) -> np.ndarray:
    return frame.select(pl.col(columns).cast(pl.Float64).fill_null(np.nan)).to_numpy()


def _lagged(frame: pl.DataFrame, channels: list[str]) -> np.ndarray:
    """Return [n_rows, LAGS, n_channels] of a frame sorted by symbol and session, newest last."""
    lags = [
        _values(frame.with_columns(pl.col(channels).shift(back).over("symbol")), channels)
        for back in range(LAGS - 1, -1, -1)
    ]
    return np.stack(lags, axis=1)
