"""A model's tensors added up by what shares a shape, a sharding rule and a fused engine module.

Identical decoder layers become one group, so that pricing a plan costs the number of *kinds* of layers.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from profiles.models.schema import LinearInfo, ModelProfile, TensorInfo

TOWER = re.compile(r"(vision|visual|audio|image_|vit\b|multi_modal|mm_|aligner|siglip|speech)")
"""Words of modules outside the language model: they sit on the first pipeline stage."""

_BLOCK = re.compile(r"^(.*?\b(?:layers|h|blocks|layer)\.)(\d+)\.")
_EXPERT = re.compile(r"\bexperts\.(?:\d+|\*)\.")
_SERVED = frozenset({"BF16", "F16", "F32", "F64"})
_SCALES = re.compile(r"(scale|zero_point|qzeros|g_idx|_scales|absmax|quant_map|nested|e_score_correction)")
_KV_LEAVES = frozenset({"k_proj", "v_proj", "key", "value", "wk", "wv"})
_FUSED_QKV = frozenset({"qkv_proj", "query_key_value", "Wqkv", "wqkv", "c_attn", "W_pack", "qkv"})
_REPLICATED = frozenset(
    {"q_a_proj", "kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa", "shared_expert_gate", "wq_a", "wkv_a"}
)
_STATE = re.compile(r"(conv1d|A_log|dt_bias|\bD$|dt_proj|sinks)")
_ROW_ROLES = frozenset({"o", "down", "shared_down"})

QUANTIZABLE_ROLES = frozenset(
    {"qkv", "o", "gate_up", "down", "expert_gate_up", "expert_down", "shared_gate_up", "shared_down"}
)
"""Roles that a uniform scheme quantizes; embeddings, heads, routers and towers stay 16-bit."""


class Line(NamedTuple):
    """One module of a group: `elements` are served in the model's dtype, `fixed` bytes as stored.

    `shard` is `column row kv qkv vocab expert_column expert_row replicate even`; `out` x `inn` x `copies`
    is the logical weight (0 x 0 for what is not linear); `stored` the bytes on disk.
    """

    role: str
    shard: str
    out: int
    inn: int
    copies: int
    elements: int
    fixed: int
    stored: int


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that one engine layer holds, the blocks that repeat it, and the modules' names per block."""

    fused: str
    lines: tuple[Line, ...]
    blocks: tuple[int, ...]  # -1: outside the decoder, first stage; -2: last stage
    names: tuple[tuple[str, ...], ...]  # per block, per line


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything that the weights of a model cost, aggregated."""

    groups: tuple[Group, ...]
    stored_bytes: int


class _Module:
    __slots__ = ("elements", "fixed", "linear", "name", "stored")

    def __init__(self, name: str, linear: LinearInfo | None) -> None:
        self.name = name
        self.linear = linear
        self.elements = self.fixed = self.stored = 0


_CACHE: OrderedDict[int, tuple[ModelProfile, Ledger]] = OrderedDict()
_CACHE_SIZE = 512


def ledger_of(model: ModelProfile) -> Ledger:
    """The ledger of a profile, built once per object."""
    found = _CACHE.get(id(model))
    if found is None:
        found = (model, _build(model))
        _CACHE[id(model)] = found
        if len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    return found[1]


def _build(model: ModelProfile) -> Ledger:
    linears: dict[str, LinearInfo] = {}
    for item in model.linears:
        key = _EXPERT.sub("experts.0.", item.name)
        if key in linears:  # experts of two shapes under one name: count them together
            item = item.model_copy(update={"copies": item.copies + linears[key].copies})
        linears[key] = item
    modules: dict[str, _Module] = {}
    stored_total = 0
    for tensor in model.tensors:
        name = _module_name(tensor, linears)
        module = modules.get(name)
        if module is None:
            module = modules[name] = _Module(name, linears.get(name))
        nbytes = tensor.nbytes
        stored_total += nbytes
        module.stored += nbytes
        if tensor.dtype in _SERVED and not _SCALES.search(tensor.name.rsplit(".", 1)[-1]):
            if tensor.dtype == "F32" and len(tensor.shape) < 2:
                module.fixed += nbytes  # biases of routers, A_log: kept in float32
            else:
                module.elements += tensor.numel
        else:
            module.fixed += nbytes
    return Ledger(groups=_grouped(model, modules), stored_bytes=stored_total)


def _module_name(tensor: TensorInfo, linears: dict[str, LinearInfo]) -> str:
    name = _EXPERT.sub("experts.0.", tensor.name)
    if name in linears:
        return name
    parent = name.rpartition(".")[0]
    if parent in linears:
        return parent
    for suffix in ("_blocks", "_scales", "_bias", "_scale_inv", "_scale", "_weight_scale"):
        if name.endswith(suffix) and name[: -len(suffix)] in linears:
            return name[: -len(suffix)]
    return name


def _place(model: ModelProfile, name: str, role: str) -> tuple[int, str]:
    """The pipeline place of a module, and its name without the block's number."""
    if TOWER.search(name):
        match = _BLOCK.match(name)
        return -1, f"{match[1]}*.{name[match.end() :]}" if match else name
    match = _BLOCK.match(name)
    if match and int(match[2]) < model.num_layers:
        return int(match[2]), name[match.end() :]
    last = role == "lm_head" or name.split(".")[-2:-1] in (["norm"], ["ln_f"], ["final_layernorm"])
    return (-2 if last else -1), name


def _grouped(model: ModelProfile, modules: dict[str, _Module]) -> tuple[Group, ...]:
    layers: dict[tuple[int, str], list[tuple[str, Line]]] = {}
    for module in modules.values():
        linear = module.linear
        role = linear.role if linear else "plain"
        block, local = _place(model, module.name, role)
        line = _line(module, linear, local)
        if linear and linear.fused != linear.name:
            match = _BLOCK.match(linear.fused)
            key = linear.fused[match.end() :] if match else linear.fused
            if TOWER.search(module.name):
                key = linear.fused  # towers: one engine layer per block, grouped below by its shape
        else:
            key = module.name if TOWER.search(module.name) else local
        layers.setdefault((block, key), []).append((module.name, line))
    merged: dict[Any, tuple[list[int], list[tuple[str, ...]]]] = {}
    for (block, key), entries in layers.items():
        shape = tuple(line for _, line in entries)
        local_key = _BLOCK.sub(r"\1*.", key)
        blocks, names = merged.setdefault((local_key, shape), ([], []))
        blocks.append(block)
        names.append(tuple(name for name, _ in entries))
    return tuple(
        Group(fused=key, lines=shape, blocks=tuple(blocks), names=tuple(names))
        for (key, shape), (blocks, names) in merged.items()
    )


def _line(module: _Module, linear: LinearInfo | None, local: str) -> Line:
    if linear is None:
        shard = "even" if _STATE.search(local) else "replicate"
        return Line("plain", shard, 0, 0, 1, module.elements, module.fixed, module.stored)
    leaf = linear.name.rsplit(".", 1)[-1]
    return Line(
        linear.role,
        _shard(linear.role, leaf),
        linear.out_features,
        linear.in_features,
        linear.copies,
        module.elements,
        module.fixed,
        module.stored,
    )


def _shard(role: str, leaf: str) -> str:
    if role in ("embed", "lm_head"):
        return "vocab"
    if role == "router" or leaf in _REPLICATED:
        return "replicate"
    if role == "expert_gate_up":
        return "expert_column"
    if role == "expert_down":
        return "expert_row"
    if role in _ROW_ROLES:
        return "row"
    if role == "qkv" and leaf in _KV_LEAVES:
        return "kv"
    if role == "qkv" and leaf in _FUSED_QKV:
        return "qkv"
    return "column"
