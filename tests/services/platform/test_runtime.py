"""Ports and secrets are chosen once and then stay."""

from __future__ import annotations

import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from marketlake.errors import ConfigError
from marketlake.services.platform.environment import component_environment
from marketlake.services.platform.ports import (
    INTERNAL_PORTS,
    KNOWN_PORTS,
    Claims,
    free_ports,
    is_free,
)
from marketlake.services.platform.process import Program, Supervised
from marketlake.services.platform.runtime import alone, prepare
from marketlake.settings import Settings, load_settings


def secrets_of(settings: Settings) -> list[str]:
    return [
        settings.lake.access_key.get_secret_value(),
        settings.lake.secret_key.get_secret_value(),
        settings.postgres.password.get_secret_value(),
        settings.ledger.token.get_secret_value(),
        settings.sandbox.control_token.get_secret_value(),
        settings.airflow.broker_password.get_secret_value(),
        settings.airflow.password.get_secret_value(),
        settings.airflow.jwt_secret.get_secret_value(),
        settings.airflow.fernet_key.get_secret_value(),
    ]


def test_a_second_preparation_changes_nothing(tmp_path: Path) -> None:
    first = prepare(tmp_path / "home")
    text = first.runtime_env.read_text()
    assert prepare(tmp_path / "home") == first
    assert first.runtime_env.read_text() == text


def test_a_folder_with_somebody_elses_files_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    mode = tmp_path.stat().st_mode
    with pytest.raises(ConfigError, match=r"such as letter\.txt"):
        prepare(tmp_path)
    with pytest.raises(ConfigError, match="an empty folder"), alone(tmp_path):
        pytest.fail("the lock was given")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    assert tmp_path.stat().st_mode == mode


def test_commands_that_begin_at_once_agree_on_ports_and_secrets(tmp_path: Path) -> None:
    def begin(home: Path) -> Settings:
        with alone(home):
            return prepare(home, usual_ports=False)

    agreed = []
    with ThreadPoolExecutor(max_workers=8) as pool:
        # A port that another program of this machine takes meanwhile is rightly replaced: not
        # every time. Commands that did not wait for each other would differ every time.
        for number in range(3):
            first, *others = pool.map(begin, [tmp_path / f"home{number}"] * 8)
            assert all(secrets_of(one) == secrets_of(first) for one in others)
            agreed.append(all(one == first for one in others))
    assert any(agreed)


def ports_of(settings: Settings) -> set[int | None]:
    sandbox = settings.sandbox
    return {
        urlsplit(settings.lake.endpoint_url).port,
        urlsplit(settings.airflow.base_url).port,
        settings.postgres.port,
        settings.ledger.port,
        sandbox.http_port,
        sandbox.tls_port,
        sandbox.proxy_port,
    }


def test_every_secret_is_made_and_differs(tmp_path: Path) -> None:
    made = secrets_of(prepare(tmp_path))
    assert all(len(secret) >= 32 for secret in made)
    assert len(set(made)) == len(made)


def test_secrets_are_not_in_the_printed_settings(tmp_path: Path) -> None:
    settings = prepare(tmp_path)
    printed = repr(settings) + settings.model_dump_json()
    assert not [secret for secret in secrets_of(settings) if secret in printed]


def test_only_the_owner_can_read_the_secrets(tmp_path: Path) -> None:
    assert prepare(tmp_path).runtime_env.stat().st_mode & 0o777 == 0o600


def test_a_usual_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    with socket.socket() as rival:
        usual = Settings(home=tmp_path).postgres.port
        if is_free(usual):
            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rival.bind(("127.0.0.1", usual))
            rival.listen()
        chosen = prepare(tmp_path).postgres.port
        assert chosen != usual
        assert is_free(chosen)


def test_platforms_that_start_at_once_choose_different_ports(tmp_path: Path) -> None:
    with Claims() as first, Claims() as second:
        one = prepare(tmp_path / "one", claims=first)
        two = prepare(tmp_path / "two", claims=second)
        assert not ports_of(one) & ports_of(two)
        (port,) = free_ports(1)
        assert first.take(port)
        assert not second.take(port)
    with Claims() as later:
        assert later.take(port)


def test_a_port_taken_by_somebody_since_the_last_start_is_replaced(tmp_path: Path) -> None:
    before = prepare(tmp_path, usual_ports=False)
    port = urlsplit(before.airflow.base_url).port
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", port))
        rival.listen()
        after = prepare(tmp_path, usual_ports=False)
    assert after.airflow.base_url != before.airflow.base_url
    assert after.postgres.port == before.postgres.port
    assert secrets_of(after) == secrets_of(before)


def test_a_port_held_by_the_children_of_a_killed_component_is_kept(tmp_path: Path) -> None:
    settings = prepare(tmp_path, usual_ports=False)
    port = urlsplit(settings.airflow.base_url).port or 0
    listen = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(99)"
    lead = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {listen!r}])"
    program = Program(
        name="api-server",
        argv=(sys.executable, "-c", lead),
        env={},
        cwd=tmp_path,
        probe=lambda: "does not listen" if is_free(port) else None,
        identity=(),
    )
    server = Supervised(program, run_dir=tmp_path / "run", log_dir=tmp_path / "logs")
    try:
        server.start()
        os.kill(server.pid or 0, signal.SIGKILL)  # no wait: it may be dead, or just about to be
        assert not is_free(port)
        assert prepare(tmp_path, usual_ports=False).airflow.base_url == settings.airflow.base_url
    finally:
        server.stop()


def test_the_sandbox_is_the_way_out_and_knows_the_session(tmp_path: Path) -> None:
    settings = prepare(tmp_path / "with a space and a 'quote'")
    assert settings.egress.proxy_url is not None
    assert settings.egress.proxy_url.startswith("http://{session}@127.0.0.1:")
    ca_bundle = settings.egress.ca_bundle
    assert ca_bundle == tmp_path / "with a space and a 'quote'" / "sandbox" / "ca.pem"


def test_live_mode_has_no_sandbox_on_its_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETLAKE_MODE", "live")
    assert prepare(tmp_path).egress.proxy_url is None
    assert load_settings(tmp_path).egress.ca_bundle is None


def test_a_state_folder_remembers_that_it_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETLAKE_MODE", "live")
    prepare(tmp_path)
    monkeypatch.delenv("MARKETLAKE_MODE")
    assert load_settings(tmp_path).mode == "live"
    monkeypatch.setenv("MARKETLAKE_MODE", "sandbox")
    with pytest.raises(ConfigError, match="needs MARKETLAKE_MODE=live"):
        prepare(tmp_path)


def test_free_ports_are_distinct() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert set(ports) <= set(KNOWN_PORTS)
    assert not set(KNOWN_PORTS) & set(INTERNAL_PORTS)


def test_too_few_free_ports_are_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", port))
        rival.listen()
        with pytest.raises(ConfigError, match=r"1 free ports from .*was 0"):
            free_ports(1, range(port, port + 1))


@pytest.mark.parametrize(
    "leaked",
    ["AWS_PROFILE", "AWS_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE", "PYTHONPATH",
     "AIRFLOW__CORE__EXECUTOR", "PGHOST", "DBT_PROFILES_DIR", "OPENLINEAGE_URL"],
)  # fmt: skip
def test_what_a_shell_leaks_does_not_reach_a_component(tmp_path: Path, leaked: str) -> None:
    env = component_environment(Settings(home=tmp_path), {leaked: "leaked", "PATH": "/bin"})
    assert env.get(leaked) != "leaked"
    assert env["PATH"] == "/bin"


def test_live_mode_keeps_the_way_out_of_a_company_network(tmp_path: Path) -> None:
    live = Settings(home=tmp_path, mode="live")
    env = component_environment(live, {"HTTPS_PROXY": "http://proxy:3128", "AWS_PROFILE": "me"})
    assert env["HTTPS_PROXY"] == "http://proxy:3128"
    assert "AWS_PROFILE" not in env
    assert env["NO_PROXY"] == "127.0.0.1,localhost"
