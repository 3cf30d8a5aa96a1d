"""The whole way on the real model, with the real quantizer and the real engine; then served, then warm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from tests.conftest import EFFORT, DemoRun, advisor

pytestmark = pytest.mark.engine

REQUESTS = 200
START_S = 300
"""Longest wait for the server on a busy machine; it takes half a minute on an idle one."""


def test_demo_ends_with_a_validated_bundle(demo_run: DemoRun) -> None:
    root, found = demo_run
    best, *others = found["search"]["held_out"]
    assert best["unit_bytes"] <= found["search"]["budget_bytes"]
    assert best["quality"]["kl"] < next(o for o in others if o["label"] == "uniform int4")["quality"]["kl"]
    assert found["validation"]["passed"]
    assert found["validation"]["kernel_mismatches"] == {}
    assert (root / "bundle" / "run.sh").exists()
    assert (root / "bundle" / "report.html").stat().st_size > 10**6
    assert set(found["stages"]) == {
        "profile", "footprint", "latency", "search", "quantize", "measure-original", "validate", "export",
    }  # fmt: skip


def test_a_second_call_skips_every_stage_and_finds_the_same(demo_run: DemoRun) -> None:
    again, log = advisor("demo", *EFFORT, "--run", str(demo_run.root))
    assert again["search"] == demo_run.found["search"]
    assert again["validation"] == demo_run.found["validation"]
    assert log.count("unchanged, skipped") == 9  # eight stages and the prepared model


class Server:
    """The bundle's run.sh on a free port."""

    def __init__(self, bundle: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.log = log
        self.model = YAML(typ="safe").load((bundle / "serve.yaml").read_text())["served-model-name"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [bundle / "run.sh"],
                env={**os.environ, "PORT": str(self.port), "PYTHON": sys.executable},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        raise AssertionError(f"no server after {START_S} s:\n{self.log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def server(demo_run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests below."""
    started = Server(demo_run.root / "bundle", tmp_path_factory.mktemp("server") / "log")
    try:
        started.wait_until_ready()
        yield started
    finally:
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGKILL)
            started.process.wait()


def test_the_bundle_answers_chat_requests_side_by_side(server: Server) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    def ask(number: int, tokens: int = 3) -> str:
        reply = client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": f"What is {number} plus {number}?"}],
            max_tokens=tokens,
            temperature=0,
        )
        assert reply.usage is not None
        assert 1 <= reply.usage.completion_tokens <= tokens
        return reply.choices[0].message.content or ""

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(REQUESTS)))  # an error raises
    assert len(answers) == REQUESTS
    assert all(answers)
    assert ask(7, 8) == ask(7, 8)


def test_the_server_stops_cleanly(server: Server) -> None:
    os.kill(server.process.pid, signal.SIGTERM)
    assert server.process.wait(timeout=60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/health")
