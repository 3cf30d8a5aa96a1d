"""The bundle's server, started from the export screen, and one conversation with it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advisor.tui.process import Launched, spawn, tail
from profiles.models.generation import named_temperature

HOST = "127.0.0.1"
ANSWER_TOKENS = 512
"""The longest answer: a chat here is a first look, not a benchmark."""


@dataclass
class Server:
    """A `run.sh` that runs on loopback, with the conversation so far."""

    bundle: Path
    port: int
    launched: Launched
    ready: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)

    @property
    def temperature(self) -> float | None:
        """What the checkpoint's generation_config.json asks for; the engine applies it by itself."""
        return named_temperature(self.bundle / "model")

    @property
    def sampling(self) -> str:
        """How answers are drawn, in words."""
        if self.temperature is None:
            return "greedy: generation_config.json names no temperature"
        return f"temperature {self.temperature:g}, of generation_config.json"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.launched.running

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}/v1"

    def healthy(self) -> bool:
        """Whether it answers; it does not while the engine loads the model."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ask(self, text: str) -> Iterator[str]:
        """The answer piece by piece; question and answer join the conversation when it is whole.

        A model whose generation_config.json names no temperature answers greedily, as in its validation: the
        engine's own default of 1 makes small models ramble, quantized or not.

        Raises:
            OSError: the server went away, or answered with an error (its words are in the message).
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        body: dict[str, Any] = {"messages": asked, "stream": True, "max_tokens": ANSWER_TOKENS}
        if self.temperature is None:
            body["temperature"] = 0
        connection = http.client.HTTPConnection(HOST, self.port, timeout=600)
        said = ""
        try:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            if response.status != 200:
                raise OSError(f"HTTP {response.status}: {response.read(500).decode('utf-8', 'replace')}")
            for piece in _pieces(response):
                said += piece
                yield piece
        except http.client.HTTPException as exc:
            raise OSError(f"the server ended the answer: {exc or type(exc).__name__}") from exc
        finally:
            connection.close()
        self.messages = [*asked, {"role": "assistant", "content": said}]

    def tail(self) -> str:
        """What the engine printed last."""
        return tail(self.launched.log)


def _pieces(response: Any) -> Iterator[str]:
    """The text of an event stream as the engine's API sends it."""
    for line in response:
        data = line.decode("utf-8", "replace").strip().removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        try:
            choices = json.loads(data)["choices"]
        except (ValueError, KeyError, TypeError):
            continue
        if choices and (text := choices[0].get("delta", {}).get("content")):
            yield text


def start(bundle: Path) -> Server:
    """Run the bundle's run.sh on a free port, with this interpreter unless PYTHON names another.

    Raises:
        OSError: there is no run.sh, or it cannot be started.
    """
    script = bundle / "run.sh"
    if not script.exists():
        raise FileNotFoundError(f"{script} is not there: s writes the bundle")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    environment = {"PYTHON": sys.executable, **os.environ, "HOST": HOST, "PORT": str(port)}
    log = bundle.parent / "logs" / "serve.log"
    return Server(bundle, port, spawn(["bash", str(script.resolve())], log, [str(script)], environment))
