from __future__ import annotations

import pytest
from curl_cffi import requests
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.sources.recording import RecordingSession, VendorCall, redacted_url

CHART = "https://query2.finance.yahoo.com/v8/finance/chart/KO"


@pytest.mark.parametrize(
    ("url", "params", "shown"),
    [
        (CHART, {"interval": "1d", "crumb": "x"}, f"{CHART}?interval=1d"),
        (f"{CHART}?a=1&apikey=x", None, f"{CHART}?a=1"),
        ("https://user:pw@host.example/p?token=x#f", None, "https://host.example/p"),
        ("https://host.example/p", [("q", "a b"), ("KEY", "x")], "https://host.example/p?q=a+b"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, params: object, shown: str) -> None:
    assert redacted_url(url, params) == shown  # type: ignore[arg-type]


def test_every_request_is_reported_whether_it_succeeds_or_not(
    vendors: RunningSandbox, namespace: str
) -> None:
    egress = vendors.egress(namespace)
    vendors.control("POST", "/__ctl/faults", {"namespace": namespace, "kind": "reset", "times": 1})
    calls: list[VendorCall] = []
    with RecordingSession(proxy=egress.proxy_url, verify=str(egress.ca_bundle)) as session:
        session.begin(calls.append, limit_s=5.0)
        with pytest.raises(requests.exceptions.RequestException):
            session.get(CHART)
        session.get(CHART, params={"range": "1d"})
    assert [(call.status, call.error is None) for call in calls] == [(None, False), (200, True)]
    assert [item.url for item in session.exchanges] == [f"{CHART}?range=1d"]
    assert session.exchanges[0].body_sha256 == calls[1].body_sha256
    assert calls[1].bytes == len(session.exchanges[0].body) > 0


def test_no_request_may_outlast_the_limit(vendors: RunningSandbox, namespace: str) -> None:
    egress = vendors.egress(namespace)
    vendors.control("POST", "/__ctl/faults", {"namespace": namespace, "kind": "hang"})
    calls: list[VendorCall] = []
    with RecordingSession(proxy=egress.proxy_url, verify=str(egress.ca_bundle)) as session:
        session.begin(calls.append, limit_s=0.5)
        with pytest.raises(requests.exceptions.Timeout):
            session.get(CHART, timeout=60)
    assert 0.4 < calls[0].seconds < 3.0
