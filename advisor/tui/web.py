"""The same application in a browser: textual-serve, with a door.

A page of another site may open a websocket to a server on this machine, and a name that resolves to
127.0.0.1 may be anybody's. So every request must name a host that we serve, a websocket must come from our
own page, and with a token every request must bring it (as `?token=` once, then as a cookie).
"""

from __future__ import annotations

import hmac
import logging
import shlex
import sys
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, web
from textual_serve.app_service import AppService
from textual_serve.server import Server

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
COOKIE = "advisor_token"
COMMAND = shlex.join([sys.executable, "-m", "advisor", "tui"])
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self' ws: wss:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""The page is ours alone: nothing is fetched from elsewhere (textual-serve's template asks for a font), and
no other page shows it in a frame."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door(Server):
    """A server that lets in whom it should."""

    def __init__(self, host: str, port: int, token: str | None, public_url: str | None = None) -> None:
        shown = "localhost" if host in LOOPBACK else host
        super().__init__(
            COMMAND, host=host, port=port, title="advisor", public_url=public_url or f"http://{shown}:{port}"
        )
        self._token = token
        self._open: set[web.WebSocketResponse] = set()

    async def _process_messages(self, websocket: web.WebSocketResponse, app_service: AppService) -> None:
        """Remember which browsers are here, so that the server can end before they leave."""
        self._open.add(websocket)
        try:
            await super()._process_messages(websocket, app_service)
        finally:
            self._open.discard(websocket)
            await app_service.stop()
            if app_service._process is not None:
                await app_service._process.wait()

    async def on_shutdown(self, app: web.Application) -> None:
        """Say goodbye to the browsers; each one's interface ends, runs go on."""
        for websocket in list(self._open):
            await websocket.close(code=WSCloseCode.GOING_AWAY)

    async def _make_app(self) -> web.Application:
        app: web.Application = await super()._make_app()

        @web.middleware
        async def door(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answer(request, handler)

        app.middlewares.append(door)
        return app

    def initialize_logging(self) -> None:
        """Only what went wrong: an access log would hold the token."""
        logging.basicConfig(level="WARNING")

    async def on_startup(self, app: web.Application) -> None:
        """Say where it is; the token is part of the address."""
        query = "" if self._token is None else f"/?token={self._token}"
        self.console.print(f"advisor is at {self.public_url}{query}", markup=False, soft_wrap=True)
        self.console.print("Ctrl-C ends it; runs go on", markup=False)

    @property
    def _hosts(self) -> set[str]:
        public = urlsplit(self.public_url).hostname or ""
        return {public, *(LOOPBACK if self.host in LOOPBACK else {self.host})}

    def refusal(self, request: web.Request) -> str | None:
        """Why a request is not let in; None lets it in."""
        asked = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        if self._token is None and asked not in self._hosts:
            return f"this server is not {asked!r}"
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("Host", ""):
            return f"pages of {origin} may not use this server"
        if self._token is not None:
            given = request.query.get("token") or request.cookies.get(COOKIE) or ""
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return "a token is needed: open the address that the server printed"
        return None

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        why = self.refusal(request)
        if why is not None:
            return web.Response(status=403, text=f"{why}\n")
        response = await handler(request)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = POLICY
            response.headers["Referrer-Policy"] = "no-referrer"  # the address may hold the token
        if self._token is not None and "token" in request.query and not response.prepared:
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict")
        return response
