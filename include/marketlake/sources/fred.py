"""FRED, the data of the Federal Reserve Bank of St. Louis: indices, VIX, rates, FX, commodities.

Without a key the CSV behind its graphs is read, which shows the newest revision; with one its API,
which shows what was known on a day. A holiday is a row without a value, and no observation.
What does not belong here: retries, and any judgement of the values.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import partial

from defusedxml import ElementTree

from marketlake.calendars import Calendar
from marketlake.errors import EmptyAnswer, NotFound
from marketlake.settings import EgressSettings, FredSettings, Settings
from marketlake.sources.failures import UNREADABLE, Failures, csv_rows
from marketlake.sources.history import (
    SourceHistory,
    action_frame,
    bar_frame,
    lead_start,
    observation_frame,
    response_rows,
)
from marketlake.sources.recording import (
    Exchange,
    RecordingSession,
    VendorCall,
    address,
    open_session,
)
from marketlake.sources.source import CallPlan, FetchOne, Source, one_by_one
from marketlake.types import Semantics

_KEY = "MARKETLAKE_FRED__API_KEY"
_DAY_COLUMNS = frozenset({"observation_date", "DATE"})
_ABSENT = frozenset({"", "."})


def fetch_history(
    symbol: str,
    first: date,
    last: date,
    *,
    as_of: date,
    calendar: Calendar,
    egress: EgressSettings,
    settings: FredSettings,
    on_call: Callable[[VendorCall], None],
) -> SourceHistory:
    """Fetch a series' observations from ``first`` to ``last``, both included.

    Raises an error of the tree for every failure.
    """
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    failures = Failures(
        "fred",
        "FRED",
        symbol,
        settings.timeout_s,
        (_KEY,) if key else (),
        (key,) if key else (),
    )
    with open_session(egress, as_of, timeout_s=settings.timeout_s, on_call=on_call) as session:
        ask = _ask_api if key else _ask_graph
        values = ask(session, failures, settings, symbol, lead_start(first), last, as_of=as_of)
        answer = session.exchanges[-1]
        return SourceHistory(
            symbol=symbol,
            bars=bar_frame(symbol, [], {}, first, last, calendar=calendar),
            actions=action_frame(symbol, ()),
            later_splits=action_frame(symbol, ()),
            responses=response_rows(symbol, [answer]),
            calls=session.calls,
            observations=observation_frame(symbol, values, first, last, simulated=answer.simulated),
        )


def _ask_graph(
    session: RecordingSession,
    failures: Failures,
    settings: FredSettings,
    symbol: str,
    first: date,
    last: date,
    *,
    as_of: date,
) -> dict[date, float | None]:
    base_url = address(settings.base_url, as_of)
    parameters = {"id": symbol, "cosd": first.isoformat(), "coed": last.isoformat()}
    url = f"{base_url}/graph/fredgraph.csv"
    return _values(session, failures, url, parameters, values_of_csv)


def _ask_api(
    session: RecordingSession,
    failures: Failures,
    settings: FredSettings,
    symbol: str,
    first: date,
    last: date,
    *,
    as_of: date,
) -> dict[date, float | None]:
    base_url = address(settings.api_base_url, as_of)
    parameters = {
        "series_id": symbol,
        "api_key": settings.api_key.get_secret_value() if settings.api_key else "",
        "observation_start": first.isoformat(),
        "observation_end": last.isoformat(),
        # The vintage: a value that was revised later is shown as it was then.
        "realtime_start": as_of.isoformat(),
        "realtime_end": as_of.isoformat(),
    }
    url = f"{base_url}/fred/series/observations"
    return _values(session, failures, url, parameters, values_of_xml)


def _values(
    session: RecordingSession,
    failures: Failures,
    url: str,
    parameters: dict[str, str],
    parse: Callable[[bytes, str], dict[date, float | None]],
) -> dict[date, float | None]:
    answer = failures.get(session, url, parameters, refused=partial(_refused, failures))
    try:
        values = parse(answer.body, failures.symbol)
    except (SyntaxError, *UNREADABLE) as error:
        raise failures.unreadable(answer, error) from error
    if all(value is None for value in values.values()):
        raise failures.error(
            EmptyAnswer, "values", "none", "check that the series covers this span"
        )
    return values


def _refused(failures: Failures, answer: Exchange) -> Exception:
    """Return the error; the API says both of a key and of a series that they are a bad request."""
    if answer.status == 400 and b"api_key" in answer.body:
        return failures.auth_failed(f"HTTP 400, {answer.body.decode('utf-8', 'replace')}")
    if answer.status == 400 and b"series does not exist" in answer.body:
        was = "HTTP 400, the series does not exist"
        return failures.error(NotFound, "a series that FRED knows", was, "correct the series")
    return failures.refused(answer)


def values_of_csv(body: bytes, symbol: str) -> dict[date, float | None]:
    """Return each day's value of a graph's CSV; ValueError when it is not one, whole and ours."""
    head, *rows = csv_rows(body)
    if len(head) != 2 or head[0] not in _DAY_COLUMNS or head[1] != symbol:
        raise ValueError(f"the columns {head[:6]}")
    return {date.fromisoformat(day): _number(value) for day, value in rows}


def values_of_xml(body: bytes, _: str) -> dict[date, float | None]:
    """Return each day's value of the API's XML; an error when it is not that."""
    root = ElementTree.fromstring(body)
    if root.tag != "observations":
        raise ValueError(f"<{root.tag}>")
    rows = root.findall("observation")
    return {date.fromisoformat(row.attrib["date"]): _number(row.attrib["value"]) for row in rows}


def _number(text: str) -> float | None:
    return None if text in _ABSENT else float(text)


def source(settings: Settings) -> Source:
    """Return FRED as these settings reach it."""
    fetch: FetchOne = partial(fetch_history, egress=settings.egress, settings=settings.fred)
    return Source(
        name="fred",
        vendor="FRED",
        semantics=Semantics(
            basis="value", close="value", volume="none", lag_minutes=settings.fred.lag_minutes
        ),
        plan=CallPlan(a_minute=settings.fred.calls_a_minute),
        fetch=one_by_one(fetch),
        kinds=frozenset({"series"}),
        # Its key is optional: without one the graph's own pages are asked.
        credentials=(_KEY,) if settings.fred.api_key else (),
    )
