"""llm-d-values.yaml: values for the Helm chart llm-d-modelservice."""

from __future__ import annotations

from typing import Any

from advisor.bundle.context import PORT, BundleContext
from advisor.bundle.targets import container
from advisor.bundle.targets.registry import Refused, Rendered


def values(context: BundleContext) -> dict[str, Any]:
    """Model, accelerator and one decode replica; prefill is not split off: that was not validated."""
    if context.on_cpu:
        raise Refused("llm-d schedules accelerators, and this plan was validated on the CPU")
    name = container.resource_name(context)
    serving = context.serving
    engine = {
        "name": "vllm",
        "image": container.image(context),
        "modelCommand": "vllmServe",
        "args": container.arguments(context, leave_out=("served-model-name", "tensor-parallel-size")),
        "env": container.env(context),
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "resources": container.resources(context),
        "mountModelVolume": True,
        **container.probes(context),
    }
    return {
        "modelArtifacts": {
            "name": context.served_name,
            "uri": f"pvc://{name}/model",
            "size": f"{container.memory_gib(context)}Gi",
        },
        "accelerator": {"type": "nvidia"},
        "decode": {
            "create": True,
            "replicas": 1,
            "parallelism": {"tensor": serving.tensor_parallel_size, "data": serving.data_parallel_size},
            "containers": [engine],
        },
        "prefill": {"create": False, "replicas": 0},
    }


def render(context: BundleContext) -> Rendered:
    """The file."""
    name = container.resource_name(context)
    head = (f"The claim {name} must hold this bundle's model/ directory.", container.probe_words(context))
    notes = ("prefill and decode are not disaggregated: one engine was validated",)
    return Rendered({"llm-d-values.yaml": container.dump(values(context), head=head)}, notes)
