"""kserve.yaml: an LLMInferenceService (serving.kserve.io/v1alpha2)."""

from __future__ import annotations

import shlex
from typing import Any

from advisor.bundle.context import BundleContext
from advisor.bundle.targets import container
from advisor.bundle.targets.registry import Refused, Rendered


def service(context: BundleContext) -> dict[str, Any]:
    """The object; engine options go into VLLM_ADDITIONAL_ARGS, as in KServe's own samples."""
    if context.serving.pipeline_parallel_size > 1 or context.serving.data_parallel_size > 1:
        raise Refused(
            "this plan was validated with pipeline or data parallelism in one place; LLMInferenceService "
            "spreads those over a leader and workers, which was not validated"
        )
    name = container.resource_name(context)
    extra = container.arguments(context, leave_out=("served-model-name",))
    main = {
        "name": "main",
        "image": container.image(context),
        "env": [*container.env(context), {"name": "VLLM_ADDITIONAL_ARGS", "value": shlex.join(extra)}],
        "resources": container.resources(context),
        **container.probes(context),
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": f"pvc://{name}/model", "name": context.served_name},
            "replicas": 1,
            "router": {"scheduler": {}, "route": {}, "gateway": {}},
            "template": {"containers": [main]},
        },
    }


def render(context: BundleContext) -> Rendered:
    """The file."""
    name = container.resource_name(context)
    head = (f"The claim {name} must hold this bundle's model/ directory.", container.probe_words(context))
    text = container.dump(service(context), head=head)
    return Rendered({"kserve.yaml": text}, (f"needs a PersistentVolumeClaim {name} that holds model/",))
