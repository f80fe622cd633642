from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from curl_cffi import requests
from marketlake.cli.sandbox import rule_of
from marketlake.errors import ConfigError
from marketlake.settings import PROJECT_ROOT

BARS = pl.DataFrame(
    {
        "symbol": ["BRK-B"] * 3 + ["VIXCLS"] * 3,
        "date": [date(2020, 1, 2), date(2020, 1, 3), date(2020, 1, 6)] * 2,
        "open": [100.0, 104.0, 53.0, 12.0, 14.0, 13.0],
        "high": [101.0, 105.0, 54.0, 12.0, 14.0, 13.0],
        "low": [99.0, 103.0, 52.0, 12.0, 14.0, 13.0],
        "close": [100.0, 104.0, 53.0, 12.0, 14.0, 13.0],
        "volume": [10.0, 10.0, 20.0, 0.0, 0.0, 0.0],
        "split": [1.0, 1.0, 2.0, 1.0, 1.0, 1.0],
    }
)


def test_a_strangers_data_is_served_with_the_faults_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    folder.mkdir()
    BARS.write_parquet(folder / "bars.parquet")
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "import marketlake.cli; marketlake.cli.main()", "sandbox"),
            *("--data", str(folder), "--port", "0", "--token", "t", "--at", "2020-01-06"),
            *("--fault", "http_429:vendor=stooq,times=1", "--difference-bps", "0"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT_ROOT / "include"),
            "MARKETLAKE_HOME": str(tmp_path / "home"),
            "MARKETLAKE_ENV_FILE": os.devnull,
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "docs/sandbox.md" in line:
                break
        told = "".join(lines)
        proxy = re.search(r"proxy  (\S+)", told)
        authority = re.search(r"CA     (\S+)", told)
        base = re.search(r"iex +(http\S+)", told)
        assert proxy is not None
        assert authority is not None
        assert base is not None
        assert base[1].endswith("/2020-01-06/iex")
        bars = "/v2/stocks/bars?symbols=BRK.B&timeframe=1Day&feed=iex&start=2020-01-02"
        keys = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
        answer = requests.get(base[1] + bars, headers=keys, timeout=10).json()
        # As traded, under the market's own clock.
        assert [row["c"] for row in answer["bars"]["BRK.B"]] == [100.0, 104.0, 53.0]
        early = base[1].replace("2020-01-06", "2020-01-03")
        answer = requests.get(early + bars, headers=keys, timeout=10).json()
        assert len(answer["bars"]["BRK.B"]) == 2
        download = "https://stooq.com/q/d/l/?s=brk-b.us&i=d"
        asked = [
            requests.get(download, proxy=proxy[1], verify=authority[1], timeout=10)
            for _ in range(2)
        ]
        assert [item.status_code for item in asked] == [429, 200]
        assert asked[1].text.splitlines()[1].startswith("2020-01-02,50.000000,")
        series = base[1].replace("/iex", "/fred") + "/graph/fredgraph.csv?id=VIXCLS"
        text = requests.get(series, timeout=10).text
        assert (
            text
            == "observation_date,VIXCLS\n2020-01-02,12.00\n2020-01-03,14.00\n2020-01-06,13.00\n"
        )
        control = base[1].split("/2020")[0] + "/__ctl/requests"
        request = urllib.request.Request(  # noqa: S310
            control, headers={"Authorization": "Bearer t"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            assert len(json.load(response)) == 5
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_fault_is_written_in_one_word() -> None:
    assert rule_of("reset") == {"kind": "reset", "args": {}}
    assert rule_of("outlier:symbol=KO,sessions=2022-12-21+2022-12-22,factor=10,after=2") == {
        "kind": "outlier",
        "symbol": "KO",
        "after": 2,
        "args": {"sessions": ["2022-12-21", "2022-12-22"], "factor": 10.0},
    }
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        rule_of("outlier:KO")
