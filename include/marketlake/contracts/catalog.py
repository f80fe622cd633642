"""The catalog: every contract Marketlake publishes, declared once.

Column names carry their unit; the same quantity has the same name everywhere. To add an artifact,
add a contract here, run ``marketlake contracts render``, and write it from a pipeline.
"""

from __future__ import annotations

from marketlake.contracts.factors import FACTORS
from marketlake.contracts.features import FEATURES
from marketlake.contracts.model import Check, Contract, Export, Field
from marketlake.contracts.spec_files import SPEC_FILES
from marketlake.errors import ConfigError

_SESSION = Field("session", "date", "exchange session the row is about")
_SYMBOL = Field("symbol", "string", "ticker as the exchange lists it at the session")
_SOURCE = Field("source", "string", "source by its name")
_KNOWN_AT = Field(
    "known_at_utc",
    "timestamp_utc",
    "instant from which the row could be known: session close plus the source's declared lag",
    "UTC",
)
_SIMULATED_FIELDS = Field(
    "simulated_fields", "strings", "quantities of this row that a generator made, not a market"
)
_SIMULATED = Field("simulated", "bool", "whether any input of this row was simulated")
_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")


def _export(contract: str, form: str) -> Export:
    for item in SPEC_FILES:
        if item.contract == contract:
            return Export(item.pattern, form)  # type: ignore[arg-type]
    raise KeyError(contract)


def _document(*names_and_docs: tuple[str, str]) -> tuple[Field, ...]:
    return tuple(Field(name, "string", doc) for name, doc in names_and_docs)


_REPEAT_NO = Field(
    "repeat_no",
    "int64",
    "which of the vendor's rows for this session and symbol, 0 unless it repeats",
)
_ACTION_FIELDS = (
    _SESSION,
    _SYMBOL,
    Field("kind", "string", "split or dividend"),
    Field("split_ratio", "float64", "new shares per old share", "ratio", True),
    Field("dividend_usd", "float64", "cash per share as traded before the ex-date", "USD", True),
    _SIMULATED_FIELDS,
)


def _raw_response(source: str, vendor: str) -> Contract:
    return Contract(
        name=f"raw_{source}__response",
        doc=f"Every HTTP answer of {vendor}, byte for byte, keys and crumbs redacted from URLs.",
        grain="one row per request that answered a history call",
        owner="ingest_market_data",
        key=("symbol", "request_no"),
        fields=(
            Field("symbol", "string", "symbol that was asked for; of several, the first"),
            Field("request_no", "int64", "order of the request within the symbol's call"),
            Field("method", "string", "HTTP method"),
            Field("url", "string", "requested URL without secrets"),
            Field("status", "int64", "HTTP status"),
            Field("body", "binary", "response body as received, content encoding undone"),
            Field("body_sha256", "string", "SHA-256 of the body, hex"),
        ),
    )


def _raw_daily_bar(source: str, vendor: str, basis: str) -> Contract:
    return Contract(
        name=f"raw_{source}__daily_bar",
        doc=f"Daily bars as {vendor} gives them: {basis}.",
        grain="one row per symbol, session and row of the answer",
        owner="ingest_market_data",
        key=("session", "symbol", "repeat_no"),
        fields=(
            _SESSION,
            _SYMBOL,
            *(
                Field(name, "float64", f"{name[:-4]} price, {basis}", "USD", True)
                for name in _PRICES
            ),
            Field(
                "adj_close_usd", "float64", "close adjusted for splits and dividends", "USD", True
            ),
            Field("volume_shares", "float64", f"volume, {basis}", "shares", True),
            Field(
                "previous_close_usd",
                "float64",
                "close of the session before, same adjustment; null at the start of a history",
                "USD",
                True,
            ),
            _REPEAT_NO,
            _SIMULATED_FIELDS,
            _KNOWN_AT,
        ),
    )


def _raw_action(source: str, vendor: str, basis: str) -> Contract:
    return Contract(
        name=f"raw_{source}__action",
        doc=f"Splits and dividends as {vendor} gives them; dividends {basis}.",
        grain="one row per symbol, ex-date and kind",
        owner="ingest_market_data",
        key=("session", "symbol", "kind"),
        fields=_ACTION_FIELDS,
    )


_FETCHED_BASIS = "split-adjusted as of the fetch"
RAW_YAHOO_RESPONSE = _raw_response("yahoo", "Yahoo Finance")
RAW_YAHOO_DAILY_BAR = _raw_daily_bar("yahoo", "Yahoo Finance", _FETCHED_BASIS)
RAW_YAHOO_ACTION = _raw_action("yahoo", "Yahoo Finance", _FETCHED_BASIS)
RAW_ALPHA_VANTAGE_RESPONSE = _raw_response("alpha_vantage", "Alpha Vantage")
RAW_ALPHA_VANTAGE_DAILY_BAR = _raw_daily_bar("alpha_vantage", "Alpha Vantage", "as traded")
RAW_ALPHA_VANTAGE_ACTION = _raw_action("alpha_vantage", "Alpha Vantage", "as traded")
RAW_IEX_RESPONSE = _raw_response("iex", "the IEX exchange's prices at Alpaca")
RAW_IEX_DAILY_BAR = _raw_daily_bar("iex", "the IEX exchange", "as traded on this one venue")
RAW_IEX_ACTION = _raw_action("iex", "the IEX exchange", "as traded; it tells none")

CORE_QUALITY_SOURCE_ANSWER = Contract(
    name="core_quality__source_answer",
    doc="Which source was asked for which symbol, and what came of it.",
    grain="one row per session up to which was asked, source and symbol",
    owner="ingest_market_data",
    key=("session", "source", "symbol"),
    fields=(
        _SESSION,
        _SOURCE,
        Field("symbol", "string", "ticker"),
        Field(
            "outcome",
            "string",
            "answered, no_bar, failed, not_asked (budget, or resting) or not_configured",
        ),
        Field("reason", "string", "why there is no bar, in words; empty if answered"),
    ),
    checks=(
        Check("unique", ("session", "source", "symbol")),
        Check(
            "in_set",
            ("outcome",),
            {"values": ["answered", "no_bar", "failed", "not_asked", "not_configured"]},
        ),
    ),
)

_BAR_CHECKS = (
    Check("only_sessions", ("session",), {"calendar": "XNYS"}, reason="not a session"),
    *(
        Check("not_null", (name,), reason=f"{name} is missing")
        for name in (*_PRICES, "volume_shares")
    ),
    *(
        Check("in_range", (name,), {"min": 0.0, "strict_min": True}, reason=f"{name} not > 0")
        for name in _PRICES
    ),
    Check("in_range", ("volume_shares",), {"min": 0.0}, reason="negative volume"),
    *(
        Check("not_above", pair, reason=f"{pair[0]} above {pair[1]}")
        for pair in (
            ("low_usd", "open_usd"),
            ("low_usd", "close_usd"),
            ("open_usd", "high_usd"),
            ("close_usd", "high_usd"),
        )
    ),
)
"""What a bar must be by itself, whoever gave it."""

CORE_MARKET_SOURCE_BAR = Contract(
    name="core_market__source_bar",
    doc="Each source's daily bars brought to as-traded prices, before anybody judged them.",
    grain="one row per session, symbol, source and row of the source's answer",
    owner="ingest_market_data",
    key=("session", "symbol", "source", "repeat_no"),
    fields=(
        _SESSION,
        _SYMBOL,
        _SOURCE,
        _REPEAT_NO,
        *(Field(name, "float64", f"as-traded {name[:-4]} price", "USD", True) for name in _PRICES),
        Field("volume_shares", "float64", "as-traded volume", "shares", True),
        _SIMULATED_FIELDS,
        _KNOWN_AT,
    ),
    checks=(
        Check("unique", ("session", "symbol", "source"), reason="two different bars of one source"),
        *_BAR_CHECKS,
    ),
)

CORE_MARKET_SOURCE_ACTION = Contract(
    name="core_market__source_action",
    doc="Each source's splits and dividends, per share as traded, before anybody judged them.",
    grain="one row per ex-date session, symbol, source and kind",
    owner="ingest_market_data",
    key=("session", "symbol", "source", "kind"),
    fields=(_SESSION, _SYMBOL, _SOURCE, *_ACTION_FIELDS[2:], _KNOWN_AT),
)

CORE_REFERENCE_INSTRUMENT = Contract(
    name="core_reference__instrument",
    doc="What each symbol is.",
    grain="one row per symbol and validity",
    owner="ingest_market_data",
    key=("symbol", "valid_from"),
    fields=(
        _SYMBOL,
        Field("name", "string", "issuer or index name"),
        Field("sector", "string", "GICS sector name, or 'Index'"),
        Field("kind", "string", "equity or index"),
        Field("currency", "string", "ISO 4217 code"),
        Field("valid_from", "date", "first day of validity"),
        Field("valid_to", "date", "last day of validity, null while valid", "", True),
    ),
    checks=(
        Check("unique", ("symbol", "valid_from")),
        Check("in_set", ("kind",), {"values": ["equity", "index"]}),
    ),
)

CORE_REFERENCE_UNIVERSE_MEMBER = Contract(
    name="core_reference__universe_member",
    doc="Which symbols are members of the traded universe at each session.",
    grain="one row per session and member symbol",
    owner="ingest_market_data",
    key=("session", "symbol"),
    warehouse=True,
    fields=(
        _SESSION,
        _SYMBOL,
        Field("sector", "string", "GICS sector name"),
        Field("membership_dated", "bool", "false where membership has no dates (survivorship)"),
    ),
    checks=(
        Check("unique", ("session", "symbol")),
        Check("row_count", (), {"min": 1}),
    ),
)

CORE_MARKET_DAILY_BAR = Contract(
    name="core_market__daily_bar",
    doc="As-traded daily bars that passed the gate. Adjusted series are computed, never stored.",
    grain="one row per session and symbol",
    owner="validate_market_data",
    key=("session", "symbol"),
    warehouse=True,
    fields=(
        _SESSION,
        _SYMBOL,
        *(Field(name, "float64", f"as-traded {name[:-4]} price", "USD") for name in _PRICES),
        Field("volume_shares", "float64", "as-traded volume", "shares"),
        Field(
            "close_move_pct",
            "float64",
            "close against the session before, corporate actions removed; null if none before",
            "%",
            True,
        ),
        Field("n_sources", "int64", "sources that gave a bar which passed", "count"),
        Field("n_agreed", "int64", "of these, sources whose close is the consensus", "count"),
        Field("chosen_source", "string", "source whose bar was taken where it is the consensus"),
        Field("volume_source", "string", "source whose volume was taken"),
        Field("flags", "strings", "warnings that stay with the bar"),
        _SIMULATED_FIELDS,
        _KNOWN_AT,
    ),
    checks=(
        Check("unique", ("session", "symbol"), reason="two bars for one symbol and session"),
        Check("row_count", (), {"min": 1}, reason="no bar at all"),
        *_BAR_CHECKS,
        Check(
            "in_range",
            ("close_move_pct",),
            {"min": -80.0, "max": 400.0},
            reason="one-session move no listed share has made without an action: unit error",
        ),
        Check(
            "in_range",
            ("close_move_pct",),
            {"min": -10.0, "max": 10.0},
            severity="warning",
            reason="price spike above 10 %",
        ),
    ),
)

CORE_MARKET_CORPORATE_ACTION = Contract(
    name="core_market__corporate_action",
    doc="Splits and dividends by ex-date, as known at that session.",
    grain="one row per ex-date session, symbol and kind",
    owner="validate_market_data",
    key=("session", "symbol", "kind"),
    warehouse=True,
    fields=(*_ACTION_FIELDS, _KNOWN_AT),
    checks=(
        Check("unique", ("session", "symbol", "kind")),
        Check("in_set", ("kind",), {"values": ["split", "dividend"]}),
        Check("in_range", ("split_ratio",), {"min": 0.0, "strict_min": True}),
        Check("in_range", ("dividend_usd",), {"min": 0.0, "strict_min": True}),
    ),
)

CORE_QUALITY_GATE_REPORT = Contract(
    name="core_quality__gate_report",
    doc="What Great Expectations said about one candidate artifact: the verdict of record.",
    grain="one document per gated partition",
    owner="validate_market_data",
    form="json",
    record=True,
    fields=_document(
        ("contract", "gated contract"),
        ("partition", "gated partition"),
        ("verdict", "passed or failed"),
        ("rows_in", "candidate rows"),
        ("rows_quarantined", "rows that failed a critical check"),
        ("results", "one entry per expectation: type, columns, severity, success, failing rows"),
        ("engine", "name and version of the validating library"),
    ),
)

CORE_QUALITY_QUARANTINE = Contract(
    name="core_quality__quarantine",
    doc="Rows that a gate kept out, each with every reason.",
    grain="one row per gated contract, session, symbol, failed check and candidate row",
    owner="validate_market_data",
    key=("contract", "session", "symbol", "check", "row_no"),
    warehouse=True,
    fields=(
        Field("contract", "string", "contract the row was meant for"),
        _SESSION,
        _SYMBOL,
        Field("check", "string", "failed check, for example not_above(low_usd, open_usd)"),
        Field("row_no", "int64", "position of the row in its candidate, from 0"),
        Field("reason", "string", "why the check exists, in words"),
        Field("row_json", "string", "the row as it came, JSON"),
    ),
)

CORE_QUALITY_DISAGREEMENT = Contract(
    name="core_quality__disagreement",
    doc="Where a source is apart from the consensus, or lacks or repeats a bar, and why.",
    grain="one row per session, symbol, source and kind",
    owner="validate_market_data",
    key=("session", "symbol", "source", "kind"),
    warehouse=True,
    fields=(
        _SESSION,
        _SYMBOL,
        _SOURCE,
        Field("kind", "string", "split_not_applied, unit_x100, ... (docs/consensus.md)"),
        Field("fields", "strings", "prices that are apart"),
        *(Field(name, "float64", f"the source's {name[:-4]}", "USD", True) for name in _PRICES),
        *(
            Field(name.replace("_usd", "_apart_pct"), "float64", "from the consensus", "%", True)
            for name in _PRICES
        ),
        Field("weight", "float64", "weight the source had earned by then", "", True),
        Field("evidence", "float64", "the rule's number", "", True),
        Field("volume_share", "float64", "volume over that of the sources that agree", "", True),
    ),
    checks=(Check("unique", ("session", "symbol", "source", "kind")),),
)

CORE_QUALITY_PROVENANCE = Contract(
    name="core_quality__provenance",
    doc="Of each cell of a session: who said what, who agreed, and why the others did not.",
    grain="one row per session, symbol, field and source that answered",
    owner="validate_market_data",
    key=("session", "symbol", "field", "source"),
    fields=(
        _SESSION,
        _SYMBOL,
        Field("field", "string", "open_usd, high_usd, low_usd or close_usd"),
        _SOURCE,
        Field("value_usd", "float64", "what the source says", "USD"),
        Field("consensus_usd", "float64", "weighted median of those that agree", "USD"),
        Field("apart_pct", "float64", "value against consensus", "%"),
        Field("agreed", "bool", "whether it lies within the threshold of the consensus"),
        Field("weight", "float64", "weight learned from the source's errors before this session"),
        Field("vote", "float64", "weight after the evidence of the session's own bars"),
        Field("dropped_because", "string", "kind of disagreement; null if it agreed", "", True),
    ),
)

_REPAIR_CELL = (
    Field("proposal", "string", "name of the proposal; its cells belong together"),
    _SESSION,
    _SYMBOL,
    _SOURCE,
    Field("field", "string", "which value of the source's bar"),
    Field("before", "float64", "value as it came; null where the bar is missing", "", True),
    Field("after", "float64", "value it should have"),
    Field("adds_bar", "bool", "whether the bar is missing and would be added"),
    Field("rule", "string", "what was recognised"),
    Field("confidence", "float64", "0 to 1"),
    Field("evidence", "string", "in words"),
)

CORE_QUALITY_REPAIR_PROPOSAL = Contract(
    name="core_quality__repair_proposal",
    doc="What could be repaired in the sources' bars of a session. Nothing is changed by it.",
    grain="one row per session, symbol, source and field",
    owner="validate_market_data",
    key=("session", "symbol", "source", "field"),
    fields=_REPAIR_CELL,
)

CORE_QUALITY_APPLIED_REPAIR = Contract(
    name="core_quality__applied_repair",
    doc="Proposals that a person has applied to a session's source bars and not taken back.",
    grain="one row per session, symbol, source and field",
    owner="marketlake repair",
    key=("session", "symbol", "source", "field"),
    freshness="on demand",
    fields=(
        *_REPAIR_CELL,
        Field("applied_by", "string", "who applied it"),
        Field("reason", "string", "why, in that person's words"),
    ),
)

OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT = Contract(
    name="out_data_validation__daily_integrity_report",
    doc="What was expected, present, missing, quarantined and unusual at a session.",
    grain="one document per session",
    owner="validate_market_data",
    form="json",
    fields=_document(
        ("session", "exchange session"),
        ("calendar", "exchange calendar with open and close, and whether it was a half day"),
        ("symbols", "expected, accepted, missing and quarantined symbols"),
        ("sources", "per source: asked, answered, failed, rows quarantined, agreement, weight"),
        ("gate", "verdict and counts"),
        ("anomalies", "findings by kind, with how many of them are alarms"),
        ("alarms", "each alarm: symbol, source, kind, severity, in words"),
        ("worst_symbols", "symbols with the most alarms and disagreements of the last sessions"),
        ("gaps", "per symbol, the sessions of the last quarter without a bar, and why"),
        ("repairs", "proposals for this session, and repairs in force"),
        ("caveats", "what this report cannot show"),
    ),
    export=_export("out_data_validation__daily_integrity_report", "json"),
)

OUT_DATA_VALIDATION_SOURCE_COMPARISON = Contract(
    name="out_data_validation__source_comparison",
    doc="How the sources of a session agree, cell by cell, and why one of them does not.",
    grain="one document per session",
    owner="validate_market_data",
    form="json",
    fields=_document(
        ("session", "exchange session"),
        ("sources", "per source: outcome, rows, agreement on closes, weight, why it was dropped"),
        ("threshold_pct", "per price, the discrepancy that is flagged"),
        ("comparisons", "per symbol and price: each source's value, the consensus, who agreed"),
        ("discrepancies", "entries above the threshold, each with its kind"),
        ("caveats", "what this comparison cannot show"),
    ),
    export=_export("out_data_validation__source_comparison", "json"),
)

OUT_DATA_VALIDATION_ANOMALY_LOG = Contract(
    name="out_data_validation__anomaly_log",
    doc="Everything unusual at a session, one line each.",
    grain="one row per session, symbol, source and kind of anomaly",
    owner="validate_market_data",
    key=("session", "symbol", "source", "kind"),
    fields=(
        _SESSION,
        _SYMBOL,
        Field("source", "string", "source by its name, or core"),
        Field("kind", "string", "missing_bar, quarantined, price_spike, ... (docs/integrity.md)"),
        Field("value", "float64", "measured value, where there is one", "", True),
        Field("expected", "float64", "value it should have, where there is one", "", True),
        Field("limit", "float64", "limit it was held against", "", True),
        Field("severity", "string", "critical, warning or info"),
        Field("detail", "string", "in words"),
    ),
    export=_export("out_data_validation__anomaly_log", "csv"),
)

OUT_REPORTS_INTEGRITY = Contract(
    name="out_reports__integrity",
    doc="The session's data quality on one page: source agreement, gaps calendar, worst symbols.",
    grain="one document per session",
    owner="validate_market_data",
    form="json",
    fields=_document(
        ("session", "exchange session"),
        ("report_sha256", "content hash of the integrity report on the page"),
        ("comparison_sha256", "content hash of the source comparison on the page"),
    ),
    export=Export("reports/integrity_{yyyymmdd}.html", "html"),
)

CORE_WAREHOUSE_BUILD = Contract(
    name="core_warehouse__build",
    doc="What dbt built and tested for a session.",
    grain="one document per session",
    owner="build_warehouse",
    form="json",
    record=True,
    fields=_document(
        ("session", "exchange session"),
        ("loaded", "rows inserted and deleted per loaded table"),
        ("nodes", "one entry per dbt node: id, status, seconds, message"),
        ("engine", "dbt version"),
    ),
)

CORE_FEATURES_DAILY = Contract(
    name="core_features__daily",
    doc="Close-only features of every universe member at a session, wide.",
    grain="one row per session and symbol",
    owner="build_features",
    key=("session", "symbol"),
    warehouse=True,
    fields=(
        _SESSION,
        _SYMBOL,
        *(Field(item.name, "float64", item.formula, "", True) for item in FEATURES),
        _SIMULATED,
        _KNOWN_AT,
    ),
    checks=(
        Check("unique", ("session", "symbol")),
        Check("row_count", (), {"min": 1}),
        Check("only_sessions", ("session",), {"calendar": "XNYS"}),
        Check("in_range", ("rsi_14d",), {"min": 0.0, "max": 100.0}),
        Check("in_range", ("rank_return_20d",), {"min": 0.0, "max": 1.0}),
        Check("in_range", ("drawdown_252d",), {"min": -1.0, "max": 0.0}),
    ),
)

CORE_FACTORS_DAILY = Contract(
    name="core_factors__daily",
    doc=(
        "Alpha158 and the classic indicators of every universe member with a bar at a session, "
        "wide. Published by the daily runs; training computes those of its history by itself."
    ),
    grain="one row per session and symbol",
    owner="build_features",
    key=("session", "symbol"),
    fields=(
        _SESSION,
        _SYMBOL,
        *(Field(item.name, "float32", item.formula, "", True) for item in FACTORS),
        Field("closes_simulated", "bool", "whether a generator made a close it depends on"),
        Field("simulated", "bool", "whether a generator made any input it depends on"),
        _KNOWN_AT,
    ),
    checks=(
        Check("unique", ("session", "symbol")),
        Check("row_count", (), {"min": 1}),
        Check("only_sessions", ("session",), {"calendar": "XNYS"}),
        Check("in_range", ("money_flow_index_14d",), {"min": 0.0, "max": 100.0}),
    ),
)

CORE_MODELS_MODEL = Contract(
    name="core_models__model",
    doc="The ensemble trained as of a session: how good it is out of fold, and what it is made of.",
    grain="one document per training session",
    owner="train_models",
    form="json",
    freshness="monthly",
    fields=_document(
        ("as_of", "session the training knew"),
        ("horizon_sessions", "label horizon"),
        ("profile", "how much was trained: quick or full"),
        ("fit_window", "first and last feature session, last label end"),
        ("features", "names of what models see, in order"),
        ("validation", "purged walk-forward: folds, embargo, metrics per model"),
        ("models", "per member: kind, parameters, seeds, weight; of the ensemble its calibration"),
        ("files", "name, hash and size of each file in core_models__file"),
        ("report", "figures with intervals, portfolios, drift, importance, null panel"),
        ("gate", "each check of the gate with its value and limit, and whether it held"),
        ("trials", "number of configurations that were tried"),
        ("caveats", "survivorship and simulation notes"),
    ),
)

CORE_MODELS_FILE = Contract(
    name="core_models__file",
    doc="The trained ensemble itself, in forms that run no code when loaded.",
    grain="one row per training session and file",
    owner="train_models",
    key=("as_of", "name"),
    freshness="monthly",
    fields=(
        Field("as_of", "date", "session the training knew"),
        Field("name", "string", "file: a member and seed, or what joins them"),
        Field("sha256", "string", "hash of its content"),
        Field("content", "binary", "its bytes"),
    ),
    checks=(Check("unique", ("as_of", "name")), Check("row_count", (), {"min": 1})),
)

CORE_MODELS_PROMOTION = Contract(
    name="core_models__promotion",
    doc="Which model became champion, from which session on, and why.",
    grain="one row per promotion",
    owner="train_models",
    key=("effective_from", "as_of"),
    freshness="monthly",
    fields=(
        Field("as_of", "date", "session the training knew"),
        Field("effective_from", "date", "first session the champion may predict"),
        Field("champion", "string", "name inside the model document of what predicts"),
        Field("model_sha256", "string", "content hash of the model document"),
        Field("rank_ic", "float64", "mean out-of-fold rank IC of the champion"),
        Field("rank_ic_low", "float64", "lower end of its 95 % interval"),
        Field("rank_ic_high", "float64", "upper end of its 95 % interval"),
        Field("passed_gate", "bool", "whether every check of the gate holds"),
        Field("reason", "string", "in words"),
    ),
)

OUT_REPORTS_TRAINING = Contract(
    name="out_reports__training",
    doc="A training on one page: gate, figures with intervals, portfolios, null panel, drift.",
    grain="one document per training session",
    owner="train_models",
    form="json",
    freshness="monthly",
    fields=_document(
        ("as_of", "session the training knew"),
        ("model_sha256", "content hash of the model document on the page"),
        ("passed_gate", "whether every check of the gate holds"),
    ),
    export=Export("reports/training_{yyyymmdd}.html", "html"),
)

CORE_SIGNALS_SIGNAL = Contract(
    name="core_signals__signal",
    doc="What the champion expects of each member, with an honest confidence.",
    grain="one row per session and symbol",
    owner="predict_signals",
    key=("session", "symbol"),
    warehouse=True,
    fields=(
        _SESSION,
        _SYMBOL,
        Field("score_bps", "float64", "predicted return above the universe mean", "bps"),
        Field("rank", "int64", "1 is the highest score"),
        Field("side", "string", "long, short or flat"),
        Field("probability_up", "float64", "calibrated P(return above the universe mean)"),
        Field("probability_right", "float64", "a second model's P(the direction is right)"),
        Field("conformal_set", "string", "directions not ruled out at 80 %: up, down, both, none"),
        Field("confidence", "float64", "out-of-fold hit rate of scores this strong"),
        Field("confidence_low", "float64", "lower end of its 95 % Wilson interval"),
        Field("confidence_high", "float64", "upper end of its 95 % Wilson interval"),
        Field("confidence_n", "int64", "out-of-fold predictions behind the confidence"),
        Field("base_rate", "float64", "hit rate of always taking the commoner direction"),
        Field("horizon_sessions", "int64", "sessions the prediction looks ahead"),
        Field("model_name", "string", "champion"),
        Field("model_sha256", "string", "content hash of the model document"),
        _SIMULATED,
        _KNOWN_AT,
    ),
    checks=(
        Check("unique", ("session", "symbol")),
        Check("row_count", (), {"min": 1}),
        Check("in_set", ("side",), {"values": ["long", "short", "flat"]}),
        Check("in_set", ("conformal_set",), {"values": ["up", "down", "both", "none"]}),
        Check("in_range", ("confidence",), {"min": 0.0, "max": 1.0}),
        Check("in_range", ("probability_up",), {"min": 0.0, "max": 1.0}),
        Check("in_range", ("probability_right",), {"min": 0.0, "max": 1.0}),
        Check("in_range", ("score_bps",), {"min": -5000.0, "max": 5000.0}),
        Check("not_above", ("confidence_low", "confidence")),
        Check("not_above", ("confidence", "confidence_high")),
    ),
)

OUT_ML_MODELS_LSTM_MODEL = Contract(
    name="out_ml_models__lstm_model",
    doc="The LSTM among the ensemble's members, as Keras's archive.",
    grain="one document per training session",
    owner="train_models",
    form="json",
    freshness="monthly",
    fields=_document(
        ("as_of", "session the training knew"),
        ("file", "its name in core_models__file; of several seeds the first"),
        ("sha256", "hash of the archive"),
        ("channels", "features it sees, in order"),
        ("lags", "sessions it sees"),
        ("model", "parameters, seeds, weight in the ensemble"),
        ("out_of_fold", "figures of the mean of its seeds, out of fold, with intervals"),
        ("base_rate", "what the commoner direction would have hit"),
    ),
    export=_export("out_ml_models__lstm_model", "keras"),
)

OUT_ML_MODELS_DAILY_PREDICTIONS = Contract(
    name="out_ml_models__daily_predictions",
    doc="The session's signals with the model and its validation beside them.",
    grain="one document per session",
    owner="predict_signals",
    form="json",
    fields=_document(
        ("session", "exchange session"),
        ("model", "champion, its training session and hash"),
        ("validation", "out-of-fold figures with intervals, base rate and sample size"),
        ("signals", "one entry per symbol, best first"),
        ("not_predicted", "members without a signal, each with its reason"),
        ("caveats", "survivorship and simulation notes"),
    ),
    export=_export("out_ml_models__daily_predictions", "json"),
)

OUT_ML_MODELS_MODEL_ACCURACY = Contract(
    name="out_ml_models__model_accuracy",
    doc="Out-of-fold figures of every trained model, as its training left them.",
    grain="one row per session, model and measure",
    owner="predict_signals",
    key=("session", "model_name", "measure"),
    fields=(
        _SESSION,
        Field("model_name", "string", "model, or 'base_rate'"),
        Field("measure", "string", "accuracy of P(up) > 0.5, side_hit_rate, mcc, rank_ic, ..."),
        Field("value", "float64", "estimate"),
        Field("low", "float64", "lower end of the 95 % interval", "", True),
        Field("high", "float64", "upper end of the 95 % interval", "", True),
        Field("n", "int64", "sample size: rows, of ic and rank_ic sessions"),
        Field("champion", "bool", "whether this model predicts this session"),
    ),
    export=_export("out_ml_models__model_accuracy", "csv"),
)

OUT_RISK_ANALYSIS_PORTFOLIO_RISK = Contract(
    name="out_risk_analysis__portfolio_risk",
    doc="Risk of the reference book: equal weight of the universe's members with a price.",
    grain="one row per session, scope, name and measure",
    owner="assess_risk",
    key=("session", "scope", "name", "measure"),
    warehouse=True,
    fields=(
        _SESSION,
        Field("scope", "string", "book, sector or symbol"),
        Field("name", "string", "which book, sector or symbol"),
        Field("measure", "string", "for example var_95_pct, weight_pct"),
        Field("value", "float64", "estimate in the unit of the measure's suffix"),
        Field("n", "int64", "observations behind it"),
        _SIMULATED,
    ),
    checks=(
        Check("unique", ("session", "scope", "name", "measure")),
        Check("row_count", (), {"min": 1}),
        Check("in_set", ("scope",), {"values": ["book", "sector", "symbol"]}),
    ),
    export=_export("out_risk_analysis__portfolio_risk", "csv"),
)

OUT_RISK_ANALYSIS_MARKET_REGIME = Contract(
    name="out_risk_analysis__market_regime",
    doc="The market regime from the benchmark's past alone.",
    grain="one document per session",
    owner="assess_risk",
    form="json",
    fields=_document(
        ("session", "exchange session"),
        ("regime", "bull, bear or sideways"),
        ("volatility_state", "calm, normal or stressed"),
        ("evidence", "the numbers and limits behind the call"),
        ("history", "regimes of the last sessions"),
        ("rule", "the rule in words"),
    ),
    export=_export("out_risk_analysis__market_regime", "json"),
)

OUT_REPORTS_DAILY = Contract(
    name="out_reports__daily",
    doc="The day on one page: gate, signals, risk, regime, lineage.",
    grain="one document per session",
    owner="report_daily",
    form="json",
    fields=_document(
        ("session", "exchange session"),
        ("headline", "the numbers a person reads first"),
        ("signals", "strongest signals"),
        ("risk", "risk of the reference book"),
        ("regime", "market regime"),
        ("integrity", "gate, quarantine and anomalies"),
        ("inputs", "content hashes of what the page was made from"),
        ("caveats", "what the numbers cannot show"),
    ),
    export=Export("reports/daily_report_{yyyymmdd}.html", "html"),
)

OUT_DOCS_DBT = Contract(
    name="out_docs__dbt",
    doc="dbt's documentation of the warehouse: models, columns, tests, lineage.",
    grain="one document per newest built session",
    owner="publish_docs",
    form="json",
    freshness="on demand",
    fields=_document(
        ("session", "newest session that the warehouse was built for"),
        ("nodes", "number of models, tests, seeds and sources"),
        ("relations", "tables and views that the warehouse has, each with its number of columns"),
        ("engine", "name and version of what drew the page"),
    ),
    export=Export("docs/dbt_docs_{yyyymmdd}.html", "html"),
)

OUT_DOCS_QUALITY = Contract(
    name="out_docs__quality",
    doc="What the quality suites demand, and what the gates said about the newest sessions.",
    grain="one document per newest gated session",
    owner="publish_docs",
    form="json",
    freshness="on demand",
    fields=_document(
        ("session", "newest gated session on the page"),
        ("suites", "number of checks per suite"),
        (
            "verdicts",
            "one entry per gated artifact: verdict, rows, quarantined rows, failed checks",
        ),
        ("engine", "name and version of what drew the page"),
    ),
    export=Export("docs/data_docs_{yyyymmdd}.html", "html"),
)

CATALOG: tuple[Contract, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Contract)
)
"""Every contract, in the order of the daily run."""


def contract(name: str) -> Contract:
    """Return a contract by name; ConfigError names the nearest ones if there is none."""
    for item in CATALOG:
        if item.name == name:
            return item
    raise ConfigError(
        expected="a contract of the catalog",
        was=repr(name),
        where="contracts/catalog.py",
        todo="run `marketlake contracts list` for the names",
    )
