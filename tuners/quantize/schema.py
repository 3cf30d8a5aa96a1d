"""What the quantizer is asked for and what it hands back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from profiles.provenance import Contract
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize.methods import Method, methods_by_unit
from tuners.search.schema import StageMemory

ROUNDING_STEPS = 200
"""AutoRound's steps per block: the paper's default."""


MAX_RECOVER_STEPS = 5000
"""Recovery is meant to be short: a few hundred steps; more is training."""


class QuantizeSpec(Contract):
    """One checkpoint to write: the plan over its units, the texts that calibrate it, and the limits.

    `methods` says how formats are quantized where the default is not wanted, the plan's own `methods` how
    single units are (`tuners/quantize/methods.py`); `rounding_steps` are AutoRound's per block. With
    `recover_steps` the checkpoint is trained towards the original afterwards (`tuners/quantize/recover.py`);
    `held_out` are the fingerprints of texts that it must not be trained on. `compute` is the arithmetic type
    of calibration: `auto` measures which is faster here. `input_scales` is the search's file of input scales
    (.npz of exponents, `UNIT--FORMAT`), its digest the sha256 of it; without one they are found anew on the
    calibration texts. `overwrite` replaces an older checkpoint of this program in `out_dir`, with `anew`
    one of the same request too. `memory` resident loads the whole model, streamed one decoder block at a
    time, auto streams when the model does not fit into `memory_bytes` (default: what is available).
    """

    model_path: str
    units: tuple[Unit, ...] = Field(min_length=1)
    plan: PrecisionPlan
    out_dir: str
    calibration_texts: tuple[str, ...]
    num_samples: int = Field(default=16, ge=1)
    max_seq_length: int = Field(default=256, ge=8)
    methods: dict[str, Method] = {}
    rounding_steps: int = Field(default=ROUNDING_STEPS, ge=1, le=2000)
    recover_steps: int = Field(default=0, ge=0, le=MAX_RECOVER_STEPS)
    held_out: tuple[str, ...] = ()
    dampening_frac: float = Field(default=0.01, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    max_shard_bytes: int = Field(default=5_000_000_000, ge=1_000_000)
    trust_remote_code: bool = False
    compute: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    overwrite: bool = False
    anew: bool = False
    input_scales: str | None = None
    input_scales_digest: str = ""
    memory: Literal["auto", "resident", "streamed"] = "auto"
    memory_bytes: int | None = Field(default=None, gt=0)

    def methods_by_unit(self) -> dict[str, str]:
        """Method of every quantized unit.

        Raises:
            UsageError: a method is unknown or cannot make its format.
        """
        return methods_by_unit(self.units, self.plan, self.methods)

    @property
    def partial_dir(self) -> Path:
        """Where the checkpoint is written until it is verified."""
        out = Path(self.out_dir)
        return out.with_name(out.name + ".partial")


class RecoverResult(Contract):
    """What recovery did. KL is to the original on `check_tokens` tokens of calibration text that was kept out
    of training: it says whether to keep the result, not how good the model is."""

    steps: int
    seconds: float
    train_tokens: int
    check_tokens: int
    kl_before: float
    kl_after: float
    kept: bool
    flipped: float  # share of the codes of at most 4 bits that changed


class QuantizeResult(Contract):
    """The checkpoint as it lies on disk. `weight_bytes` are all tensors, `unit_bytes` those of the plan's
    units, equal to `plan.bytes_of(units)`; headers and padding are not counted."""

    checkpoint: str
    files: tuple[str, ...]
    weight_bytes: int
    unit_bytes: int
    seconds: float
    peak_rss_bytes: int
    recipe: str
    compute_dtype: str
    compute_reason: str
    calibration_tokens: int
    methods: dict[str, str]  # format name -> method, several joined by a plus sign
    memory: StageMemory | None = None  # the bound of the memory, when it was done block by block
    input_scaled: tuple[str, ...] = ()  # units whose input was scaled by powers of two before rounding
    recovery: RecoverResult | None = None
    plan_key: str
    skipped: bool = False
