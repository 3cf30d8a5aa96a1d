"""Options of `fit` and `compare` that describe larger deployments, flattened into both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Deployment:
    """Parallelism, offload, adapters, a drafter, and which engine; names are vLLM's."""

    dtype: Annotated[str, Parameter(name="--dtype", help="auto, bfloat16, float16 or float32.")] = "auto"
    data_parallel_size: Annotated[
        int, Parameter(name=["--dp", "--data-parallel-size"], help="Replicas that share experts.")
    ] = 1
    decode_context_parallel_size: Annotated[
        int,
        Parameter(name=["--dcp", "--decode-context-parallel-size"], help="Ranks that share a KV cache."),
    ] = 1
    enable_expert_parallel: Annotated[
        bool, Parameter(name="--enable-expert-parallel", negative="", help="Whole experts per rank.")
    ] = False
    enable_prefix_caching: Annotated[
        bool | None,
        Parameter(
            name="--enable-prefix-caching",
            negative="--no-enable-prefix-caching",
            help="Mamba layers keep a second state page with it.",
        ),
    ] = None
    block_size: Annotated[int | None, Parameter(name="--block-size", help="Tokens per KV block.")] = None
    cpu_offload_gb: Annotated[
        float, Parameter(name="--cpu-offload-gb", help="GiB of weights kept in host memory, per rank.")
    ] = 0.0
    max_loras: Annotated[int, Parameter(name="--max-loras", help="LoRA adapters held at once.")] = 0
    max_lora_rank: Annotated[int, Parameter(name="--max-lora-rank", help="Largest LoRA rank.")] = 16
    speculative_model: Annotated[
        str | None, Parameter(name="--speculative-model", help="A drafter: folder, model id, mtp or ngram.")
    ] = None
    num_speculative_tokens: Annotated[
        int, Parameter(name="--num-speculative-tokens", help="Tokens that are drafted per step.")
    ] = 0
    engine_version: Annotated[
        str | None,
        Parameter(
            name="--engine-version", help="vLLM to predict, 0.8 to 0.33 or what ingest taught; 0.32.0."
        ),
    ] = None
