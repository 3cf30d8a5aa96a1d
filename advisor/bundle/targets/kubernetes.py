"""kubernetes.yaml: a Deployment and a Service (vLLM docs, deployment/k8s), the model on a volume claim."""

from __future__ import annotations

from typing import Any

from advisor.bundle.context import PORT, BundleContext
from advisor.bundle.targets import container
from advisor.bundle.targets.registry import Rendered


def deployment(context: BundleContext) -> dict[str, Any]:
    """The Deployment: one replica at a time on a device that holds one."""
    name = container.resource_name(context)
    labels = {"app.kubernetes.io/name": name}
    engine = {
        "name": "vllm",
        "image": container.image(context),
        "args": [
            "--model", f"{container.MODEL_MOUNT}/model", *container.arguments(context),
            "--host", "0.0.0.0", "--port", str(PORT),
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": container.env(context),
        "resources": container.resources(context),
        **container.probes(context),
        "volumeMounts": [
            {"name": "model", "mountPath": container.MODEL_MOUNT, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": 1,
            # a second pod would wait for the device that the first one holds
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [engine],
                    "volumes": [
                        {"name": "model", "persistentVolumeClaim": {"claimName": name}},
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
                    ],
                },
            },
        },
    }


def service(context: BundleContext) -> dict[str, Any]:
    """The Service in front of it, inside the cluster only."""
    name = container.resource_name(context)
    labels = {"app.kubernetes.io/name": name}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "selector": labels,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }


def render(context: BundleContext) -> Rendered:
    """Both objects in one file."""
    name = container.resource_name(context)
    head = (
        f"The claim {name} must hold this bundle's model/ directory. There is no API key: add VLLM_API_KEY.",
        container.probe_words(context),
    )
    text = container.dump(deployment(context), service(context), head=head)
    return Rendered({"kubernetes.yaml": text}, (f"needs a PersistentVolumeClaim {name} that holds model/",))
