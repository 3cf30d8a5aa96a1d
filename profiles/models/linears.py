"""Linear weights of a checkpoint: role, decoder block, the engine's fused module, logical shape."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from profiles.models.architectures import Architecture
from profiles.models.construct import make_linear
from profiles.models.schema import LinearInfo, StoredQuantization, TensorInfo

BLOCK = re.compile(r"^(.*?\b(?:layers|h|blocks|layer)\.)(\d+)\.(.+)$")
TOWERS = re.compile(r"(vision|visual|audio|image_|vit\b|multi_modal|mm_|aligner|siglip|speech)")
EXPERT = re.compile(r"^(.*experts)\.(?:\d+|\*)\.(.+)$")
SUFFIXES = (".weight_packed", ".qweight", ".weight", ".weight_blocks")

EMBEDDINGS = (
    "embed_tokens",
    "wte",
    "word_embeddings",
    "tok_embeddings",
    "embeddings",
    "embed_tokens_per_layer",
    "embedding",
)
NOT_LINEAR = ("norm", "layernorm", "conv1d", "conv", "position_embeddings", "token_type_embeddings", "wpe",
              "rotary_emb", "A_log", "position_embedding", "depthwise_conv1d")  # fmt: skip
HEADS = ("lm_head", "embed_out", "output_layer", "output")
QKV = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "Wqkv", "wqkv", "c_attn", "W_pack",
       "query", "key", "value", "wq", "wk", "wv", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
       "in_proj", "in_proj_qkvz",
       "in_proj_qkv", "in_proj_z")  # fmt: skip
OUT = ("o_proj", "out_proj", "dense", "wo", "c_proj", "Wo", "out")
GATE_UP = ("gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "c_fc", "c_fc_0", "c_fc_1", "fc1",
           "dense_h_to_4h", "Wi",
           "input_linear", "fc11", "fc12", "up_gate_proj")  # fmt: skip
DOWN = ("down_proj", "w2", "fc2", "dense_4h_to_h", "output_linear", "c_proj", "Wo")
ROUTERS = ("gate", "router", "shared_expert_gate", "layer", "wg")


@dataclass(frozen=True)
class Place:
    """What a module is: its role, the engine's path for it inside the block, its name among experts."""

    role: str
    fused: str
    expert: str | None = None


def role_of(path: str, tower: bool = False) -> str:
    """The role of a module inside its block, from the words of its path."""
    if tower:
        return "other"
    words = path.split(".")
    leaf = words[-1]
    inside = set(words[:-1])
    if any("shared_expert" in w or w in ("shared_mlp", "shared_experts") for w in inside):
        return "shared_down" if leaf in DOWN else "shared_gate_up" if leaf in GATE_UP else "other"
    if "experts" in inside or (leaf in ("input_linear", "output_linear") and "block_sparse_moe" in inside):
        return "expert_down" if leaf in DOWN else "expert_gate_up"
    if leaf in ROUTERS or "router" in inside:
        return "router"
    mlp = inside & {"mlp", "feed_forward", "ffn", "block_sparse_moe", "intermediate", "mlp_block"}
    if leaf == "dense" and "attention" not in inside:
        return "gate_up" if "intermediate" in inside else "down" if "output" in inside else "o"
    if not mlp and leaf in QKV:
        return "qkv"
    if not mlp and leaf in OUT and not ("mixer" in inside and leaf == "down_proj"):
        return "o"
    if leaf in DOWN:
        return "down"
    if leaf in GATE_UP:
        return "gate_up"
    return "other"


def linears_of(
    tensors: Sequence[TensorInfo],
    architecture: Architecture,
    *,
    quantization: StoredQuantization | None = None,
    hidden_size: int = 0,
) -> tuple[LinearInfo, ...]:
    """Every linear weight; the experts of a layer that share a shape are one entry with `copies`.

    Such an entry bears the name of the first expert (`...mlp.experts.0.gate_proj`); its `fused` is
    `...mlp.experts`, the one module that the engine builds for all of them. Inputs of mamba and linear
    attention have the role `qkv`, their outputs `o`: they stand where attention's do.
    """
    fused_of = {part: whole for whole, parts in architecture.fusions.items() for part in parts}
    known: dict[tuple[str, str, tuple[int, ...], str], tuple[Place, int, int, int] | None] = {}
    experts: dict[tuple[str, str, int, int], int] = {}
    found: list[LinearInfo] = []
    for tensor in tensors:
        module = _module(tensor)
        if module is None:
            continue
        block, prefix, path = _split(module)
        key = (prefix, path, tensor.shape, tensor.dtype)
        if key not in known or block is None:
            place = _place(path, prefix, block, fused_of)
            shape = place and logical_shape(tensor, quantization, place.role, hidden_size, architecture.name)
            known[key] = (place, *shape) if place and shape else None
        entry = known[key]
        if entry is None:
            continue
        place, rows, columns, copies = entry
        head = f"{prefix}{block}." if block is not None else ""
        name, fused = module.replace(".*.", ".0."), head + place.fused
        if place.expert is not None:
            group = (fused, place.expert, rows, columns)
            at = experts.setdefault(group, len(found))
            if at < len(found):
                copies += found[at].copies
                name = found[at].name
                found[at] = make_linear(name, columns, rows, fused, place.role, block, copies)
                continue
        found.append(make_linear(name, columns, rows, fused, place.role, block, copies))
    return tuple(sorted(found, key=_forward_order))


def _forward_order(item: LinearInfo) -> tuple[int, int]:
    """Embeddings, blocks in order, heads; the file's order otherwise."""
    if item.block is not None and item.role != "other":
        return 1, item.block
    return (0, 0) if item.role == "embed" else (2, item.block or 0)


def _module(tensor: TensorInfo) -> str | None:
    name = tensor.name
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)] if 2 <= len(tensor.shape) <= 3 else None
    if name.endswith("_blocks") and len(tensor.shape) == 4:
        return name[: -len("_blocks")]
    if "experts." in name and len(tensor.shape) == 3 and name.endswith("_proj"):
        return name
    return None


def _split(module: str) -> tuple[int | None, str, str]:
    match = BLOCK.match(module)
    if match is None:
        return None, module, module
    return int(match[2]), match[1], match[3]


def _place(path: str, prefix: str, block: int | None, fused_of: dict[str, str]) -> Place | None:
    leaf = path.rsplit(".", 1)[-1]
    if leaf in NOT_LINEAR or leaf.endswith(("norm", "layernorm", "_norm")):
        return None
    tower = bool(TOWERS.search(prefix))
    if leaf in EMBEDDINGS and (not tower or block is None):
        return Place("other" if tower else "embed", path)
    if block is None:
        return Place("lm_head" if leaf in HEADS and not tower else "other", path)
    role = role_of(path, tower)
    if (match := EXPERT.match(path)) is not None and role.startswith("expert"):
        return Place(role, match[1], expert=match[2])
    if role.startswith("expert"):  # stacked: one tensor holds every expert
        return Place(role, path.rsplit(".", 1)[0], expert=leaf)
    whole = fused_of.get(leaf)
    fused = path[: -len(leaf)] + whole if whole and not tower else path
    return Place(role, fused)


def logical_shape(
    tensor: TensorInfo,
    quantization: StoredQuantization | None,
    role: str,
    hidden_size: int,
    architecture: str,
) -> tuple[int, int, int] | None:
    """(out, in, copies) of the weight before packing; None when the tensor is no matrix."""
    shape, name = tensor.shape, tensor.name
    method = quantization.method if quantization else ""
    bits = packed_bits(quantization, name) if quantization else 16
    if name.endswith("_blocks") and len(shape) == 4:  # MXFP4: (E, out, in / 32, 16 bytes)
        return shape[1], shape[2] * shape[3] * 2, shape[0]
    if name.endswith(".qweight"):
        if len(shape) not in (2, 3):
            return None
        number, first, last = (1, *shape) if len(shape) == 2 else shape
        if method == "awq":
            return last * 32 // bits, first, number
        return last, first * 32 // bits, number
    copies, rows, columns = (shape if len(shape) == 3 else (1, *shape)) if len(shape) in (2, 3) else (0, 0, 0)
    if not copies or (len(shape) == 3 and not role.startswith("expert")):
        return None
    if name.endswith(".weight_packed"):
        columns = columns * 2 if tensor.dtype == "U8" else columns * 32 // bits
    elif tensor.dtype == "U8" and method in ("modelopt", "nvfp4", "mxfp4", "compressed-tensors"):
        columns *= 2
    elif tensor.dtype == "U8" and method == "bitsandbytes":
        return None
    if len(shape) == 3 and hidden_size and not name.endswith(".weight"):  # Llama-4, gpt-oss: (E, in, out)
        model_side = (rows if role == "expert_gate_up" else columns) == hidden_size
        if model_side and rows != columns:
            rows, columns = columns, rows
    if architecture.startswith("GPT2"):
        rows, columns = (columns, rows) if role in ("qkv", "o", "gate_up", "down") else (rows, columns)
    return rows, columns, copies


def packed_bits(quantization: StoredQuantization, tensor_name: str) -> int:
    """Bits of one packed weight; a mixed checkpoint's first group that targets the module decides."""
    if quantization.weight_bits:
        return int(quantization.weight_bits)
    module = tensor_name.rsplit(".", 1)[0]
    groups = quantization.raw.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        for target in group.get("targets") or () if isinstance(group, dict) else ():
            if target in (module, "Linear") or (
                isinstance(target, str) and target.startswith("re:") and _matches(target[3:], module)
            ):
                weights = group.get("weights")
                bits = weights.get("num_bits") if isinstance(weights, dict) else None
                if type(bits) is int and 1 <= bits <= 16:
                    return bits
    return 4


def _matches(pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error:
        return False
