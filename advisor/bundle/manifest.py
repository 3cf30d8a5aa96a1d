"""bundle.json: what the bundle is and a hash of every file in it."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from advisor.bundle.context import BundleContext

MANIFEST = "bundle.json"
FORMAT = 1
_CHUNK = 1 << 20


def build(context: BundleContext, root: Path) -> str:
    """The manifest of everything under `root`, as JSON text."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != MANIFEST)
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": context.served_name,
        "base_model": context.base_name,
        "revision": context.model.revision,
        "plan_key": context.plan.key,
        "task": context.task_name,
        "device": context.hardware.device.name,
        "passed": context.report.passed,
        "engine": {"name": "vllm", "version": context.report.quantized.engine_version},
        "advisor_version": _own_version(),
        "files": {
            p.relative_to(root).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in files
        },
    }
    return json.dumps(content, indent=1) + "\n"


def verify(bundle: Path) -> list[str]:
    """What differs from the manifest: a line per missing, changed or unlisted file; empty when whole."""
    listed = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["files"]
    problems = []
    for name, facts in listed.items():
        path = bundle / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif path.stat().st_size != facts["bytes"] or sha256_of(path) != facts["sha256"]:
            problems.append(f"{name}: changed")
    present = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    problems += [f"{name}: not in the manifest" for name in sorted(present - listed.keys() - {MANIFEST})]
    return problems


def sha256_of(path: Path) -> str:
    """Hash of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _own_version() -> str:
    try:
        return version("precision-advisor")
    except PackageNotFoundError:
        return "unknown"
