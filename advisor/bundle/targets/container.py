"""What every container platform needs to know: image, arguments, devices, memory, time to load."""

from __future__ import annotations

import json
import math
import re
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from advisor.bundle.compose import CPU_IMAGE, GPU_IMAGE
from advisor.bundle.context import PORT, BundleContext
from advisor.bundle.env_sh import environment
from advisor.bundle.run_sh import PLUGIN
from advisor.bundle.serve_yaml import serve_options
from advisor.bundle.targets.registry import Refused
from profiles.hardware.schema import DeviceKind

MODEL_MOUNT = "/models"
"""Where the volume with the bundle's model/ is mounted."""

PROBE_PERIOD_S = 10
LOAD_MARGIN = 5.0
"""The start-up probe waits this many times the measured load time: a cold page cache, a slower disk, a
busier node. The load was measured on the validating machine with warm files."""

LEAST_STARTUP_S = 300
"""Never less: an image that compiles or captures graphs at its first start takes minutes."""


def image(context: BundleContext) -> str:
    """The published image of the validated version.

    Raises:
        Refused: no published image runs this plan on this device.
    """
    if context.needs_plugin:
        raise Refused(
            f"INT4 on this kind of CPU needs the vLLM plugin {PLUGIN} of precision-advisor, and no published "
            "image has it: use run.sh, or build an image with precision-advisor installed and compose.yaml"
        )
    if context.hardware.device.kind not in (DeviceKind.CUDA, DeviceKind.CPU):
        raise Refused(f"no image is known here for {context.hardware.device.kind.value} devices")
    return f"{CPU_IMAGE if context.on_cpu else GPU_IMAGE}:{tag(context)}"


def tag(context: BundleContext) -> str:
    """The image's tag: the version that was validated."""
    return f"v{context.report.quantized.engine_version.partition('+')[0]}"


def resource_name(context: BundleContext) -> str:
    """A DNS label (RFC 1123): lower case, digits and dashes, at most 63 characters."""
    name = re.sub(r"[^a-z0-9]+", "-", context.served_name.lower()).strip("-")
    return name[:63].strip("-") or "model"


def gpus(context: BundleContext) -> int:
    """Devices that one replica needs."""
    if context.on_cpu:
        return 0
    serving = context.serving
    return serving.tensor_parallel_size * serving.pipeline_parallel_size * serving.data_parallel_size


def arguments(context: BundleContext, *, leave_out: tuple[str, ...] = ()) -> list[str]:
    """serve.yaml's options as command line arguments; a false switch has no `--no-` form here and is none."""
    out: list[str] = []
    for name, value in serve_options(context).items():
        if name in {"model", "host", "port", *leave_out} or value is False:
            continue
        if value is True:
            out.append(f"--{name}")
        else:
            out += [f"--{name}", json.dumps(value) if isinstance(value, (dict, list)) else str(value)]
    return out


def env(context: BundleContext) -> list[dict[str, str]]:
    """Environment variables as Kubernetes writes them."""
    return [{"name": name, "value": value} for name, value in environment(context).items()]


def memory_gib(context: BundleContext) -> int:
    """Host memory of one replica: on the CPU what the engine's process took at its peak, plus a quarter;
    beside a GPU the checkpoint once more, because it passes through host memory at load, and 4 GiB."""
    ran = context.report.quantized
    if context.on_cpu:
        return math.ceil(ran.peak_rss_bytes * 1.25 / 2**30)
    return math.ceil(ran.weights_bytes * gpus(context) / 2**30) + 4


def resources(context: BundleContext) -> dict[str, dict[str, str]]:
    """Requests and limits of one replica."""
    memory = {"memory": f"{memory_gib(context)}Gi"}
    devices = {"nvidia.com/gpu": str(gpus(context))} if gpus(context) else {}
    return {"requests": memory | devices, "limits": memory | devices}


def startup_failures(context: BundleContext) -> int:
    """failureThreshold of the start-up probe, from the measured load time."""
    seconds = max(LEAST_STARTUP_S, LOAD_MARGIN * context.report.quantized.load_seconds)
    return math.ceil(seconds / PROBE_PERIOD_S)


def probes(context: BundleContext) -> dict[str, Any]:
    """Start-up, readiness and liveness on /health: the last two only count once the first has passed."""
    get = {"httpGet": {"path": "/health", "port": PORT}}
    return {
        "startupProbe": get
        | {"periodSeconds": PROBE_PERIOD_S, "failureThreshold": startup_failures(context)},
        "readinessProbe": get | {"periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": get | {"periodSeconds": PROBE_PERIOD_S, "failureThreshold": 6},
    }


def probe_words(context: BundleContext) -> str:
    """Where the start-up probe's numbers come from."""
    load = context.report.quantized.load_seconds
    return (
        f"startupProbe: {startup_failures(context)} x {PROBE_PERIOD_S} s; the load took {load:.1f} s when it "
        f"was measured, times {LOAD_MARGIN:g}, at least {LEAST_STARTUP_S} s"
    )


def dump(*documents: Any, head: tuple[str, ...] = ()) -> str:
    """YAML text with comment lines first; several documents are separated by ---."""
    out = StringIO()
    for line in head:
        out.write(f"# {line}\n")
    yaml = YAML()
    yaml.width = 120
    yaml.representer.ignore_aliases = lambda *_: True  # a shared dict is written out, not as an anchor
    yaml.dump_all(documents, out) if len(documents) > 1 else yaml.dump(documents[0], out)
    return out.getvalue()
