"""The bundle's server and the chat; the browser's door; pausing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest
from aiohttp import WSCloseCode, WSMsgType
from aiohttp.test_utils import TestClient, TestServer
from textual.pilot import Pilot

from advisor.tui import run_files
from advisor.tui.app import AdvisorApp
from advisor.tui.process import Launched, pause, paused, stop
from tests.tui.driving import HANG_S, drive, opened, shows, until

SERVER = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked, heat = body["messages"], body.get("temperature", "engine's")
        self.send_response(200); self.end_headers()
        for word in ("salt ", f"and {len(asked)} messages, temperature {heat}"):
            piece = {"choices": [{"delta": {"content": word}}]}
            self.wfile.write(f"data: {json.dumps(piece)}\\n\\n".encode())
        self.wfile.write(b"data: [DONE]\\n\\n")
    def log_message(self, *_): pass
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
"""Speaks the part of the engine's API that the chat uses; the real engine is in the engine tests."""


def test_serve_chat_and_stop(recorded: Path) -> None:
    (recorded / "serve.py").write_text(SERVER)
    (recorded / "bundle" / "run.sh").write_text(f'exec "$PYTHON" {recorded / "serve.py"}\n')

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "6", "export")
        await pilot.press("v")
        await until(pilot, lambda: app.server is not None and app.server.ready)
        await until(pilot, lambda: app.focused is not None and app.focused.id == "question")
        await pilot.press(*"why q", "enter")
        await shows(app, pilot, "why q", "salt and 1 messages, temperature 0", "greedy")
        (recorded / "bundle" / "model").mkdir(exist_ok=True)
        (recorded / "bundle" / "model" / "generation_config.json").write_text('{"temperature": 0.6}')
        await pilot.press(*"and", "enter")
        await shows(app, pilot, "salt and 3 messages, temperature engine's")
        process = app.server.launched  # type: ignore[union-attr]
        await pilot.press("escape", "v")
        await until(pilot, lambda: app.server is None)
        assert not process.running
        await shows(app, pilot, "run.sh")

    drive(scenario, run=recorded)


def test_a_server_that_ends_says_why(recorded: Path) -> None:
    (recorded / "bundle" / "run.sh").write_text("echo run.sh: no vllm here >&2; exit 3\n")

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "6", "export")
        await pilot.press("v")
        await shows(app, pilot, "exit code 3", "no vllm here", "serve.log")
        assert app.server is None

    drive(scenario, run=recorded)


def test_the_server_ends_with_the_interface(recorded: Path) -> None:
    (recorded / "serve.py").write_text(SERVER)
    (recorded / "bundle" / "run.sh").write_text(f'exec "$PYTHON" {recorded / "serve.py"}\n')
    seen: list[Launched] = []

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await opened(app, pilot, "6", "export")
        await pilot.press("v")
        await until(pilot, lambda: app.server is not None)
        seen.append(app.server.launched)  # type: ignore[union-attr]
        await pilot.press("escape", "q")

    drive(scenario, run=recorded)
    assert not seen[0].running


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child that both wait."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
    yield process
    process.kill()
    process.communicate()


def test_a_paused_run_hears_stop(sleeper: subprocess.Popen[bytes]) -> None:
    assert not paused(sleeper.pid)
    assert pause(sleeper.pid, on=True)
    while not paused(sleeper.pid):
        pass
    assert stop(sleeper.pid)
    assert sleeper.wait(60) != 0
    assert not paused(sleeper.pid)
    assert not pause(999_999_999, on=True)


def test_a_run_that_works_is_attached_to_at_start(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "owner", lambda root: 1 if root.name == "tiny" else None)
    (recorded / "lock").write_text("pid 1: advisor tune\n")

    async def scenario(app: AdvisorApp, pilot: Pilot[Any]) -> None:
        await until(pilot, lambda: app.session.run == Path("advisor-runs/tiny"))
        await shows(app, pilot, "attached to advisor-runs/tiny")

    drive(scenario)


@pytest.mark.parametrize(
    ("token", "headers", "path", "status"),
    [
        (None, {}, "/", 200),
        (None, {"Host": "evil.example"}, "/", 403),
        (None, {"Origin": "http://evil.example"}, "/ws", 403),
        ("a-secret-of-16-and-more", {}, "/", 403),
        ("a-secret-of-16-and-more", {}, "/?token=wrong", 403),
        ("a-secret-of-16-and-more", {}, "/?token=a-secret-of-16-and-more", 200),
        ("a-secret-of-16-and-more", {"Cookie": "advisor_token=a-secret-of-16-and-more"}, "/", 200),
    ],
)
def test_the_door_of_the_browser(token: str | None, headers: dict[str, str], path: str, status: int) -> None:
    web = pytest.importorskip("advisor.tui.web", reason="textual-serve is not installed")

    async def go() -> None:
        door = web.Door("127.0.0.1", 8300, token)
        async with TestClient(TestServer(await door._make_app())) as client:
            answer = await client.get(path, headers=headers)
            assert answer.status == status, await answer.text()
            if "?token=" in path and status == 200:
                assert "HttpOnly" in answer.headers["Set-Cookie"]

    asyncio.run(go())


def test_a_browser_sees_the_screen_and_types() -> None:
    """What the page's script does: packets of the terminal as bytes, keys and sizes as JSON lists."""
    web = pytest.importorskip("advisor.tui.web", reason="textual-serve is not installed")
    token = "a-secret-of-16-and-more"

    async def go() -> None:
        door = web.Door("127.0.0.1", 8300, token)
        async with TestClient(TestServer(await door._make_app())) as client:
            page = await client.get(f"/?token={token}")
            assert "textual.js" in await page.text()
            policy = page.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            screen = pyte.Screen(100, 30)
            stream = pyte.ByteStream(screen)
            socket = await client.ws_connect("/ws?width=100&height=30")  # with the page's cookie

            async def shows(*words: str) -> None:
                while not all(w in "\n".join(screen.display) for w in words):
                    message = await socket.receive(HANG_S)
                    assert message.type is WSMsgType.BINARY, message
                    stream.feed(message.data)

            await shows("Formats", "native", "advisor hardware")
            await socket.send_json(["stdin", "7"])
            await shows("Runs", "no runs in advisor-runs")
            await socket.send_json(["resize", {"width": 80, "height": 24}])
            screen.resize(24, 80)
            await socket.send_json(["stdin", "4"])
            await shows("budget", "through", "no model")
            await socket.send_json(["stdin", "q"])
            while not socket.closed:
                await socket.receive(HANG_S)

    asyncio.run(go())


def test_a_browser_that_stays_does_not_keep_the_server() -> None:
    web = pytest.importorskip("advisor.tui.web", reason="textual-serve is not installed")

    async def go() -> None:
        door = web.Door("127.0.0.1", 8300, None)
        async with TestClient(TestServer(await door._make_app())) as client:
            socket = await client.ws_connect("/ws", headers={"Host": "localhost"})
            await socket.receive(HANG_S)
            assert len(door._open) == 1
            await door.on_shutdown(client.app)
            while not socket.closed:
                await socket.receive(HANG_S)
            assert socket.close_code == WSCloseCode.GOING_AWAY

    asyncio.run(go())


def test_the_browser_is_served_to_loopback_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from advisor.__main__ import run

    assert run(["tui", "--web", "--host", "0.0.0.0"]) == 2
    assert "--token" in capsys.readouterr().err
    assert run(["tui", "--web", "--token", "short"]) == 2
    assert run(["tui", "--run", "nowhere"]) == 2
