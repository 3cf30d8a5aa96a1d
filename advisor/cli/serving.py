"""From command line options to a ServingSpec, with messages that name the option."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from advisor.cli.deployment import Deployment
from advisor.cli.options import Serving
from profiles.errors import UsageError

if TYPE_CHECKING:
    from profiles.footprint.schema import ServingSpec

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


KV_NAMES = {"bf16": "bfloat16", "fp16": "float16"}
"""Short names of KV cache dtypes."""


def parse_size(text: str) -> int:
    """`1GiB`, `512MiB`, `2e9` as bytes.

    Raises:
        UsageError: not a size.
    """
    match = re.fullmatch(r"\s*([0-9]{0,18}\.?[0-9]{1,18}(?:e[0-9]{1,2})?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise UsageError(
            "not a size", got=text, allowed="a number with B, MiB, GiB, MB or GB", next_step="512MiB, say"
        )
    return int(float(match[1]) * _UNITS[match[2]])


def serving_spec(options: Serving, deployment: Deployment = Deployment()) -> ServingSpec:
    """The spec that the options describe.

    Raises:
        UsageError: a value that no engine would take, or an engine version that nobody knows.
    """
    from pydantic import ValidationError

    from profiles.footprint.residuals import Residuals
    from profiles.footprint.schema import ServingSpec
    from profiles.footprint.version import check_known

    names = {
        "max_model_len": "--context",
        "concurrency": "--concurrency",
        "kv_cache_dtype": "--kv-cache-dtype",
        "tensor_parallel_size": "--tp",
        "pipeline_parallel_size": "--pp",
        "data_parallel_size": "--dp",
        "decode_context_parallel_size": "--dcp",
    }
    if deployment.engine_version is not None:
        check_known(deployment.engine_version, Residuals.load().versions)
    more = {name: value for name, value in vars(deployment).items() if value is not None}
    try:
        return ServingSpec.model_validate(
            {
                "max_model_len": options.context,
                "concurrency": options.concurrency,
                "kv_cache_dtype": KV_NAMES.get(options.kv_cache_dtype.lower(), options.kv_cache_dtype),
                "tensor_parallel_size": options.tp,
                "pipeline_parallel_size": options.pp,
                "gpu_memory_utilization": options.gpu_memory_utilization,
                "kv_cache_memory_bytes": parse_size(options.kv_cache_memory)
                if options.kv_cache_memory
                else None,
                "max_num_batched_tokens": options.max_num_batched_tokens,
                "max_num_seqs": options.max_num_seqs,
                "enforce_eager": options.enforce_eager,
                **more,
            }
        )
    except ValidationError as exc:
        found = exc.errors()
        wrong = [(str(e["loc"][0]), e["msg"], e["input"]) for e in found]
        raise UsageError(
            "serving options that no engine takes",
            got="; ".join(
                f"{names.get(field, '--' + field.replace('_', '-'))} {value}" for field, _, value in wrong
            ),
            allowed="; ".join(message for _, message, _ in wrong),
            next_step="advisor fit --help",
        ) from exc
