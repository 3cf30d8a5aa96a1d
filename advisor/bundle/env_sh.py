"""env.sh: the environment of the server; what the caller has set already wins."""

from __future__ import annotations

from advisor.bundle.context import BundleContext
from profiles.formats.kernels import cpu_environment


def environment(context: BundleContext) -> dict[str, str]:
    """Variables with their defaults."""
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    if context.on_cpu:
        # a spinning thread starves the rest of a small machine, and of a busy one
        env |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        env |= cpu_environment(context.plan.formats.values())
    return env


def render(context: BundleContext) -> str:
    """The file's text: `source env.sh` before starting the server by hand."""
    lines = ["# Nothing is reported, nothing is downloaded. Values set before sourcing this file are kept."]
    lines += [f'export {name}="${{{name}:-{value}}}"' for name, value in environment(context).items()]
    return "\n".join(lines) + "\n"
