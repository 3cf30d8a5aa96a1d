"""production-stack-values.yaml: values for the Helm chart of vLLM's production-stack."""

from __future__ import annotations

import math
from typing import Any

from advisor.bundle.context import BundleContext
from advisor.bundle.serve_yaml import serve_options
from advisor.bundle.targets import container
from advisor.bundle.targets.registry import Rendered

OWN_FIELDS = {
    "max-model-len": "maxModelLen",
    "dtype": "dtype",
    "tensor-parallel-size": "tensorParallelSize",
    "gpu-memory-utilization": "gpuMemoryUtilization",
    "max-num-seqs": "maxNumSeqs",
}
"""Options that the chart has a field for; the others go into extraArgs."""


def values(context: BundleContext) -> dict[str, Any]:
    """servingEngineSpec with this one model."""
    options = serve_options(context)
    config: dict[str, Any] = {
        field: options[option] for option, field in OWN_FIELDS.items() if option in options
    }
    extra = container.arguments(context, leave_out=tuple(OWN_FIELDS))
    config["extraArgs"] = extra
    repository, _, tag = container.image(context).rpartition(":")
    checkpoint_gib = math.ceil(sum(_sizes(context)) / 2**30)
    spec = {
        "name": container.resource_name(context),
        "repository": repository,
        "tag": tag,
        "modelURL": f"{container.MODEL_MOUNT}/model",
        "replicaCount": 1,
        "requestCPU": 4,
        "requestMemory": f"{container.memory_gib(context)}Gi",
        "requestGPU": container.gpus(context),
        "pvcStorage": f"{checkpoint_gib + 1}Gi",
        "vllmConfig": config,
        "env": container.env(context),
    }
    probe = {
        "initialDelaySeconds": 15,
        "periodSeconds": container.PROBE_PERIOD_S,
        "failureThreshold": container.startup_failures(context),
        "httpGet": {"path": "/health", "port": 8000},
    }
    return {"servingEngineSpec": {"startupProbe": probe, "modelSpec": [spec]}}


def _sizes(context: BundleContext) -> list[int]:
    return [p.stat().st_size for p in context.checkpoint.rglob("*") if p.is_file()]


def render(context: BundleContext) -> Rendered:
    """The file."""
    head = (
        "helm install vllm vllm/vllm-stack -f production-stack-values.yaml",
        f"The model's volume must hold this bundle's model/ under {container.MODEL_MOUNT}.",
        container.probe_words(context),
    )
    notes = (f"the claim that the chart makes must be filled with model/ ({container.MODEL_MOUNT}/model)",)
    return Rendered({"production-stack-values.yaml": container.dump(values(context), head=head)}, notes)
