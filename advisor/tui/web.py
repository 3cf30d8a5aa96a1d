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

from aiohttp import web
from textual_serve.server import Server

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
COOKIE = "advisor_token"
COMMAND = shlex.join([sys.executable, "-m", "advisor", "tui"])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door(Server):
    """A server that lets in whom it should."""

    def __init__(self, host: str, port: int, token: str | None, public_url: str | None = None) -> None:
        shown = "localhost" if host in LOOPBACK else host
        super().__init__(
            COMMAND, host=host, port=port, title="advisor", public_url=public_url or f"http://{shown}:{port}"
        )
        self._token = token

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
        if self._token is not None and "token" in request.query and not response.prepared:
            response.set_cookie(COOKIE, self._token, httponly=True, samesite="Strict")
        return response
