"""The control API: clocks, faults, limits, recorded requests, planted faults.

Every call but ``GET /healthz`` needs the token. What does not belong here: vendors' own paths.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import date
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import SecretStr

from marketlake.errors import ConfigError
from marketlake.services.sandbox.faults import planted_at

if TYPE_CHECKING:
    from marketlake.services.sandbox.server import Sandbox

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def control_routes(sandbox: Sandbox, token: SecretStr) -> list[web.RouteDef]:
    """Return the routes that steer a sandbox."""
    api = _Control(sandbox)
    guarded: Iterable[tuple[str, str, Handler]] = (
        ("PUT", "/__ctl/clock", api.set_clock),
        ("GET", "/__ctl/clock", api.get_clock),
        ("POST", "/__ctl/faults", api.add_fault),
        ("PUT", "/__ctl/limits", api.set_limits),
        ("POST", "/__ctl/wait", api.wait),
        ("GET", "/__ctl/requests", api.list_requests),
        ("GET", "/__ctl/planted", api.list_planted),
        ("POST", "/__ctl/reset", api.reset),
    )
    return [
        web.get("/healthz", api.health),
        *(web.route(method, path, _guarded(handler, token)) for method, path, handler in guarded),
    ]


def _guarded(handler: Handler, token: SecretStr) -> Handler:
    expected = f"Bearer {token.get_secret_value()}"

    async def checked(http: web.Request) -> web.StreamResponse:
        given = http.headers.get("Authorization", "")
        if not token.get_secret_value() or not hmac.compare_digest(given, expected):
            return web.json_response({"error": "wrong or missing control token"}, status=401)
        try:
            return await handler(http)
        except KeyError as error:
            return web.json_response({"error": f"the member {error} is missing"}, status=400)
        except (ConfigError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)

    return checked


class _Control:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def health(self, _: web.Request) -> web.Response:
        world = self._sandbox.world
        return web.json_response(
            {
                "status": "ok",
                "symbols": len(world.symbols),
                "first_session": world.first_session.isoformat(),
                "last_session": world.last_session and world.last_session.isoformat(),
            }
        )

    async def set_clock(self, http: web.Request) -> web.Response:
        body = await _document(http)
        # The first instant builds the exchange calendar, which must not hold up the vendors.
        known = await asyncio.to_thread(
            self._sandbox.clocks.set, str(body["namespace"]), str(body["at"])
        )
        return web.json_response({"known": known.isoformat()})

    async def get_clock(self, http: web.Request) -> web.Response:
        known = self._sandbox.clocks.known(http.query.get("namespace", ""))
        return web.json_response({"known": known.isoformat()})

    async def add_fault(self, http: web.Request) -> web.Response:
        rule = self._sandbox.faults.add(await _document(http))
        return web.json_response({"rule_id": rule.rule_id}, status=201)

    async def set_limits(self, http: web.Request) -> web.Response:
        body = await _document(http)
        limits = {
            name: None if body.get(name) is None else int(body[name])
            for name in ("a_minute", "a_day")
        }
        self._sandbox.limits.set(str(body["namespace"]), str(body["vendor"]), **limits)
        return web.json_response(limits)

    async def wait(self, http: web.Request) -> web.Response:
        body = await _document(http)
        now_s = self._sandbox.limits.advance(str(body["namespace"]), float(body["seconds"]))
        return web.json_response({"now_s": now_s})

    async def list_requests(self, http: web.Request) -> web.Response:
        namespace = http.query.get("namespace")
        rows = [row for row in self._sandbox.requests if namespace in {None, row["namespace"]}]
        return web.json_response(rows)

    async def list_planted(self, http: web.Request) -> web.Response:
        asked = http.query.get("session")
        faults = planted_at(
            date.fromisoformat(asked) if asked else None, vendor=http.query.get("vendor", "")
        )
        return web.json_response([fault.as_json() for fault in faults])

    async def reset(self, http: web.Request) -> web.Response:
        namespace = str((await _document(http)).get("namespace", ""))
        self._sandbox.faults.reset(namespace)
        self._sandbox.limits.reset(namespace)
        self._sandbox.clocks.reset(namespace)
        return web.json_response({"status": "reset"})


async def _document(http: web.Request) -> dict[str, Any]:
    try:
        value = json.loads(await http.text() or "{}")
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error}"
        raise ValueError(message) from None
    if not isinstance(value, dict):
        message = "the body is not a JSON object"
        raise ValueError(message)
    return value
