"""compose.yaml: the same serve.yaml in vLLM's own container."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from advisor.bundle.context import PORT, BundleContext
from advisor.bundle.env_sh import environment
from advisor.bundle.run_sh import PLUGIN

GPU_IMAGE, CPU_IMAGE = "vllm/vllm-openai", "vllm/vllm-openai-cpu"
"""Images that the vLLM project publishes; the tag is the validated version."""


def compose(context: BundleContext) -> dict[str, Any]:
    """The compose file as an object: the bundle is mounted where serve.yaml's `./model` resolves."""
    tag = f"v{context.report.quantized.engine_version.partition('+')[0]}"
    service: dict[str, Any] = {
        "image": f"{CPU_IMAGE if context.on_cpu else GPU_IMAGE}:{tag}",
        "working_dir": "/bundle",
        # inside the container 127.0.0.1 would be unreachable; the port below is published locally only
        "command": ["--config", "/bundle/serve.yaml", "--host", "0.0.0.0"],
        "ipc": "host",
        "ports": [f"127.0.0.1:${{PORT:-{PORT}}}:{PORT}"],
        "environment": environment(context),
        "volumes": [".:/bundle:ro", "vllm-cache:/root/.cache/vllm"],
        "restart": "on-failure",
    }
    if not context.on_cpu:
        serving = context.serving
        count = serving.tensor_parallel_size * serving.pipeline_parallel_size * serving.data_parallel_size
        gpus = [{"driver": "nvidia", "count": count, "capabilities": ["gpu"]}]
        service["deploy"] = {"resources": {"reservations": {"devices": gpus}}}
    return {"services": {"vllm": service}, "volumes": {"vllm-cache": {}}}


def render(context: BundleContext) -> str:
    """The file's text."""
    out = StringIO()
    if context.needs_plugin:
        out.write(f"# Build an image that has precision-advisor installed (vLLM plugin {PLUGIN}) and name\n")
        out.write("# it below: INT4 on this kind of CPU needs the plugin. ./run.sh needs no container.\n")
    yaml = YAML()
    yaml.width = 120
    yaml.dump(compose(context), out)
    return out.getvalue()
