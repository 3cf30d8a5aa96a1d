"""All targets, and deploy/targets.json: what was written, what was refused and why."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from advisor.bundle.context import BundleContext

FOLDER = "deploy"
LIST = f"{FOLDER}/targets.json"


class Refused(Exception):
    """The target cannot express this deployment; the words say why and what would have to change."""


@dataclass(frozen=True)
class Rendered:
    """Files of one target (path under deploy/ -> text), and what a reader must know about them."""

    files: Mapping[str, str]
    notes: tuple[str, ...] = ()


TARGETS: dict[str, str] = {
    "kubernetes": "advisor.bundle.targets.kubernetes",
    "kserve": "advisor.bundle.targets.kserve",
    "production-stack": "advisor.bundle.targets.production_stack",
    "llm-d": "advisor.bundle.targets.llm_d",
    "systemd": "advisor.bundle.targets.systemd",
    "llama.cpp": "advisor.bundle.targets.llama_cpp",
    "tensorrt-llm": "advisor.bundle.targets.tensorrt_llm",
}
"""Name to module; each has `render(context) -> Rendered` and may raise Refused."""


def render_targets(context: BundleContext) -> dict[str, str]:
    """Path in the bundle -> text, for every target that can express the plan, and targets.json."""
    files: dict[str, str] = {}
    listed: dict[str, dict[str, object]] = {}
    for name, module in TARGETS.items():
        try:
            if not context.report.passed:
                raise Refused("validation failed: a deployment is only described once every gate passed")
            made: Rendered = importlib.import_module(module).render(context)
        except Refused as exc:
            listed[name] = {"written": False, "reason": str(exc)}
            continue
        files |= {f"{FOLDER}/{path}": text for path, text in made.files.items()}
        listed[name] = {
            "written": True,
            "files": sorted(f"{FOLDER}/{p}" for p in made.files),
            "notes": list(made.notes),
        }
    return {**files, LIST: json.dumps(listed, indent=1) + "\n"}
