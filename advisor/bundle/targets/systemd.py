"""NAME.service: a systemd unit that runs the bundle's own run.sh."""

from __future__ import annotations

import math

from advisor.bundle.context import HOST, PORT, BundleContext
from advisor.bundle.targets import container
from advisor.bundle.targets.registry import Rendered

HOME = "/opt/vllm"


def unit(context: BundleContext) -> str:
    """The unit's text; run.sh execs the server, so signals and the exit code are the server's."""
    name = container.resource_name(context)
    memory = f"MemoryHigh={container.memory_gib(context)}G\n" if context.on_cpu else ""
    return (
        "[Unit]\n"
        f"Description=vLLM serving {context.served_name}\n"
        "After=network-online.target\n"
        "Wants=network-online.target\n"
        "StartLimitIntervalSec=600\n"
        "StartLimitBurst=3\n\n"
        "[Service]\n"
        "Type=exec\n"
        f"WorkingDirectory={HOME}/{name}\n"
        f"Environment=PYTHON={HOME}/venv/bin/python HOST={HOST} PORT={PORT}\n"
        f"EnvironmentFile=-{HOME}/{name}.env\n"
        f"ExecStart={HOME}/{name}/run.sh\n"
        "Restart=on-failure\n"
        f"RestartSec={max(10, math.ceil(context.report.quantized.load_seconds))}\n"
        # run.sh says 3 and 4 when starting again would change nothing
        "RestartPreventExitStatus=3 4\n"
        "TimeoutStartSec=0\n"
        "TimeoutStopSec=60\n"
        f"{memory}"
        "DynamicUser=yes\n"
        f"CacheDirectory={name}\n"
        f"Environment=HOME=/var/cache/{name}\n"
        "NoNewPrivileges=yes\n\n"
        "[Install]\n"
        "WantedBy=multi-user.target\n"
    )


def render(context: BundleContext) -> Rendered:
    """The file, and where it expects the bundle."""
    name = container.resource_name(context)
    notes = (f"expects the bundle in {HOME}/{name} and an environment with vllm in {HOME}/venv",)
    return Rendered({f"{name}.service": unit(context)}, notes)
