"""How child processes are asked: a request on stdin (JSON), an answer in the file that it names as `out`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def serve(answer: Callable[[dict], dict]) -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    found = answer(request)
    with open(request["out"], "w") as file:
        json.dump(found, file)
