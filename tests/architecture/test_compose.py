"""docker-compose.yml, read by docker compose itself: nothing in it that the code does not know.

No container engine is needed. What the components do with these settings is tried in
``tests/services/platform/test_foreground.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from marketlake.services.platform import foreground
from marketlake.services.platform.airflow import airflow_environment
from marketlake.services.platform.runtime import sandbox_egress
from marketlake.settings import PROJECT_ROOT, Settings, load_settings
from pydantic import BaseModel, SecretStr

Document = dict[str, Any]

RAW: Document = yaml.safe_load((PROJECT_ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
OWN = sorted(name for name, one in RAW["services"].items() if "build" in one)
SERVICES = sorted(RAW["services"])


def secrets_in(section: type[BaseModel], prefix: str = "MARKETLAKE_") -> Iterator[str]:
    """Yield the variables of the secrets that a platform generates for itself."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if kind is SecretStr:
            yield f"{prefix}{name.upper()}"
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from secrets_in(kind, f"{prefix}{name.upper()}__")


SECRETS = sorted(secrets_in(Settings))
FILLED = {name: f"secret {number} of a test" for number, name in enumerate(SECRETS)}


def compose(folder: Path, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Let docker compose read the file beside an ``.env`` with these values."""
    spec = importlib.util.find_spec("compose")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    for name in ("docker-compose.yml", "Dockerfile"):
        shutil.copy(PROJECT_ROOT / name, folder)
    lines = [f"{name}='{value}'\n" for name, value in values.items()]
    (folder / ".env").write_text("".join(lines), encoding="utf-8")
    return subprocess.run(
        [str(Path(places[0]) / "docker-compose"), "config", "--format", "json"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def services_with(folder: Path, **values: str) -> Document:
    done = compose(folder, FILLED | values)
    assert done.returncode == 0, done.stderr
    services: Document = json.loads(done.stdout)["services"]
    return services


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """Return the services as docker compose understands them."""
    return services_with(tmp_path_factory.mktemp("compose"))


def settings_of(service: Document, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings that a component finds in its container."""
    for name in [name for name in os.environ if name.startswith("MARKETLAKE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MARKETLAKE_ENV_FILE", os.devnull)
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_the_distributed_shape_is_complete() -> None:
    assert set(OWN) == {*foreground.NAMES}
    assert set(SERVICES) - set(OWN) == {"postgres", "minio", "redis"}


@pytest.mark.parametrize("secret", SECRETS)
def test_without_one_of_its_secrets_nothing_starts_and_the_message_says_what_to_do(
    tmp_path: Path, secret: str
) -> None:
    values = {name: value for name, value in FILLED.items() if name != secret}
    refused = compose(tmp_path, values)
    assert refused.returncode != 0
    assert f"{secret} is missing a value: set it in .env" in refused.stderr


def test_no_secret_has_a_value_in_the_file() -> None:
    shared = RAW["x-marketlake"]["environment"]
    assert {name for name in shared if name in SECRETS} == set(SECRETS)
    assert all(shared[name].startswith(f"${{{name}:?") for name in SECRETS)
    for name in set(SERVICES) - set(OWN):
        for variable, value in RAW["services"][name]["environment"].items():
            assert variable == "POSTGRES_USER" or ":?" in value, variable


def test_the_example_environment_names_every_secret() -> None:
    text = (PROJECT_ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(SECRETS) <= set(re.findall(r"^# (MARKETLAKE_\w+)=$", text, flags=re.M))


@pytest.mark.parametrize("name", OWN)
def test_every_variable_of_a_component_is_a_setting_that_is_accepted(
    services: Document, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = services[name]
    documented = (PROJECT_ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [one for one in service["environment"] if f"`{one}`" not in documented] == []
    settings = settings_of(service, monkeypatch)
    assert settings.airflow.executor == "celery"
    assert settings.postgres.password.get_secret_value() == FILLED["MARKETLAKE_POSTGRES__PASSWORD"]


@pytest.mark.parametrize("name", OWN)
def test_a_component_is_one_that_can_run_alone_and_is_asked_whether_it_is_ready(
    services: Document, name: str
) -> None:
    command = services[name]["command"]
    assert command == ["marketlake", "component", name]
    if name == foreground.INITIALISATION:
        assert services[name]["healthcheck"] == {"disable": True}
        assert services[name]["restart"] == "no"
    else:
        assert services[name]["healthcheck"]["test"] == ["CMD", *command, "--probe"]
        assert services[name]["restart"] == "unless-stopped"


def test_every_address_in_the_settings_is_a_service_at_its_port(
    services: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(services["worker"], monkeypatch)
    broker = urlsplit(settings.airflow.broker())
    store = urlsplit(settings.lake.endpoint_url)
    assert (settings.postgres.host, settings.postgres.port) == ("postgres", 5432)
    assert (store.hostname, store.port) == ("minio", 9000)
    assert (broker.hostname, broker.port) == ("redis", 6379)
    assert settings.ledger.host == "ledger"
    assert settings.sandbox.host == "sandbox"
    api = urlsplit(settings.airflow.base_url)
    assert api.hostname == "api-server"
    assert services["api-server"]["ports"][0]["target"] == api.port
    assert settings.ledger.bind_host == settings.sandbox.bind_host == "0.0.0.0"  # noqa: S104
    assert airflow_environment(settings)["AIRFLOW__API__HOST"] == "0.0.0.0"  # noqa: S104


def test_servers_from_elsewhere_get_the_secrets_that_components_use(services: Document) -> None:
    def own(name: str) -> str:
        return str(services["worker"]["environment"][f"MARKETLAKE_{name}"])

    assert services["postgres"]["environment"] == {
        "POSTGRES_USER": own("POSTGRES__USER"),
        "POSTGRES_PASSWORD": own("POSTGRES__PASSWORD"),
    }
    assert services["minio"]["environment"] == {
        "MINIO_ROOT_USER": own("LAKE__ACCESS_KEY"),
        "MINIO_ROOT_PASSWORD": own("LAKE__SECRET_KEY"),
    }
    redis = services["redis"]
    assert redis["environment"] == {"REDISCLI_AUTH": own("AIRFLOW__BROKER_PASSWORD")}
    assert 'requirepass "$$REDISCLI_AUTH"' in redis["command"][-1]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_needs_is_awaited_until_it_is_ready(services: Document, name: str) -> None:
    for needed, how in services[name].get("depends_on", {}).items():
        one_shot = needed == foreground.INITIALISATION
        wanted = "service_completed_successfully" if one_shot else "service_healthy"
        assert how["condition"] == wanted
    if name != foreground.INITIALISATION:
        assert services[name]["healthcheck"]["test"]


def test_what_components_hand_each_other_in_files_is_on_a_shared_volume(
    services: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mounts(name: str) -> dict[str, str]:
        return {one["target"]: one["source"] for one in services[name].get("volumes", [])}

    settings = settings_of(services["worker"], monkeypatch)
    ca_bundle = Path(sandbox_egress(settings, 1)["MARKETLAKE_EGRESS__CA_BUNDLE"])
    logs = airflow_environment(settings)["AIRFLOW__LOGGING__BASE_LOG_FOLDER"]
    assert len({mounts(name)[str(ca_bundle.parent)] for name in ("sandbox", "worker")}) == 1
    assert len({mounts(name)[logs] for name in ("worker", "scheduler", "api-server")}) == 1


def test_only_the_ledgers_own_volume_has_its_key_and_it_outlives_the_container(
    services: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(services["ledger"], monkeypatch)
    (volume,) = services["ledger"]["volumes"]
    folder = Path(volume["target"])
    assert volume["source"] in RAW["volumes"]
    assert settings.signing_key_file.parent == settings.checkpoint_file.parent == folder
    users = [name for name in services if volume["source"] in str(services[name].get("volumes"))]
    assert users == ["ledger"]


def test_the_number_of_workers_is_one_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = services_with(tmp_path, MARKETLAKE_AIRFLOW__WORKERS="5")
    assert more["worker"]["deploy"]["replicas"] == 5
    scheduler = airflow_environment(settings_of(more["scheduler"], monkeypatch))
    assert scheduler["AIRFLOW__CORE__PARALLELISM"] == "10"


def test_any_setting_of_the_environment_file_reaches_the_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = services_with(tmp_path, MARKETLAKE_MODE="live", MARKETLAKE_HOME="/on/the/host")
    settings = settings_of(live["worker"], monkeypatch)
    assert settings.mode == "live"
    assert settings.home == Path("/var/lib/marketlake")
    assert sandbox_egress(settings, 1) == {}


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(OWN)))
def test_images_from_elsewhere_are_pinned_and_keep_their_data_on_a_named_volume(
    services: Document, name: str
) -> None:
    assert re.search(r":(\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\dT)", services[name]["image"])
    (volume,) = services[name]["volumes"]
    assert volume["type"] == "volume"
    assert volume["source"] in RAW["volumes"]


def test_the_image_has_hashed_packages_an_ordinary_user_and_nothing_of_this_machine() -> None:
    lines = (PROJECT_ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    bases = {line.split()[1] for line in lines if line.startswith("FROM")}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim", bases.pop())
    assert any("pip install --require-hashes -r requirements.txt" in line for line in lines)
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users
    assert users[-1] not in ("root", "0")
    ignored = (PROJECT_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert "*" in ignored  # everything but what is named below it
    assert all((PROJECT_ROOT / name).exists() for name in kept)
    assert not {".env", ".git", ".marketlake", ".venv", "tests"} & {
        name.strip("/") for name in kept
    }
