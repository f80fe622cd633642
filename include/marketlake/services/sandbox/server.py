"""The sandbox process: TLS listener for the vendors, CONNECT proxy, control API.

What does not belong here: what a vendor answers, and what a fault is.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections import deque
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web

from marketlake.services.sandbox.clocks import Clocks
from marketlake.services.sandbox.control import control_routes
from marketlake.services.sandbox.faults import FaultBook, Rule, apply_planted, replayed_body
from marketlake.services.sandbox.limits import Limits
from marketlake.services.sandbox.markets import world_of
from marketlake.services.sandbox.proxy import ConnectProxy
from marketlake.services.sandbox.vendors import VENDORS
from marketlake.services.sandbox.vendors.wire import Answer, Vendor, VendorRequest
from marketlake.services.sandbox.world import View, World
from marketlake.settings import Settings

logger = logging.getLogger(__name__)

_RECORDED_REQUESTS = 5_000
_LARGEST_BODY = 32 * 1024 * 1024
_SECRETS = ("crumb", "apikey", "api_key", "token", "key")
_SECRET_HEADERS = ("apca-api-key-id", "apca-api-secret-key", "authorization")
_HTML = b"<!doctype html><html><body>Our engineers are working on it</body></html>"


def ca_file(settings: Settings) -> Path:
    """Return where a sandbox writes its certificate authority when it starts."""
    return settings.home / "sandbox" / "ca.pem"


class Sandbox:
    """All listeners over one market; start it once, inside an event loop."""

    def __init__(self, settings: Settings, *, vendors: tuple[Vendor, ...] = VENDORS) -> None:
        self._settings = settings
        self._by_host = {host: vendor for vendor in vendors for host in vendor.hosts}
        # A base URL names a host, or a vendor by its own name.
        self.main_hosts = {vendor.name: vendor.main_host for vendor in vendors}
        self.world: World = world_of(settings)
        self.faults = FaultBook()
        self.limits = Limits()
        self.requests: deque[dict[str, Any]] = deque(maxlen=_RECORDED_REQUESTS)
        market = settings.market
        self.clocks = Clocks(
            calendar=market.calendar,
            publish_delay_minutes=market.publish_delay_minutes,
            default=self.world.last_session or market.last_session or self.world.first_session,
        )
        self.proxy = ConnectProxy(hosts=self._by_host, target_host=settings.sandbox.host)
        self._runners: list[web.AppRunner] = []
        self.http_port = self.tls_port = self.proxy_port = 0

    @property
    def hosts(self) -> frozenset[str]:
        """Return every host that the vendors answer to."""
        return frozenset(self._by_host)

    async def start(self) -> None:
        """Open the three listeners; port 0 in the settings means any free port."""
        settings = self._settings.sandbox
        host = settings.bind_host or settings.host
        vendors = web.Application(client_max_size=_LARGEST_BODY)
        vendors.router.add_route("*", "/{path:.*}", self._vendor_request)
        context = self._tls_context()
        self.tls_port = await self._listen(vendors, host, settings.tls_port, context)
        self.proxy.target_port = self.tls_port
        self.proxy_port = await self.proxy.start(host, settings.proxy_port)
        control = web.Application(client_max_size=_LARGEST_BODY)
        control.add_routes(control_routes(self, settings.control_token))
        control.router.add_route("*", "/{namespace}/{place}/{path:.*}", self._based_request)
        self.http_port = await self._listen(control, host, settings.http_port, None)
        logger.info(
            "sandbox: %s market, proxy on %d, control on %d",
            self._settings.market.name,
            self.proxy_port,
            self.http_port,
        )

    async def stop(self) -> None:
        """Close every listener and connection."""
        await self.proxy.stop()
        for runner in self._runners:
            await runner.cleanup()

    async def _listen(
        self, app: web.Application, host: str, port: int, context: ssl.SSLContext | None
    ) -> int:
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True
        )
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, host, port, ssl_context=context).start()
        return int(runner.addresses[0][1])

    def _tls_context(self) -> ssl.SSLContext:
        authority = trustme.CA(organization_name="Marketlake vendor sandbox")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*sorted(self._by_host)).configure_cert(context)
        file = ca_file(self._settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        authority.cert_pem.write_to_path(str(fresh))
        fresh.replace(file)
        return context

    async def _vendor_request(self, http: web.Request) -> web.StreamResponse:
        host = http.host.partition(":")[0]
        vendor = self._by_host.get(host)
        if vendor is None:
            return web.Response(status=421, text=f"no vendor here is called {host}")
        path = "/" + http.match_info["path"]
        request = VendorRequest(host, http.method, path, dict(http.query), http.headers)
        return await self._answer(http, vendor, request, self._namespace(http))

    async def _based_request(self, http: web.Request) -> web.StreamResponse:
        """Answer ``/NAMESPACE/VENDOR/...``: the vendors without proxy and TLS."""
        place = http.match_info["place"]
        host = self.main_hosts.get(place, place)
        vendor = self._by_host.get(host)
        namespace = http.match_info["namespace"]
        if vendor is None or namespace == "__ctl":
            return web.Response(status=404, text=f"no vendor here is called {place}")
        path = "/" + http.match_info["path"]
        request = VendorRequest(host, http.method, path, dict(http.query), http.headers)
        return await self._answer(http, vendor, request, namespace)

    async def _answer(
        self, http: web.Request, vendor: Vendor, request: VendorRequest, namespace: str
    ) -> web.StreamResponse:
        symbol = vendor.symbol(request)
        place = {
            "namespace": namespace,
            "vendor": vendor.name,
            "path": f"{request.host}{request.path}",
            "symbol": symbol,
        }
        fault = self.faults.wire_fault(**place)
        self._record(place, request, fault)
        # Handshakes and the like, which are about no symbol, are free.
        over = self.limits.over(namespace, vendor.name) if symbol and fault is None else None
        if over is not None:
            return _response(vendor.over_limit(over))

        def look(name: str) -> View | None:
            view = self.world.view(name, self.clocks.known(namespace))
            if view is None:
                return None
            settings = self._settings.sandbox
            view = vendor.shows(view, seed=settings.seed, difference_bps=settings.difference_bps)
            if settings.plant_faults and self._settings.market.name == "packaged":
                view = apply_planted(view, vendor=vendor.name)
            return self.faults.edit(view, **{**place, "symbol": view.symbol})

        if fault is not None:
            return await _spoiled(http, fault, vendor, vendor.answer(request, look))
        return _response(vendor.answer(request, look))

    def _namespace(self, http: web.Request) -> str:
        peer = http.transport.get_extra_info("peername") if http.transport else None
        return self.proxy.namespace_of(int(peer[1]) if peer else 0)

    def _record(self, place: dict[str, str], request: VendorRequest, fault: Rule | None) -> None:
        query = {
            name: _hashed(value) if name.lower() in _SECRETS else value
            for name, value in request.query.items()
        }
        entry = {**place, "method": request.method, "query": query}
        entry["credentials"] = {
            name: _hashed(value)
            for name, value in request.headers.items()
            if name.lower() in _SECRET_HEADERS
        }
        self.requests.append({**entry, "fault": fault.kind if fault else None})


def _hashed(secret: str) -> str:
    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()[:16]


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))


async def _spoiled(
    http: web.Request, fault: Rule, vendor: Vendor, good: Answer
) -> web.StreamResponse:
    """Return the answer that a wire fault makes of a good one."""
    if fault.kind == "hang":
        await asyncio.sleep(float(fault.args.get("seconds", 3600.0)))
        return _response(good)
    if fault.kind == "reset":
        return _cut(http)
    if fault.kind == "truncate":
        return await _truncated(http, good)
    return _response(_other_answer(fault, vendor, good))


def _other_answer(fault: Rule, vendor: Vendor, good: Answer) -> Answer:
    status = int(fault.args.get("status", 0))
    answers = {
        "http_429": lambda: Answer(
            429, vendor.refusal(429), {"Retry-After": str(fault.args.get("retry_after", 60))}
        ),
        "http_5xx": lambda: Answer(status or 503, vendor.refusal(503)),
        "bad_auth": lambda: Answer(401, vendor.refusal(401), {"Content-Type": "application/json"}),
        "soft_limit": lambda: Answer(
            200, vendor.soft_limit(str(fault.args.get("wording", ""))), good.headers
        ),
        "malformed": lambda: Answer(200, good.body[: len(good.body) // 2], good.headers),
        "html_200": lambda: Answer(200, _HTML, {"Content-Type": "text/html"}),
        "empty_200": lambda: Answer(200, b"", good.headers),
        "status500_with_good_body": lambda: Answer(500, good.body, good.headers),
        "replay": lambda: Answer(status or 200, replayed_body(fault), good.headers),
    }
    return answers[fault.kind]()


def _cut(http: web.Request) -> web.Response:
    if http.transport is not None:
        http.transport.abort()
    return web.Response()


async def _truncated(http: web.Request, good: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=good.status, headers=dict(good.headers))
    response.content_length = len(good.body)
    await response.prepare(http)
    await response.write(good.body[: len(good.body) // 2])
    _cut(http)
    return response
