from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from curl_cffi import requests
from marketlake.calendars import Calendar
from marketlake.services.platform.ports import free_ports
from marketlake.services.sandbox.embedded import RunningSandbox, running_sandbox
from marketlake.settings import PROJECT_ROOT, EgressSettings, Settings

CHART = "https://query2.finance.yahoo.com/v8/finance/chart/AAPL"
RANGE = {"period1": "0", "period2": "9999999999", "interval": "1d", "events": "div,splits"}


def ask(egress: EgressSettings, url: str = CHART, **params: str) -> Any:
    with requests.Session(proxy=egress.proxy_url, verify=str(egress.ca_bundle)) as session:
        return session.get(url, params={**RANGE, **params}, timeout=10)


def shown_days(chart: Any) -> list[date]:
    return [datetime.fromtimestamp(stamp, UTC).date() for stamp in chart["timestamp"]]


@pytest.mark.parametrize("known", [date(1995, 3, 6), date(2008, 9, 15), date(2022, 12, 22)])
def test_a_namespace_never_shows_anything_after_its_clock(
    vendors: RunningSandbox, known: date
) -> None:
    result = ask(vendors.egress(known.isoformat())).json()["chart"]["result"][0]
    assert shown_days(result)[-1] == known
    for kind in ("dividends", "splits"):
        for event in result.get("events", {}).get(kind, {}).values():
            assert datetime.fromtimestamp(event["date"], UTC).date() <= known
    latest = datetime.fromtimestamp(result["meta"]["regularMarketTime"], UTC).date()
    assert latest == known


def test_namespaces_side_by_side_each_see_their_own_session(vendors: RunningSandbox) -> None:
    sessions = Calendar.of("XNYS").sessions(date(2015, 1, 2), date(2015, 1, 30))

    def newest(session: date) -> date:
        result = ask(vendors.egress(session.isoformat())).json()["chart"]["result"][0]
        return shown_days(result)[-1]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(newest, sessions)) == sessions


def test_coarser_bars_end_at_the_clock_too(vendors: RunningSandbox) -> None:
    egress = vendors.egress("2008-09-15")
    daily = ask(egress).json()["chart"]["result"][0]["indicators"]["quote"][0]
    for interval in ("1wk", "1mo", "3mo"):
        coarse = ask(egress, interval=interval).json()["chart"]["result"][0]
        quote = coarse["indicators"]["quote"][0]
        assert quote["close"][-1] == daily["close"][-1]
        assert max(quote["high"]) == max(daily["high"])
        assert sum(quote["volume"]) == sum(daily["volume"])


def test_other_hosts_are_refused_so_nothing_leaks(vendors: RunningSandbox) -> None:
    with pytest.raises(requests.exceptions.RequestException, match="403"):
        ask(vendors.egress("leak"), "https://example.com/")


def test_the_clock_can_be_put_and_reset(vendors: RunningSandbox, namespace: str) -> None:
    put = {"namespace": namespace, "at": "2012-04-16T20:30:00Z"}
    assert vendors.control("PUT", "/__ctl/clock", put) == {"known": "2012-04-16"}
    result = ask(vendors.egress(namespace)).json()["chart"]["result"][0]
    assert shown_days(result)[-1] == date(2012, 4, 16)
    vendors.control("POST", "/__ctl/reset", {"namespace": namespace})
    clock = vendors.control("GET", f"/__ctl/clock?namespace={namespace}")
    assert clock == {"known": "2022-12-28"}


def test_requests_are_recorded_with_secrets_hashed(vendors: RunningSandbox, namespace: str) -> None:
    ask(vendors.egress(namespace), crumb="very-secret")
    rows = vendors.control("GET", f"/__ctl/requests?namespace={namespace}")
    assert [(row["vendor"], row["symbol"], row["fault"]) for row in rows] == [
        ("yahoo", "AAPL", None)
    ]
    assert rows[0]["query"]["crumb"].startswith("sha256:")
    assert "very-secret" not in str(rows)


def test_planted_faults_are_listed(vendors: RunningSandbox) -> None:
    rows = vendors.control("GET", "/__ctl/planted?session=2022-12-27&vendor=yahoo")
    assert [(row["symbol"], row["kind"]) for row in rows] == [
        ("KO", "missing_days"),
        ("PFE", "null_row"),
    ]
    assert len(vendors.control("GET", "/__ctl/planted?vendor=yahoo")) == 4
    everyone = {row["vendor"] for row in vendors.control("GET", "/__ctl/planted")}
    assert everyone == {"yahoo", "alpha_vantage", "iex"}


def test_control_needs_the_token_and_says_what_is_wrong(vendors: RunningSandbox) -> None:
    stranger = RunningSandbox(
        vendors.host, vendors.http_port, vendors.proxy_port, vendors.ca_file, token="guess"
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        stranger.control("GET", "/__ctl/planted")
    assert refused.value.code == 401
    assert stranger.control("GET", "/healthz")["status"] == "ok"
    with pytest.raises(urllib.error.HTTPError) as wrong:
        vendors.control("POST", "/__ctl/faults", {"kind": "gremlins"})
    assert wrong.value.code == 400
    assert b"http_429" in wrong.value.read()
    with pytest.raises(urllib.error.HTTPError) as incomplete:
        vendors.control("PUT", "/__ctl/clock", {"namespace": "n"})
    assert b"'at' is missing" in incomplete.value.read()


def test_an_unsupported_interval_is_refused_as_yahoo_does(vendors: RunningSandbox) -> None:
    answer = ask(vendors.egress("2020-01-02"), interval="7s")
    assert answer.status_code == 422
    assert answer.json()["chart"]["error"]["code"] == "Unprocessable Entity"


def test_the_generated_market_is_served_inside_this_process(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        market={"name": "generated"},
        sandbox={"http_port": 0, "tls_port": 0, "proxy_port": 0, "control_token": "t"},
    )
    with running_sandbox(settings) as sandbox:
        result = ask(sandbox.egress("2026-11-20")).json()["chart"]["result"][0]
        assert shown_days(result)[-1] == date(2026, 11, 20)
        assert "adjusted_close" in result["meta"]["simulated"]
        # Planted faults belong to the packaged market alone.
        known = ask(sandbox.egress("2022-12-27"), CHART.replace("AAPL", "KO")).json()
        assert shown_days(known["chart"]["result"][0])[-1] == date(2022, 12, 27)


def test_the_process_starts_in_seconds_and_stops_on_sigterm(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
        "MARKETLAKE_HOME": str(tmp_path),
        "MARKETLAKE_SANDBOX__HTTP_PORT": str(port),
        "MARKETLAKE_SANDBOX__TLS_PORT": "0",
        "MARKETLAKE_SANDBOX__PROXY_PORT": "0",
        "MARKETLAKE_SANDBOX__CONTROL_TOKEN": "t",
    }
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "marketlake.services.sandbox"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        sandbox = RunningSandbox("127.0.0.1", port, 0, tmp_path / "sandbox" / "ca.pem", "t")
        while True:
            try:
                health = sandbox.control("GET", "/healthz")
                break
            except urllib.error.URLError:
                assert process.poll() is None
                assert time.monotonic() - started < 60
                time.sleep(0.05)
        used = psutil.Process(process.pid).cpu_times()
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert health["symbols"] == 21
    # Processor time, because a busy machine says nothing about us: about 1.5 s of it.
    assert used.user + used.system < 5
    assert process.returncode == 0
    assert out == b""
    assert b"Traceback" not in err
