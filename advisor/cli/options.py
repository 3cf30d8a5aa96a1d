"""Options that several commands share, flattened into each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print data alone, as JSON, on stdout.")]
Quiet = Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="No progress on stderr.")]
Offline = Annotated[
    bool, Parameter(name="--offline", negative="", help="Use no network: local files and the catalogue only.")
]
Yes = Annotated[
    bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask before long or big steps.")
]
DryRun = Annotated[
    bool, Parameter(name="--dry-run", negative="", help="Say what would be done, with sizes; do nothing.")
]
Run = Annotated[Path | None, Parameter(name="--run", help="The run directory.")]
Resume = Annotated[
    bool,
    Parameter(
        name="--resume", negative="--no-resume", help="Skip finished stages whose inputs have not changed."
    ),
]
ResumeStage = Annotated[
    bool,
    Parameter(
        name="--resume",
        negative="--no-resume",
        help="Skip the stage when it is finished and unchanged, as earlier ones are in any case.",
    ),
]
Gpu = Annotated[
    str | None, Parameter(name="--gpu", help="Plan for this device of the catalogue instead of this machine.")
]
TrustToRead = Annotated[
    bool, Parameter(name="--trust-remote-code", negative="", help="Read models that bring their own code.")
]
TrustToRun = Annotated[
    bool, Parameter(name="--trust-remote-code", negative="", help="Run code that the model brings.")
]
Revision = Annotated[str | None, Parameter(name="--revision", help="Of a Hub model.")]
ModelPath = Annotated[str, Parameter(help="A folder with config.json and safetensors, or a Hub id.")]
CalibrationSamples = Annotated[
    int,
    Parameter(
        name="--calibration-samples",
        help="Sequences of 256 tokens that calibrate the quantizer; the original writes those that the "
        "task's text lacks.",
    ),
]
Sensitivity = Annotated[
    Literal["auto", "exact", "fast", "quick"],
    Parameter(
        name="--sensitivity",
        help="KL of every cell (exact), or backward passes (fast), or a first plan in seconds, from one "
        "backward pass and nothing quantized (quick).",
    ),
]
Seed = Annotated[int, Parameter(name="--seed", help="Same seed, same search.")]
Count = Annotated[int, Parameter(name="--count", help="How many of the device.")]


def _names(_type: object, tokens: Sequence[Token]) -> list[str]:
    """`A B` and `A,B` are the same list."""
    return [name for token in tokens for name in token.value.split(",") if name]


Formats = Annotated[
    list[str] | None,
    Parameter(
        name="--formats",
        consume_multiple=True,
        negative="",
        converter=_names,
        help="The menu: names, by spaces or commas, or all.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Conduct:
    """What a command that works may do without asking, and how it answers."""

    offline: Offline = False
    yes: Yes = False
    dry_run: DryRun = False
    json: Json = False
    quiet: Quiet = False


@Parameter(name="*")
@dataclass(frozen=True)
class Serving:
    """How the model will be served; what is not given is the engine's own default."""

    context: Annotated[
        int | None, Parameter(name=["--context", "--max-model-len"], help="Tokens per request.")
    ] = None
    concurrency: Annotated[int, Parameter(name="--concurrency", help="Requests at the same time.")] = 1
    kv_cache_dtype: Annotated[
        str,
        Parameter(
            name=["--kv-cache-dtype", "--kv-dtype"],
            help="auto, bf16, fp8 (= fp8_e4m3, with calibrated scales), fp8_e5m2, int8 (vLLM scales it), "
            "nvfp4, or vLLM's own names; what the device's attention does not take is refused.",
        ),
    ] = "auto"
    tp: Annotated[int, Parameter(name=["--tp", "--tensor-parallel-size"], help="Tensor parallel size.")] = 1
    pp: Annotated[int, Parameter(name=["--pp", "--pipeline-parallel-size"], help="Pipeline stages.")] = 1
    gpu_memory_utilization: Annotated[
        float | None, Parameter(name="--gpu-memory-utilization", help="Share of the device for the engine.")
    ] = None
    kv_cache_memory: Annotated[
        str | None, Parameter(name="--kv-cache-memory", help="Fixed KV cache size, e.g. 1GiB.")
    ] = None
    max_num_batched_tokens: Annotated[
        int | None, Parameter(name="--max-num-batched-tokens", help="As vLLM names it.")
    ] = None
    max_num_seqs: Annotated[int | None, Parameter(name="--max-num-seqs", help="As vLLM names it.")] = None
    enforce_eager: Annotated[bool, Parameter(name="--enforce-eager", negative="", help="No CUDA graphs.")] = (
        False
    )


@Parameter(name="*")
@dataclass(frozen=True)
class Weights:
    """How weights become codes; what is not given stays as the run has it, else at its default."""

    method: Annotated[
        list[str] | None,
        Parameter(
            name="--method",
            consume_multiple=True,
            negative="",
            converter=_names,
            help="How formats are quantized: W4A16=awq,W8A8=smoothquant, or one method for all that it can "
            "make. rtn, gptq, gptq-no-order, gptq-minmax, awq, awq-gptq, smoothquant, smoothquant-pow2, "
            "autoround, auto.",
        ),
    ] = None
    rounding_steps: Annotated[
        int | None,
        Parameter(name="--rounding-steps", help="Steps per block that autoround learns for (200)."),
    ] = None

    recover: Annotated[
        int | None,
        Parameter(
            name="--recover",
            help="Steps of training the checkpoint towards the original after quantization (0: none; 200 are "
            "usual). On calibration text alone.",
        ),
    ] = None

    def changes(self) -> dict[str, object]:
        """Fields of the run's inputs that were given.

        Raises:
            UsageError: an unknown method or format.
        """
        from tuners.quantize.methods import parse_methods

        given: dict[str, object] = {
            "rounding_steps": self.rounding_steps,
            "recover_steps": self.recover,
        }
        if self.method is not None:
            given["methods"] = parse_methods(self.method)
        return {name: value for name, value in given.items() if value is not None}
