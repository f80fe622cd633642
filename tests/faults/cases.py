"""Every declared fault: what is broken, how, where it must stop, as what, and what may be left.

``test_faults.py`` makes each of them for real; ``page.py`` puts them into ``docs/errors.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from marketlake import errors
from marketlake.readmodels.summary import planted_faults
from marketlake.services.sandbox.vendors.wire import BAD_KEY
from marketlake.storage.lake import Lake
from pydantic import SecretStr

from tests.faults.bench import SESSION, SYMBOLS, Bench

WRONG = "not-the-right-one"
"""What stands where a secret should be; no message may repeat it."""

ALL = ("yahoo", "alpha_vantage", "iex")
_ALONE = ("yahoo",)
BENCHMARK = "^GSPC"
"""Only Yahoo lists an index."""

_FETCHED = (
    "core_market__source_action",
    "core_market__source_bar",
    "core_quality__source_answer",
    "core_reference__instrument",
    "core_reference__universe_member",
)
_JUDGED = (
    *_FETCHED,
    "core_quality__disagreement",
    "core_quality__gate_report",
    "core_quality__provenance",
    "core_quality__quarantine",
)
# The bars of a closed session are none, which is what later sessions must know.
_CLOSED = (*_JUDGED, "core_market__corporate_action", "core_market__daily_bar")
_VALIDATED = (
    *_CLOSED,
    "core_quality__repair_proposal",
    "out_data_validation__anomaly_log",
    "out_data_validation__daily_integrity_report",
    "out_data_validation__source_comparison",
    "out_reports__integrity",
)
_PLAN, _FETCH = "ingest_market_data.plan", "ingest_market_data.fetch_yahoo"
_PUBLISH = "ingest_market_data.publish"
_GATE, _LOAD = "validate_market_data.gate", "build_warehouse.load"
_SETTINGS = "load_settings"
_DAY = SESSION.isoformat()
_RAW = ("action", "daily_bar", "response")


@dataclass(frozen=True)
class Fault:
    """One way in which an input is bad, and the one right end of it.

    ``stops_at`` is DAG and task, or the function that every command calls first. ``leaves`` are
    the contracts of which the session has something afterwards, those of ``sources`` (that the
    market has) left aside: what came before the stop.
    """

    name: str
    group: str
    broken: str
    make: Callable[[Bench], None]
    stops_at: str
    error: type[errors.MarketlakeError]
    leaves: tuple[str, ...] = ()
    slow: bool = False
    sources: tuple[str, ...] = ALL

    @property
    def published(self) -> set[str]:
        """Return every contract of which the session has something afterwards."""
        raw = (f"raw_{source}__{what}" for source in self.sources for what in _RAW)
        return {*self.leaves, *raw} if self.leaves else set()


@dataclass(frozen=True)
class LeftOut:
    """A source that fails while others are there: the session goes on without it.

    ``answered`` are the symbols that each source that fails has answered for before; of the rest
    core has bars of the others, flagged. With ``no_bars`` it answers for all of them, but no row
    of it is a bar.
    """

    name: str
    broken: str
    make: Callable[[Bench], None]
    answered: Mapping[str, tuple[str, ...]]
    no_bars: bool = False
    slow: bool = False


@dataclass(frozen=True)
class KeptOut:
    """Something bad in one row: the session goes on, the row is told of and kept out of core.

    ``stands_in`` are the sources that give the bar instead; without any there is none in core.
    """

    name: str
    broken: str
    make: Callable[[Bench], None]
    symbol: str
    told_in: str
    stands_in: tuple[str, ...] = ()


Case = Fault | LeftOut | KeptOut


def _spoil_charts(
    bench: Bench, change: Callable[[dict[str, Any]], Any], *, symbols: Sequence[str]
) -> None:
    """Let Yahoo send some symbols' charts, changed."""
    for symbol in symbols:
        document = bench.chart(symbol)
        (chart,) = document["chart"]["result"]
        change(chart)
        bench.vendor_says(document, symbol=symbol)


def _vendor_chart(change: Callable[[dict[str, Any]], Any]) -> Callable[[Bench], None]:
    """Let Yahoo send one symbol's chart, changed; then run."""

    def make(bench: Bench) -> None:
        _spoil_charts(bench, change, symbols=("KO",))
        bench.run()

    return make


def _without_closes(chart: dict[str, Any]) -> None:
    quote = {name: values for name, values in _quote(chart).items() if name != "close"}
    chart["indicators"].update(quote=[quote])


def _quote(chart: dict[str, Any]) -> dict[str, Any]:
    (quote,) = chart["indicators"]["quote"]
    return dict(quote)


def _vendor(kind: str, **args: Any) -> Callable[[Bench], None]:
    def make(bench: Bench) -> None:
        bench.vendor_fault(kind, **args)
        bench.run()

    return make


def _set(section: str, **values: Any) -> Callable[[Bench], None]:
    return lambda bench: bench.run(bench.changed(section, **values))


def _environment(**variables: str) -> Callable[[Bench], None]:
    return lambda bench: bench.load(**variables)


def _universe(text: str) -> Callable[[Bench], None]:
    return lambda bench: bench.run(
        bench.changed("market", universe_file=bench.file("other.csv", text))
    )


def _unknown_symbols(bench: Bench, *symbols: str) -> dict[str, Path]:
    members = [f"{symbol},," for symbol in symbols]
    sectors = [f"{symbol},{symbol},Energy" for symbol in symbols]
    return {
        "universe_file": bench.file("u.csv", "\n".join(["symbol,valid_from,valid_to", *members])),
        "sector_file": bench.file("s.csv", "\n".join(["symbol,name,sector", *sectors])),
    }


def _only_unknown_symbols(bench: Bench) -> None:
    bench.run(bench.changed("market", **_unknown_symbols(bench, "NOPE")))


def _one_unknown_symbol(bench: Bench) -> None:
    bench.settings = bench.changed("market", **_unknown_symbols(bench, "KO", "NOPE"))


def _set_keys(bench: Bench, **keys: str | None) -> None:
    """Set vendors' keys; ``alpha_vantage="..."``, ``iex="..."``."""
    for name, key in keys.items():
        secret = None if key is None else SecretStr(key)
        more = {"secret_key": secret} if name == "iex" else {}
        bench.settings = bench.changed(name, api_key=secret, **more)


def _yahoo_alone_has_what_it_needs(bench: Bench) -> None:
    _set_keys(bench, alpha_vantage=None, iex=None)
    bench.vendor_fault("http_5xx")
    bench.run()


def _nobody_has_a_key(bench: Bench) -> None:
    _set_keys(bench, iex=None)
    bench.run()


def _every_source_fails(bench: Bench) -> None:
    bench.vendor_fault("reset")
    _set_keys(bench, alpha_vantage=f"{BAD_KEY}{WRONG}")
    bench.vendor_fault("http_5xx", vendor="iex")
    bench.run()


def _only_alpha_vantage_answers(bench: Bench) -> None:
    bench.vendor_fault("reset")
    bench.vendor_fault("http_5xx", vendor="iex")


def _full_store(bench: Bench) -> None:
    bench.full_store()
    bench.run()


def _full_postgres(bench: Bench, *, with_the_ledgers: bool = False) -> None:
    with bench.full_postgres(with_the_ledgers=with_the_ledgers):
        bench.run()


def _wrong_control_token(bench: Bench) -> None:
    settings = bench.changed("sandbox", control_token=SecretStr(WRONG))
    planted_faults(settings, Lake(settings.lake), [SESSION])


def _env_file(bench: Bench) -> None:
    bench.load(MARKETLAKE_ENV_FILE=str(bench.file(".env", "MARKETLAKE_POSTGRES_PORT=1\n")))


FAULTS = (
    Fault(
        "schema-member-gone",
        "What the only source sends",
        "vendor schema: the closes have another name",
        _vendor_chart(_without_closes),
        _FETCH,
        errors.BadPayload,
        sources=_ALONE,
    ),
    Fault(
        "schema-values-nested",
        "What the only source sends",
        "vendor schema: prices are objects, not numbers",
        _vendor_chart(
            lambda chart: chart["indicators"].update(
                quote=[_quote(chart) | {"close": [{"raw": 1.0}] * len(chart["timestamp"])}]
            )
        ),
        _FETCH,
        errors.BadPayload,
        sources=_ALONE,
    ),
    Fault(
        "schema-lengths-differ",
        "What the only source sends",
        "vendor schema: fewer closes than days",
        _vendor_chart(
            lambda chart: chart["indicators"].update(
                quote=[_quote(chart) | {"close": _quote(chart)["close"][:-1]}]
            )
        ),
        _FETCH,
        errors.BadPayload,
        sources=_ALONE,
    ),
    Fault(
        "schema-milliseconds",
        "What the only source sends",
        "vendor schema: times in milliseconds",
        _vendor_chart(
            lambda chart: chart.update(timestamp=[1000 * stamp for stamp in chart["timestamp"]])
        ),
        _FETCH,
        errors.BadPayload,
        sources=_ALONE,
    ),
    Fault(
        "schema-split-by-zero",
        "What the only source sends",
        "vendor schema: a split of 2 to 0",
        _vendor_chart(
            lambda chart: chart.update(
                events={
                    "splits": {
                        "1": {"date": chart["timestamp"][-1], "numerator": 2, "denominator": 0}
                    }
                }
            )
        ),
        _FETCH,
        errors.BadPayload,
        sources=_ALONE,
    ),
    Fault(
        "schema-events-list",
        "What the only source sends",
        "vendor schema: events are a list",
        _vendor_chart(lambda chart: chart.update(events=[])),
        _FETCH,
        errors.BadPayload,
        sources=_ALONE,
    ),
    Fault(
        "not-json",
        "What the only source sends",
        "a page of HTML instead of a chart",
        _vendor("html_200"),
        _FETCH,
        errors.BadPayload,
        sources=_ALONE,
    ),
    Fault(
        "negative-prices",
        "What the only source sends",
        "negative prices of every symbol",
        _vendor("outlier", sessions=[_DAY], factor=-1),
        _GATE,
        errors.GateFailed,
        _CLOSED,
        sources=_ALONE,
    ),
    Fault(
        "empty-session",
        "What the only source sends",
        "an empty session: no bar of any symbol",
        _vendor("missing_days", sessions=[_DAY]),
        _FETCH,
        errors.EmptyAnswer,
        sources=_ALONE,
    ),
    Fault(
        "empty-body",
        "What the only source sends",
        "an empty answer",
        _vendor("empty_200"),
        _FETCH,
        errors.SourceUnavailable,
        sources=_ALONE,
    ),
    Fault(
        "unknown-symbols",
        "What the only source sends",
        "only symbols that the vendor does not know",
        _only_unknown_symbols,
        "ingest_market_data.fetch_alpha_vantage",
        errors.EmptyAnswer,
        sources=("alpha_vantage",),
    ),
    Fault(
        "unknown-benchmark",
        "What the only source sends",
        "a benchmark that the vendor does not know",
        _set("market", benchmark="^NOPE"),
        _FETCH,
        errors.ConfigError,
        sources=_ALONE,
    ),
    Fault(
        "every-source",
        "When every source fails",
        "Yahoo resets, Alpha Vantage refuses the key, Alpaca is down",
        _every_source_fails,
        _PUBLISH,
        errors.EmptyAnswer,
    ),
    Fault(
        "every-source-empty",
        "When every source fails",
        "an empty session: no bar of any symbol from anybody",
        _vendor("missing_days", vendor="", sessions=[_DAY]),
        _PUBLISH,
        errors.EmptyAnswer,
    ),
    Fault(
        "every-source-unreachable",
        "When every source fails",
        "a proxy address where nobody listens",
        _set("egress", proxy_url=f"http://user:{WRONG}@127.0.0.1:9"),
        _PUBLISH,
        errors.EmptyAnswer,
    ),
    Fault(
        "only-configured",
        "When every source fails",
        "the only one of three that is configured is down",
        _yahoo_alone_has_what_it_needs,
        _FETCH,
        errors.SourceUnavailable,
    ),
    Fault(
        "none-configured",
        "When every source fails",
        "the only source has no key",
        _nobody_has_a_key,
        _PUBLISH,
        errors.EmptyAnswer,
        sources=("iex",),
    ),
    Fault(
        "store-full",
        "Stores",
        "the S3 store's file system is full",
        _full_store,
        _PLAN,
        errors.SourceUnavailable,
        slow=True,
    ),
    Fault(
        "postgres-full",
        "Stores",
        "Postgres at its connection limit",
        _full_postgres,
        _LOAD,
        errors.SourceUnavailable,
        _VALIDATED,
        slow=True,
    ),
    Fault(
        "postgres-full-for-the-ledger",
        "Stores",
        "Postgres at its connection limit, the ledger cut off too",
        lambda bench: _full_postgres(bench, with_the_ledgers=True),
        _PLAN,
        errors.SourceUnavailable,
    ),
    Fault(
        "key-vendor",
        "Keys",
        "the only source refuses the credentials",
        _vendor("bad_auth"),
        _FETCH,
        errors.AuthFailed,
        sources=_ALONE,
    ),
    Fault(
        "key-s3-secret",
        "Keys",
        "wrong S3 secret key",
        _set("lake", secret_key=SecretStr(WRONG)),
        _PLAN,
        errors.AuthFailed,
    ),
    Fault(
        "key-s3-access",
        "Keys",
        "wrong S3 access key",
        _set("lake", access_key=SecretStr(WRONG)),
        _PLAN,
        errors.AuthFailed,
    ),
    Fault(
        "key-postgres",
        "Keys",
        "wrong Postgres password",
        _set("postgres", password=SecretStr(WRONG)),
        _LOAD,
        errors.AuthFailed,
        _VALIDATED,
        slow=True,
    ),
    Fault(
        "key-ledger",
        "Keys",
        "wrong ledger token",
        _set("ledger", token=SecretStr(WRONG)),
        _PLAN,
        errors.AuthFailed,
    ),
    Fault(
        "key-sandbox",
        "Keys",
        "wrong control token of the vendor sandbox",
        _wrong_control_token,
        "planted_faults",
        errors.AuthFailed,
    ),
    Fault(
        "setting-unknown",
        "Settings",
        "a setting that does not exist",
        _environment(MARKETLAKE_POSTGRES__PROT="1"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-unknown-in-file",
        "Settings",
        "a setting that does not exist, in `.env`",
        _env_file,
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-type",
        "Settings",
        "a value of the wrong type",
        _environment(MARKETLAKE_POSTGRES__PORT="many"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-choice",
        "Settings",
        "a value that is no choice",
        _environment(MARKETLAKE_MODE="paper"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-range",
        "Settings",
        "a number out of its range",
        _environment(MARKETLAKE_YAHOO__TIMEOUT_S="0"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-date",
        "Settings",
        "a day that is none",
        _environment(MARKETLAKE_MARKET__FIRST_SESSION="2022-02-30"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-url",
        "Settings",
        "an address that is no URL",
        _environment(MARKETLAKE_LAKE__ENDPOINT_URL="127.0.0.1:19330"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-proxy",
        "Settings",
        "a proxy of no known kind",
        _environment(MARKETLAKE_EGRESS__PROXY_URL=f"ftp://user:{WRONG}@127.0.0.1:1"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-bucket",
        "Settings",
        "a name that no bucket may have",
        _environment(MARKETLAKE_LAKE__BUCKET="Our Lake"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "setting-contradiction",
        "Settings",
        "settings that contradict each other",
        _environment(MARKETLAKE_MARKET__NAME="live"),
        _SETTINGS,
        errors.ConfigError,
    ),
    Fault(
        "universe-absent",
        "Settings",
        "no universe file",
        lambda bench: bench.run(bench.changed("market", universe_file=bench.folder / "none.csv")),
        _PLAN,
        errors.ConfigError,
    ),
    Fault(
        "universe-columns",
        "Settings",
        "a universe file of other columns",
        _universe("ticker,from,to\nKO,,\n"),
        _PLAN,
        errors.ConfigError,
    ),
    Fault(
        "universe-twice",
        "Settings",
        "a symbol twice in the universe",
        _universe("symbol,valid_from,valid_to\nKO,,\nKO,,\n"),
        _PLAN,
        errors.ConfigError,
    ),
    Fault(
        "universe-sector",
        "Settings",
        "a symbol of no sector in the universe",
        _universe("symbol,valid_from,valid_to\nNOPE,,\n"),
        _PLAN,
        errors.ConfigError,
    ),
    Fault(
        "market-span",
        "Settings",
        "a session before the market's first",
        _set("market", first_session=date(2022, 12, 28)),
        _PLAN,
        errors.ConfigError,
    ),
    Fault(
        "store-address",
        "Settings",
        "an S3 address where nobody listens",
        _set("lake", endpoint_url="http://127.0.0.1:9"),
        _PLAN,
        errors.SourceUnavailable,
    ),
    Fault(
        "store-bucket",
        "Settings",
        "a bucket that nobody prepared",
        _set("lake", bucket="nobody-prepared-this"),
        _PLAN,
        errors.ConfigError,
    ),
    Fault(
        "postgres-address",
        "Settings",
        "a Postgres address where nobody listens",
        _set("postgres", port=9),
        _LOAD,
        errors.SourceUnavailable,
        _VALIDATED,
        slow=True,
    ),
    Fault(
        "postgres-database",
        "Settings",
        "a warehouse database that does not exist",
        _set("postgres", warehouse_db="nobody-made-this"),
        _LOAD,
        errors.ConfigError,
        _VALIDATED,
        slow=True,
    ),
    Fault(
        "ledger-address",
        "Settings",
        "a ledger address where nobody listens",
        _set("ledger", port=9),
        _PLAN,
        errors.SourceUnavailable,
    ),
    Fault(
        "proxy-address",
        "Settings",
        "a proxy address where nobody listens, of one source",
        _set("egress", proxy_url=f"http://user:{WRONG}@127.0.0.1:9"),
        _FETCH,
        errors.SourceUnavailable,
        sources=_ALONE,
    ),
    Fault(
        "authority-absent",
        "Settings",
        "no file of certificate authorities",
        lambda bench: bench.run(bench.changed("egress", ca_bundle=bench.folder / "none.pem")),
        _FETCH,
        errors.ConfigError,
        sources=_ALONE,
    ),
    Fault(
        "authority-unreadable",
        "Settings",
        "a file of certificate authorities that holds none",
        lambda bench: bench.run(bench.changed("egress", ca_bundle=bench.file("bad.pem", "none"))),
        _FETCH,
        errors.ConfigError,
        sources=_ALONE,
    ),
    Fault(
        "authority-unset",
        "Settings",
        "the proxy's certificate authority is not set",
        _set("egress", ca_bundle=None),
        _FETCH,
        errors.ConfigError,
        sources=_ALONE,
    ),
)

LEFT_OUT = (
    LeftOut(
        "yahoo-schema",
        "Yahoo's schema: the closes have another name",
        lambda bench: _spoil_charts(bench, _without_closes, symbols=(*SYMBOLS, BENCHMARK)),
        {"yahoo": ()},
    ),
    LeftOut(
        "yahoo-down",
        "Yahoo is down",
        lambda bench: bench.vendor_fault("http_5xx"),
        {"yahoo": ()},
        slow=True,
    ),
    LeftOut(
        "yahoo-breaks-off",
        "Yahoo resets every connection after two symbols",
        lambda bench: bench.vendor_fault("reset", after=2),
        {"yahoo": SYMBOLS[:2]},
        slow=True,
    ),
    LeftOut(
        "alpha-vantage-key",
        "Alpha Vantage refuses the key",
        lambda bench: _set_keys(bench, alpha_vantage=f"{BAD_KEY}{WRONG}"),
        {"alpha_vantage": ()},
    ),
    LeftOut(
        "iex-key",
        "Alpaca refuses the keys",
        lambda bench: _set_keys(bench, iex=f"{BAD_KEY}{WRONG}"),
        {"iex": ()},
        slow=True,
    ),
    LeftOut(
        "alpha-vantage-spent",
        "Alpha Vantage says after two symbols that the day's calls are spent",
        lambda bench: bench.vendor_fault(
            "soft_limit", vendor="alpha_vantage", after=2, wording="information"
        ),
        {"alpha_vantage": SYMBOLS[:2]},
    ),
    LeftOut(
        "two-of-three",
        "Yahoo resets and Alpaca is down",
        _only_alpha_vantage_answers,
        {"yahoo": (), "iex": ()},
    ),
    LeftOut(
        "no-bars",
        "negative prices of every symbol from Yahoo",
        lambda bench: bench.vendor_fault("outlier", sessions=[_DAY], factor=-1),
        {"yahoo": ()},
        no_bars=True,
    ),
)

KEPT_OUT = (
    KeptOut(
        "one-negative-price",
        "a negative price of one symbol from one source",
        lambda bench: bench.vendor_fault(
            "outlier", symbol="KO", sessions=[_DAY], factor=-1, fields=["low_usd"]
        ),
        "KO",
        "core_quality__quarantine",
        stands_in=("alpha_vantage", "iex"),
    ),
    KeptOut(
        "one-negative-price-everywhere",
        "a negative price of one symbol from every source",
        lambda bench: bench.vendor_fault(
            "outlier", vendor="", symbol="KO", sessions=[_DAY], factor=-1, fields=["low_usd"]
        ),
        "KO",
        "core_quality__quarantine",
    ),
    KeptOut(
        "one-missing-bar",
        "no bar of one symbol from one source",
        lambda bench: bench.vendor_fault("missing_days", symbol="KO", sessions=[_DAY]),
        "KO",
        "core_quality__source_answer",
        stands_in=("alpha_vantage", "iex"),
    ),
    KeptOut(
        "one-missing-bar-everywhere",
        "no bar of one symbol from any source",
        lambda bench: bench.vendor_fault("missing_days", vendor="", symbol="KO", sessions=[_DAY]),
        "KO",
        "out_data_validation__anomaly_log",
    ),
    KeptOut(
        "one-unknown-symbol",
        "one symbol that no source knows",
        _one_unknown_symbol,
        "NOPE",
        "out_data_validation__anomaly_log",
    ),
)
