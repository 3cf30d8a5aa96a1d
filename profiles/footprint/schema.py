"""What is asked of an engine (`ServingSpec`) and what it will answer at boot (`Footprint`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from profiles.provenance import Contract, Figure

LIMIT = 1 << 48
"""Counts beyond it are typing errors, and too large for arithmetic in doubles."""


KvCacheDtype = Literal[
    "auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla", "fp8_per_token_head", "int8",
    "int8_per_token_head", "int4_per_token_head", "nvfp4",
]  # fmt: skip
"""vLLM's names (0.32 `CacheDType`); `int8` is short for `int8_per_token_head`."""


class ServingSpec(Contract):
    """Serving arguments, named as vLLM names them; None means the engine's own default."""

    max_model_len: int | None = Field(default=None, ge=1, lt=LIMIT)
    concurrency: int = Field(default=1, ge=1, lt=LIMIT)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    kv_cache_memory_bytes: int | None = Field(default=None, ge=0, le=1 << 60)
    kv_cache_dtype: KvCacheDtype = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    tensor_parallel_size: int = Field(default=1, ge=1, lt=LIMIT)
    pipeline_parallel_size: int = Field(default=1, ge=1, lt=LIMIT)
    data_parallel_size: int = Field(default=1, ge=1, lt=LIMIT)
    decode_context_parallel_size: int = Field(default=1, ge=1, lt=LIMIT)
    enable_expert_parallel: bool = False
    max_num_batched_tokens: int | None = Field(default=None, ge=1, lt=LIMIT)
    max_num_seqs: int | None = Field(default=None, ge=1, lt=LIMIT)
    block_size: int | None = Field(default=None, ge=1, le=1 << 20)
    enforce_eager: bool = False
    enable_prefix_caching: bool | None = None  # matters to memory for mamba layers alone
    cpu_offload_gb: float = Field(default=0, ge=0, le=1e9)
    max_loras: int = Field(default=0, ge=0, le=1 << 16)
    max_lora_rank: int = Field(default=16, ge=1, le=1 << 13)
    speculative_model: str | None = Field(default=None, max_length=500)
    num_speculative_tokens: int = Field(default=0, ge=0, le=1 << 10)
    engine: Literal["vllm"] = "vllm"
    engine_version: str = "0.32.0"


class Verdict(StrEnum):
    """Whether the engine starts and holds the context and concurrency asked for."""

    FITS = "fits"
    FITS_IF = "fits if"  # with one of the levers below
    DOES_NOT_FIT = "does not fit"


class Lever(Contract):
    """One change of arguments and what it frees on each rank, cheapest first."""

    change: str  # the argument as the user would type it: "--max-num-seqs 256"
    frees_bytes: Figure
    cost: str  # what is given up, in a few words
    enough: bool  # this lever alone makes it fit


class Footprint(Contract):
    """The engine's boot log, predicted line by line, for the tightest rank (bytes unless named)."""

    weights: Figure
    activation: Figure
    non_torch: Figure
    cuda_graph: Figure
    kv_bytes: Figure
    kv_bytes_per_token: Figure
    kv_tokens: Figure
    max_concurrency: Figure  # at max_model_len, as vLLM prints it
    longest_context: Figure  # tokens per request at the concurrency asked
    budget: Figure  # total x utilization, what the engine allows itself
    checkpoint: Figure  # weights on disk
    free_after: Figure  # device memory left over for others
    verdict: Verdict
    reason: str  # one sentence, with the numbers
    refusals: tuple[str, ...] = ()  # each start-up check that would fail
    levers: tuple[Lever, ...] = ()
    spec: ServingSpec  # with every default filled in
    device_name: str
    plan_label: str
    prefill_tokens_s: Figure | None = None
    decode_tokens_s: Figure | None = None  # per request
    ttft_ms: Figure | None = None
    itl_ms: Figure | None = None
    throughput_tokens_s: Figure | None = None  # all requests together
    notes: tuple[str, ...] = ()
