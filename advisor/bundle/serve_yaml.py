"""serve.yaml: what `vllm serve --config` reads. Keys are vLLM's long options."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from advisor.bundle.context import HOST, PORT, BundleContext
from tuners.engine.arguments import engine_arguments, engine_kv_dtype


def serve_options(context: BundleContext) -> dict[str, Any]:
    """Option -> value, as validated: the context and dtype are those that were measured."""
    options: dict[str, Any] = {"model": "./model", "served-model-name": context.served_name}
    arguments = engine_arguments(context.serving, on_cpu=context.on_cpu)
    arguments["max_model_len"] = context.report.quantized.max_model_len
    arguments["dtype"] = context.report.quantized.dtype
    if context.plan.kv_cache_dtype != "auto":
        arguments["kv_cache_dtype"] = engine_kv_dtype(context.plan.kv_cache_dtype)
    options |= {name.replace("_", "-"): value for name, value in arguments.items()}
    return options | {"host": HOST, "port": PORT}


def render(context: BundleContext) -> str:
    """The file's text."""
    out = StringIO()
    out.write(f"# vLLM {context.report.quantized.engine_version}; ./run.sh starts it. HOST and PORT there\n")
    out.write("# override these two; any other option: ./run.sh --option value\n")
    yaml = YAML()
    yaml.width = 120
    yaml.dump(serve_options(context), out)
    return out.getvalue()
