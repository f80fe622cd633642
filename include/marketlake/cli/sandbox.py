"""The command that serves the vendor sandbox by itself, for anybody's code."""

from __future__ import annotations

import json
import secrets
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketlake.errors import ConfigError
from marketlake.settings import Settings, load_settings

if TYPE_CHECKING:
    from marketlake.services.sandbox.server import Sandbox

_CONDITIONS = ("namespace", "vendor", "path_contains", "symbol", "times", "after")


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(sandbox)


def sandbox(
    data: Annotated[
        Path | None,
        typer.Option(help="A folder of Parquet bars to replay; without it, the packaged market."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65534, help="Base URLs and control; the proxy is one above.")
    ] = 22000,
    at: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Where the market clock stands.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:NAME=VALUE,...]",
            help="A fault from the start, e.g. http_429:vendor=iex,times=2. May be repeated.",
        ),
    ] = None,
    difference_bps: Annotated[
        float | None, typer.Option(min=0.0, max=9.9, help="How far vendors differ.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="The control API's token; without it, a new one.")
    ] = None,
) -> None:
    """Serve the vendors' wires over a history until Ctrl-C."""
    import asyncio

    settings = _settings(data, port, difference_bps, token or secrets.token_urlsafe(18))
    rules = [rule_of(text) for text in fault or ()]
    asyncio.run(_serve(settings, at, rules))


def rule_of(text: str) -> dict[str, Any]:
    """Return the fault rule of ``KIND[:NAME=VALUE,...]``; a list's values are joined by ``+``."""
    kind, _, rest = text.partition(":")
    rule: dict[str, Any] = {"kind": kind, "args": {}}
    for pair in filter(None, rest.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(
                expected="KIND, or KIND:NAME=VALUE,NAME=VALUE",
                was=text,
                where="--fault",
                todo="docs/sandbox.md lists the kinds and what each of them takes",
            )
        if name in _CONDITIONS:
            rule[name] = int(value) if name in {"times", "after"} else value
        else:
            rule["args"][name] = _value(name, value)
    return rule


def _value(name: str, text: str) -> Any:
    if name in {"sessions", "fields"}:
        return text.split("+")
    try:
        return float(text)
    except ValueError:
        return text


def _settings(data: Path | None, port: int, difference_bps: float | None, token: str) -> Settings:
    """Return settings of a sandbox that stands alone, beside a platform that may be running."""
    settings = load_settings()
    own = {"http_port": port, "proxy_port": port + 1 if port else 0, "tls_port": 0}
    chosen: dict[str, Any] = {
        "control_token": token,
        "data": data.resolve() if data else settings.sandbox.data,
    }
    if difference_bps is not None:
        chosen["difference_bps"] = difference_bps
    market = {"name": "folder"} if data else settings.market.model_dump(exclude_unset=True)
    # A certificate authority of its own: the platform's clients trust the platform's.
    home = settings.home / f"sandbox-{port or 'any'}"
    kept = settings.sandbox.model_dump(exclude_unset=True)
    return Settings(home=home, market=market, sandbox={**kept, **own, **chosen})


async def _serve(settings: Settings, at: str | None, rules: list[dict[str, Any]]) -> None:
    import asyncio
    import signal

    from marketlake.services.sandbox.server import Sandbox

    served = Sandbox(settings)
    for rule in rules:
        served.faults.add(rule)
    if at is not None:
        served.clocks.default = _day(at)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await served.start()
    try:
        typer.echo(_explained(served, settings))
        await stopped.wait()
    finally:
        await served.stop()


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            expected="a day as YYYY-MM-DD", was=text, where="--at", todo="correct it"
        ) from None


def _explained(served: Sandbox, settings: Settings) -> str:
    from marketlake.services.sandbox.server import ca_file

    host, world, control = settings.sandbox.host, served.world, served.http_port
    token = settings.sandbox.control_token.get_secret_value()
    authority = ca_file(settings)
    namespace = (world.last_session or settings.market.first_session).isoformat()
    hosts = sorted(served.hosts)
    wide = max(map(len, served.main_hosts))
    urls = (
        f"  {name:<{wide}}  http://{host}:{control}/{namespace}/{name}"
        for name in served.main_hosts
    )
    rule = json.dumps({"kind": "http_429", "vendor": "iex", "times": 1})
    return "\n".join(
        [
            f"{len(world.symbols)} symbols from {world.first_session} to "
            f"{world.last_session or 'any session'}; Ctrl-C stops it.",
            "",
            "Through a proxy, for clients that take no address:",
            f"  proxy  http://{namespace}@{host}:{served.proxy_port}",
            f"  CA     {authority}",
            f"  hosts  {', '.join(hosts)}",
            f"  e.g.   export HTTPS_PROXY=http://{namespace}@{host}:{served.proxy_port} "
            f"SSL_CERT_FILE={authority} REQUESTS_CA_BUNDLE={authority}",
            "",
            "Through a base URL, without TLS:",
            *urls,
            "",
            "The user of the proxy, and the first part of a base URL, is the namespace: a session "
            "(its market clock stands there) or any name.",
            "",
            f"Control: http://{host}:{control}/__ctl/, with the header",
            f"  Authorization: Bearer {token}",
            f"  e.g. curl -H 'Authorization: Bearer {token}' -d '{rule}' "
            f"http://{host}:{control}/__ctl/faults",
            "Everything else: docs/sandbox.md",
        ]
    )
