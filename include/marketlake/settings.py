"""One frozen, typed settings object. Reading it has no side effects.

Sources, strongest first: environment (``MARKETLAKE_*``, nested with ``__``), then the ``.env`` at
the root of the repository, then the ``runtime.env`` that a running platform wrote into its state
folder, then the defaults below.
Secrets are ``SecretStr``: they print as stars.
"""

from __future__ import annotations

import os
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from marketlake.errors import ConfigError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
RESOURCES = Path(__file__).resolve().parent / "resources"

_PACKAGED_LAST_SESSION = date(2022, 12, 28)
_HTTP_URL = r"^https?://[^\s/]+"
_PROXY_URL = r"^(https?|socks[45][ah]?)://[^\s/]+"
_BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MarketSettings(_Section):
    """Which market is run: its calendar, its span, its members, and who is asked.

    ``sources`` are in order of preference: core takes the bar of the first that agrees with the
    consensus. One that is not configured is not asked.
    """

    name: Literal["packaged", "generated", "folder", "live"] = "packaged"
    calendar: Literal["XNYS"] = "XNYS"
    first_session: date = date(2010, 1, 4)
    last_session: date | None = _PACKAGED_LAST_SESSION
    benchmark: str = "^GSPC"
    universe_file: Path = RESOURCES / "universe_packaged.csv"
    sector_file: Path = PROJECT_ROOT / "dbt" / "seeds" / "sector.csv"
    publish_delay_minutes: int = Field(default=30, ge=0)
    sources: tuple[Literal["yahoo", "alpha_vantage", "iex"], ...] = Field(
        default=("yahoo", "alpha_vantage", "iex"), min_length=1
    )

    @model_validator(mode="before")
    @classmethod
    def _only_the_packaged_market_ends(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name", "packaged") != "packaged":
            return {"last_session": None, **values}
        return values


class LakeSettings(_Section):
    """The S3 store. Any S3 will do; the embedded one is SeaweedFS.

    The bucket keeps a replaced version ``superseded_days`` long: ledger and manifests name
    versions, and somebody may ask years later why a thing was traded. The default is seven years,
    the longest that US (six) and EU (five, seven on request) record keeping asks of a broker. The
    ledger's checkpoints in the write-once bucket stay ``locked_days``. What tasks hand to each
    other is gone after ``unfinished_days``: later, clear a whole run. Raw answers of sessions older
    than ``archive_raw_after_days`` (0: never) go to ``archive_storage_class`` where the store can
    move them; elsewhere ``archive_lake`` copies them below ``archive/``. Reads need no waiting for
    ``GLACIER_IR``; for ``GLACIER`` an old answer must be restored first.
    """

    endpoint_url: str = Field(default="http://127.0.0.1:19330", pattern=_HTTP_URL)
    region: str = "us-east-1"
    bucket: str = Field(default="lake", pattern=_BUCKET)
    worm_bucket: str = Field(default="worm", pattern=_BUCKET)
    access_key: SecretStr = SecretStr("")
    secret_key: SecretStr = SecretStr("")
    timeout_s: float = Field(default=20.0, gt=0)
    unfinished_days: int = Field(default=7, ge=1)
    superseded_days: int = Field(default=2557, ge=1)
    archive_raw_after_days: int = Field(default=365, ge=0)
    locked_days: int = Field(default=2557, ge=1)
    archive_storage_class: str = "GLACIER_IR"


class BackupSettings(_Section):
    """Where `marketlake backup` copies ledger and lake. What is not set is the lake's own: the
    default is a bucket beside the lake, which is no protection against losing that store. Give
    another ``endpoint_url`` with its keys, elsewhere.
    """

    bucket: str = Field(default="backup", pattern=_BUCKET)
    endpoint_url: str | None = Field(default=None, pattern=_HTTP_URL)
    region: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None

    def store_of(self, lake: LakeSettings) -> LakeSettings:
        """Return how the backup's store is reached."""
        own = {"endpoint_url", "region", "access_key", "secret_key"}
        return lake.model_copy(update=self.model_dump(include=own, exclude_none=True))


class DocumentSettings(_Section):
    """Texts about persons, each sealed with a key of its own. ``master_key_file`` (default:
    ``documents/master.key`` of the state folder, made at first use) wraps those keys: without it no
    document can be opened, so keep a copy where neither database nor lake are.
    """

    master_key_file: Path | None = None


class PostgresSettings(_Section):
    """One Postgres server, with the warehouse and the ledger in databases of their own."""

    host: str = "127.0.0.1"
    port: int = 19435
    user: str = "marketlake"
    password: SecretStr = SecretStr("")
    warehouse_db: str = "warehouse"
    ledger_db: str = "ledger"
    airflow_db: str = "airflow"
    connect_timeout_s: int = Field(default=10, ge=1)
    statement_timeout_s: int = Field(default=120, ge=1)
    bin_dir: Path | None = None

    def conninfo(self, database: str) -> str:
        """Return a libpq connection string; it holds the password, so never log it."""
        parts: dict[str, object] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "dbname": database,
            "password": self.password.get_secret_value(),
            "connect_timeout": self.connect_timeout_s,
        }
        escaped = str.maketrans({"\\": r"\\", "'": r"\'"})
        quoted = {name: str(value).translate(escaped) for name, value in parts.items()}
        return " ".join(f"{name}='{value}'" for name, value in quoted.items())


class LedgerSettings(_Section):
    """Where the one appender is, and how its word can be checked.

    It listens on ``host``, or on ``bind_host`` where that is set. It signs every checkpoint as
    ``origin`` with the Ed25519 key of ``signing_key_file`` (PEM; default:
    ``ledger/signing_key.pem`` of the state folder), and publishes the newest within a second to
    ``checkpoint_file`` (default: ``ledger/checkpoints.txt`` there) and to the object-locked bucket.
    Where one of them takes none for ``unpublished_limit_s``, the appender takes no more entries.
    ``public_key`` is what verifications hold signatures against: keep a copy of it where nobody who
    runs the platform can write.
    """

    host: str = "127.0.0.1"
    bind_host: str | None = None
    port: int = 19450
    token: SecretStr = SecretStr("")
    timeout_s: float = Field(default=20.0, gt=0)
    origin: str = Field(default="marketlake", pattern=r"^[^\s+]+$")
    signing_key_file: Path | None = None
    public_key: str | None = Field(default=None, pattern=r"^[^\s+]+\+[0-9a-f]{8}\+\S+$")
    checkpoint_file: Path | None = None
    unpublished_limit_s: float = Field(default=60.0, gt=0)


class LineageSettings(_Section):
    """What is told to OpenLineage. Every task's events go to ``lineage/`` in the lake; with
    ``url`` (the part before ``/api/v1/lineage``) also to that backend, ``api_key`` as its bearer
    token. A task waits for the backend no longer than ``timeout_s``, and never fails for it.
    """

    namespace: str = Field(default="marketlake", min_length=1)
    url: str | None = Field(default=None, pattern=_HTTP_URL)
    api_key: SecretStr | None = None
    timeout_s: float = Field(default=2.0, gt=0)


class EgressSettings(_Section):
    """How calls leave the house. ``{session}`` in ``proxy_url`` is replaced by the session a
    call is made for, which is how the vendor sandbox knows the market clock of a backfill.
    """

    proxy_url: str | None = Field(default=None, pattern=_PROXY_URL)
    ca_bundle: Path | None = None

    def proxy_for(self, session: date) -> str | None:
        """Return the proxy URL for calls made on behalf of one session."""
        if self.proxy_url is None:
            return None
        return self.proxy_url.replace("{session}", session.isoformat())


class YahooSettings(_Section):
    """Bounds on calls to Yahoo Finance."""

    timeout_s: float = Field(default=10.0, gt=0)
    lag_minutes: int = Field(default=15, ge=0)


class AlphaVantageSettings(_Section):
    """Alpha Vantage. Without ``api_key`` the source is not configured. The ``free`` plan has no
    actions and 25 calls a day; ``premium`` has both actions and ``calls_a_minute``. ``{session}``
    in a vendor's ``base_url`` is replaced as in ``egress.proxy_url``.
    """

    api_key: SecretStr | None = None
    plan: Literal["free", "premium"] = "free"
    calls_a_minute: int = Field(default=75, ge=1)
    base_url: str = Field(default="https://www.alphavantage.co", pattern=_HTTP_URL)
    timeout_s: float = Field(default=20.0, gt=0)
    lag_minutes: int = Field(default=30, ge=0)


class IexSettings(_Section):
    """Prices of the IEX exchange, from Alpaca's data API. Without both keys the source is not
    configured. One call takes up to ``batch_symbols`` symbols.
    """

    api_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    calls_a_minute: int = Field(default=200, ge=1)
    batch_symbols: int = Field(default=100, ge=1)
    base_url: str = Field(default="https://data.alpaca.markets", pattern=_HTTP_URL)
    timeout_s: float = Field(default=15.0, gt=0)
    lag_minutes: int = Field(default=15, ge=0)


class FredSettings(_Section):
    """The Federal Reserve Bank of St. Louis. Without ``api_key`` its graphs' CSV is read, which
    always shows the newest revision; with one, its API, which shows what was known on a day.
    """

    api_key: SecretStr | None = None
    calls_a_minute: int = Field(default=120, ge=1)
    base_url: str = Field(default="https://fred.stlouisfed.org", pattern=_HTTP_URL)
    api_base_url: str = Field(default="https://api.stlouisfed.org", pattern=_HTTP_URL)
    timeout_s: float = Field(default=15.0, gt=0)
    lag_minutes: int = Field(default=1440, ge=0)


class StooqSettings(_Section):
    """Stooq's CSV of daily bars. It needs no key; ``calls_a_day`` is what it is seen to bear."""

    calls_a_day: int = Field(default=200, ge=1)
    base_url: str = Field(default="https://stooq.com", pattern=_HTTP_URL)
    timeout_s: float = Field(default=15.0, gt=0)
    lag_minutes: int = Field(default=60, ge=0)


class AvailabilitySettings(_Section):
    """When a source is left alone: after ``failures`` failed symbols in a row, for ``rest_s``
    seconds, or as long as the vendor itself says.
    """

    failures: int = Field(default=5, ge=1)
    rest_s: float = Field(default=300.0, gt=0)


class SandboxSettings(_Section):
    """The vendor sandbox. It listens on ``host``, or on ``bind_host`` where that is set. Its
    vendors differ from each other by up to ``difference_bps`` around the market's prices.
    """

    host: str = "127.0.0.1"
    bind_host: str | None = None
    http_port: int = 21000
    tls_port: int = 21443
    proxy_port: int = 21080
    control_token: SecretStr = SecretStr("")
    data: Path | None = None
    seed: int = 20221228
    plant_faults: bool = True
    difference_bps: float = Field(default=4.0, ge=0, lt=10)


class GateSettings(_Section):
    """Limits of the quality gates.

    Sources further apart than ``discrepancy_pct`` are flagged; ``discrepancy_pct_of`` has another
    limit for a price, such as ``{"open_usd": 1.0}``.
    """

    max_quarantined_fraction: float = Field(default=0.25, gt=0, le=1)
    spike_warning_pct: float = Field(default=10.0, gt=0)
    discrepancy_pct: float = Field(default=0.5, gt=0)
    discrepancy_pct_of: dict[
        Literal["open_usd", "high_usd", "low_usd", "close_usd"], Annotated[float, Field(gt=0)]
    ] = {}

    def thresholds_pct(self) -> dict[str, float]:
        """Return the limit of each price."""
        prices = ("open_usd", "high_usd", "low_usd", "close_usd")
        return dict.fromkeys(prices, self.discrepancy_pct) | {
            str(name): limit for name, limit in self.discrepancy_pct_of.items()
        }


class ModelSettings(_Section):
    """Training and validation.

    ``profile`` is how much is trained: ``quick`` one small model of each kind on five years,
    ``full`` larger ones of five seeds on everything from ``train_from`` on. ``join`` makes one of
    the models, by a vote weighted by skill or a regression on what they say, and ``calibration``
    makes its word a probability; both are fitted out of fold. ``cost_bps`` is what a traded dollar
    pays in the portfolios of the report.
    """

    horizon_sessions: int = Field(default=5, ge=1)
    train_from: date = date(2011, 1, 3)
    profile: Literal["quick", "full"] = "quick"
    join: Literal["vote", "stack"] = "vote"
    calibration: Literal["platt", "isotonic"] = "platt"
    seed: int = 7
    cost_bps: float = Field(default=5.0, ge=0)


class RiskSettings(_Section):
    """The reference book and its windows."""

    book_value_usd: float = 1_000_000.0
    window_sessions: int = Field(default=500, ge=60)
    volatility_window_sessions: int = 60


class AirflowSettings(_Section):
    """How Airflow is reached, and what runs its tasks.

    Tasks and commands use ``base_url``, browsers ``public_url`` where that is set. The ``celery``
    executor has ``workers`` processes that each run ``worker_tasks`` tasks at once; they get them
    from the broker at ``broker_url``, whose ``broker_password`` is a setting of its own.
    """

    base_url: str = "http://127.0.0.1:19080"
    public_url: str | None = None
    bind_host: str | None = None
    executor: Literal["local", "celery"] = "local"
    workers: int = Field(default=2, ge=1)
    worker_tasks: int = Field(default=2, ge=1)
    broker_url: str = "redis://127.0.0.1:19379/0"
    broker_password: SecretStr = SecretStr("")
    user: str = "admin"
    password: SecretStr = SecretStr("")
    jwt_secret: SecretStr = SecretStr("")
    fernet_key: SecretStr = SecretStr("")
    timeout_s: float = Field(default=20.0, gt=0)

    def broker(self) -> str:
        """Return the broker's URL with its password, so never log it."""
        password = quote(self.broker_password.get_secret_value(), safe="")
        if not password:
            return self.broker_url
        address = urlsplit(self.broker_url)
        user, _, place = address.netloc.rpartition("@")
        return address._replace(netloc=f"{user}:{password}@{place}").geturl()


class NotifySettings(_Section):
    """Who is told of failures: Apprise URLs, separated by spaces or commas. A task waits no
    longer than ``timeout_s`` for all of them together, and never fails for it.
    """

    urls: SecretStr | None = None
    timeout_s: float = Field(default=10.0, gt=0)
    minimum_severity: Literal["info", "warning", "failure"] = "warning"


class DeadlineSettings(_Section):
    """When the report of a scheduled session is late: so long after the session was due."""

    minutes: int = Field(default=60, ge=0)


class SnapshotSettings(_Section):
    """Snapshots of a month whose last day is more than ``archive_after_days`` days ago (0: never)
    are compressed into one object by ``archive_lake``.
    """

    archive_after_days: int = Field(default=90, ge=0)


class Settings(BaseSettings):
    """Everything that can be set. See ``.env.example`` for the common ones."""

    model_config = SettingsConfigDict(
        env_prefix="MARKETLAKE_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
    )

    home: Path = PROJECT_ROOT / ".marketlake"
    env_file: Path = PROJECT_ROOT / ".env"
    mode: Literal["sandbox", "live"] = "sandbox"
    code_version: str | None = None
    market: MarketSettings = MarketSettings()
    lake: LakeSettings = LakeSettings()
    backup: BackupSettings = BackupSettings()
    documents: DocumentSettings = DocumentSettings()
    postgres: PostgresSettings = PostgresSettings()
    ledger: LedgerSettings = LedgerSettings()
    lineage: LineageSettings = LineageSettings()
    egress: EgressSettings = EgressSettings()
    yahoo: YahooSettings = YahooSettings()
    alpha_vantage: AlphaVantageSettings = AlphaVantageSettings()
    iex: IexSettings = IexSettings()
    fred: FredSettings = FredSettings()
    stooq: StooqSettings = StooqSettings()
    availability: AvailabilitySettings = AvailabilitySettings()
    sandbox: SandboxSettings = SandboxSettings()
    gates: GateSettings = GateSettings()
    models: ModelSettings = ModelSettings()
    risk: RiskSettings = RiskSettings()
    airflow: AirflowSettings = AirflowSettings()
    notify: NotifySettings = NotifySettings()
    deadlines: DeadlineSettings = DeadlineSettings()
    snapshots: SnapshotSettings = SnapshotSettings()

    @model_validator(mode="before")
    @classmethod
    def _live_is_a_market_of_its_own(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("mode") == "live":
            given = values.get("market", {})
            market = given if isinstance(given, dict) else given.model_dump(exclude_unset=True)
            return {**values, "market": {**market, "name": "live"}}
        return values

    @model_validator(mode="before")
    @classmethod
    def _the_sandbox_takes_any_key(cls, values: Any) -> Any:
        """Give the sandbox's vendors keys, and plans without the free one's limits."""
        if not isinstance(values, dict) or values.get("mode", "sandbox") != "sandbox":
            return values
        key, fast = "the-sandbox-takes-any", {"calls_a_minute": 100_000}
        keys = {
            "alpha_vantage": {"api_key": key, "plan": "premium", **fast},
            "iex": {"api_key": key, "secret_key": key, **fast},
        }
        return {
            **values,
            **{
                name: {**given, **own} if isinstance(own := values.get(name, {}), dict) else own
                for name, given in keys.items()
            },
        }

    @model_validator(mode="after")
    def _only_live_mode_has_it(self) -> Settings:
        if self.market.name == "live" and self.mode != "live":
            raise ValueError("the market 'live' needs MARKETLAKE_MODE=live")
        return self

    @property
    def runtime_env(self) -> Path:
        """Return the file in which a running platform keeps its ports and generated secrets."""
        return self.home / "runtime.env"

    @property
    def signing_key_file(self) -> Path:
        """Return where the appender's private key is; nobody else reads it."""
        return self.ledger.signing_key_file or self.home / "ledger" / "signing_key.pem"

    @property
    def master_key_file(self) -> Path:
        """Return where the key is that wraps the documents' keys."""
        return self.documents.master_key_file or self.home / "documents" / "master.key"

    @property
    def checkpoint_file(self) -> Path:
        """Return the file to which signed checkpoints are appended."""
        return self.ledger.checkpoint_file or self.home / "ledger" / "checkpoints.txt"


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings of the platform whose state is in ``home``.

    Raises
    ------
    ConfigError
        When a variable has a wrong name or value; the message lists each.
    """
    env_file = Path(os.environ.get("MARKETLAKE_ENV_FILE", PROJECT_ROOT / ".env"))
    folder = home or _chosen_home(env_file)
    runtime_env = folder / "runtime.env"
    faults = [f"{name}: no such setting" for name in os.environ if not _is_known(name)]
    try:
        # Of two files the later is the stronger: a person's choice stands over a generated one.
        settings = Settings(_env_file=(runtime_env, env_file), home=folder.resolve())
    except ValidationError as error:
        faults += [
            f"{_variable(fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
    if faults:
        raise ConfigError(
            expected="settings of the documented names and types",
            was="; ".join(faults),
            where=f"environment, {env_file} or {runtime_env}",
            todo="correct the variable (docs/settings.md lists them all)",
        )
    return settings


def _chosen_home(env_file: Path) -> Path:
    """Return the state folder; a relative one in ``.env`` counts from where that file is."""
    if chosen := os.environ.get("MARKETLAKE_HOME"):
        return Path(chosen)
    written = dotenv_values(env_file).get("MARKETLAKE_HOME") if env_file.is_file() else None
    return env_file.parent / written if written else PROJECT_ROOT / ".marketlake"


def _is_known(name: str) -> bool:
    section = name.upper().removeprefix("MARKETLAKE_").split("__")[0].lower()
    return not name.upper().startswith("MARKETLAKE_") or section in Settings.model_fields


def _variable(place: tuple[int | str, ...]) -> str:
    """Return the variable behind a fault; an unknown name of a file is shown as it is there."""
    if not place:
        return "settings that contradict each other"
    name = "__".join(str(part) for part in place).upper()
    return f"MARKETLAKE_{name}" if str(place[0]) in Settings.model_fields else name


@lru_cache(maxsize=1)
def current_settings() -> Settings:
    """Return this process's settings, read once."""
    return load_settings()
