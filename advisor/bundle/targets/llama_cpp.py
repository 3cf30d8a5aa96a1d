"""The plan for llama.cpp and Ollama: a type per tensor for llama-quantize, and a Modelfile.

llama.cpp has formats of its own: the mapping keeps each unit's width, not its rounding, so its quality is
another one and was not measured. `--tensor-type NAME=TYPE` takes a regular expression and searches it in
the tensor's name, the first match wins (llama.cpp src/llama-quant.cpp); patterns here are anchored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from advisor.bundle.context import BundleContext
from advisor.bundle.targets.registry import Refused, Rendered
from profiles.formats import get_format
from tuners.plan import PrecisionPlan, Unit, UnitLinear
from tuners.solver import Scores

SUPER_BLOCK = 256
"""Inputs of a k-quant super-block (ggml QK_K): rows must be whole ones."""

BLOCK = 32
"""Inputs of a block of Q4_0 and Q8_0 (ggml QK4_0, QK8_0)."""

BITS = {"q4_k": 4.5, "q4_0": 4.5, "q6_k": 6.5625, "q8_0": 8.5, "bf16": 16.0}
"""Bits per weight, scales included (ggml block sizes: 144 B / 256, 18 B / 32, 210 B / 256, 34 B / 32)."""

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
"""Checkpoint module to GGUF tensor, for the architectures below (gguf-py tensor_mapping.py)."""

ARCHITECTURES = frozenset(
    {
        "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
        "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Olmo2ForCausalLM",
    }
)  # fmt: skip
"""Dense architectures whose linear weights carry the names above."""

_MODULE = re.compile(r"^model\.layers\.(\d+)\.(.+)$")


def tensor_name(architecture: str, module: str) -> str:
    """The GGUF name of a checkpoint module.

    Raises:
        Refused: the name is not known; a guess could leave a layer in the base type silently.
    """
    match = _MODULE.match(module)
    if architecture not in ARCHITECTURES or match is None or match[2] not in NAMES:
        raise Refused(
            f"no GGUF name is known for {module} of {architecture}: llama-quantize would leave "
            "it in the base type without a word"
        )
    return f"blk.{match[1]}.{NAMES[match[2]]}.weight"


def gguf_type(format_name: str, linear: UnitLinear) -> str:
    """The llama.cpp type of the same width: k-quants where rows are whole super-blocks."""
    fmt = get_format(format_name)
    if fmt.family == "16-bit":
        return "bf16"
    if linear.in_features % BLOCK:
        raise Refused(f"{linear.name}: {linear.in_features} inputs are not whole blocks of {BLOCK}")
    if fmt.weight_bits == 8:
        return "q8_0"
    return "q4_k" if linear.in_features % SUPER_BLOCK == 0 else "q4_0"


def tensor_types(
    architecture: str, units: Sequence[Unit], plan: PrecisionPlan, scores: Scores | None = None
) -> dict[str, str]:
    """GGUF tensor name -> type, for every unit.

    llama.cpp's types are wider than the plan's formats (q8_0 has 8.5 bits). Where `scores` (the measured KL
    of each unit in each format) say what bits are worth, 8-bit units become q6_k, the least sensitive first,
    until the file is no larger than the plan or none is left whose rows q6_k can store.

    Raises:
        Refused: a unit that llama.cpp has no name or no type for.
    """
    if any(m.copies > 1 for u in units for m in u.linears):
        raise Refused("experts are one stacked tensor in GGUF, and this plan names them one by one")
    types = {m.name: gguf_type(plan.formats[u.name], m) for u in units for m in u.linears}
    if scores:
        _fit(types, units, plan, scores)
    return {tensor_name(architecture, name): kind for name, kind in types.items()}


def _fit(types: dict[str, str], units: Sequence[Unit], plan: PrecisionPlan, scores: Scores) -> None:
    """q6_k for q8_0 in `types`, by what the measured KL of the narrowest format says per weight."""
    sizes = {m.name: m.in_features * m.out_features for u in units for m in u.linears}
    excess = sum(BITS[types[n]] * count for n, count in sizes.items()) - 8 * plan.bytes_of(units)

    def sensitivity(unit: Unit) -> float:
        return max(scores[unit.name].values()) / unit.numel

    narrow = [
        u for u in units
        if u.name in scores and scores[u.name]
        and all(types[m.name] == "q8_0" and m.in_features % SUPER_BLOCK == 0 for m in u.linears)
    ]  # fmt: skip
    for unit in sorted(narrow, key=sensitivity):
        if excess <= 0:
            return
        for linear in unit.linears:
            types[linear.name] = "q6_k"
            excess -= (BITS["q8_0"] - BITS["q6_k"]) * sizes[linear.name]


def quantize_sh(context: BundleContext, types: dict[str, str]) -> str:
    """A script that converts the original model and quantizes it by the plan."""
    flags = "\n".join(f"  --tensor-type '^{re.escape(n)}$={t}' \\" for n, t in types.items())
    return f"""#!/usr/bin/env bash
# {context.base_name} for llama.cpp, with the plan's width for every layer. Run in a llama.cpp checkout:
#   ./quantize.sh ORIGINAL_MODEL_DIR [IMATRIX]     (not this bundle's model/: that is already quantized)
# Another quantizer than the one that was validated: measure it (llama-perplexity) before it serves.
set -euo pipefail
model="${{1:?the original model, in 16 bits}}"
imatrix=()
[[ -n "${{2:-}}" ]] && imatrix=(--imatrix "$2")
python convert_hf_to_gguf.py "$model" --outtype bf16 --outfile model-bf16.gguf
llama-quantize "${{imatrix[@]}}" \\
  --token-embedding-type bf16 --output-tensor-type bf16 \\
{flags}
  model-bf16.gguf model.gguf q8_0
"""


def modelfile(context: BundleContext) -> str:
    """For `ollama create NAME -f Modelfile`, beside the GGUF that quantize.sh wrote."""
    return f"FROM ./model.gguf\nPARAMETER num_ctx {context.report.quantized.max_model_len}\n"


def notes(context: BundleContext, types: dict[str, str]) -> tuple[str, ...]:
    """What the mapping keeps and what it does not."""
    linears = {tensor_name(context.model.architecture, m.name): m for u in context.units for m in u.linears}
    weights = sum(m.in_features * m.out_features for m in linears.values())
    bits = sum(BITS[t] * linears[n].in_features * linears[n].out_features for n, t in types.items()) / weights
    out = [
        f"estimated {bits:.3f} bits per weight, the plan has {context.bits_per_weight:.3f}: llama.cpp's "
        "types have block scales of their own",
        "quality was validated in vLLM for another rounding: measure the GGUF before it serves",
    ]
    if "q6_k" in types.values():
        count = list(types.values()).count("q6_k")
        out.append(f"q6_k for {count} 8-bit tensors, the least sensitive by the measured KL: q8_0 is wider "
                   "than the plan's 8 bits")  # fmt: skip
    if "q4_0" in types.values():
        out.append(f"q4_0 where rows are not whole super-blocks of {SUPER_BLOCK} (q4_k cannot store them)")
    families = {get_format(f).family for f in context.plan.formats.values()}
    if families & {"fp8", "int8"}:
        out.append("FP8 and INT8 units become q8_0: weights in 8 bits, activations as llama.cpp chooses")
    if "fp4" in families:
        out.append("FP4 units become 4-bit integers: llama.cpp has no such format for dense layers")
    return tuple(out)


def render(context: BundleContext) -> Rendered:
    """quantize.sh and the Modelfile."""
    types = tensor_types(context.model.architecture, context.units, context.plan, context.scores)
    files = {
        "llama.cpp/quantize.sh": quantize_sh(context, types),
        "llama.cpp/Modelfile": modelfile(context),
    }
    return Rendered(files, notes(context, types))
