"""The checkpoint of a model larger than memory: quantized and written one decoder block at a time.

Sequential as llm-compressor does it: a block's Hessians come from hidden states that went through the rounded
blocks before it; then its weights are rounded (GPTQ by llm-compressor's `quantize_weight`, with clipped
scales), and what leaves the rounded block, activations rounded as the engine will, enters the next one. Input
scales are folded into a block before. Each block is one file; tensors outside the blocks are copied.

Memory: `tuners.search.memory.quantize_memory`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ruamel.yaml import YAML
from torch import Tensor

from profiles.errors import RunFailed, UsageError
from profiles.formats import CALIBRATED, Format, Strategy, get_format
from tuners.events import Emit, Message, Ticker
from tuners.model import smoothing
from tuners.model.calibrate import collect_hessians, input_scales
from tuners.model.host import BlockRun, ModelHost
from tuners.model.inputs import rounding
from tuners.model.variants import (
    LinearVariant,
    gptq,
    round_once,
    rtn_all,
    set_input_rounding,
)
from tuners.plan import Unit
from tuners.quantize.codes import is_readable, write_codes
from tuners.quantize.groups import quantization_config
from tuners.quantize.schema import QuantizeSpec
from tuners.quantize.smooth import scaled_units, stored_scales
from tuners.quantize.source import Source, copy_companions

if TYPE_CHECKING:
    from collections.abc import Mapping

STAGE = "quantize"
METHODS = ("rtn", "gptq", "smoothquant-pow2")
"""What is done block by block; the others need llm-compressor's whole model."""

BATCH_TOKENS = 1024
"""Tokens per calibration batch."""

_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def check_streamable(spec: QuantizeSpec) -> None:
    """Refuse what cannot be quantized block by block.

    Raises:
        UsageError: a method, a format or a unit's place.
    """
    if spec.recover_steps:
        raise UsageError(
            "the model does not fit into memory, and training it after quantization needs all of it",
            got=f"{spec.recover_steps} steps of recovery",
            allowed="0",
        )
    methods = spec.methods_by_unit()
    for unit in spec.units:
        fmt = get_format(spec.plan.formats[unit.name])
        method = methods.get(unit.name)
        wrong = None
        readable = is_readable(fmt) and fmt.activations not in CALIBRATED
        if fmt.strategy is not Strategy.NONE and not readable:
            wrong = fmt.name
        elif method == "gptq" and fmt.group_size is None:
            wrong = f"GPTQ of {fmt.name}, which has no groups"
        elif method is not None and method not in METHODS:
            wrong = f"method {method}"
        elif unit.block is None or any(m.copies > 1 for m in unit.linears):
            wrong = f"a unit of role {unit.role}"
        if wrong:
            raise UsageError(
                "the model does not fit into memory, and this cannot be quantized block by block",
                where=unit.name,
                got=wrong,
                allowed="formats with a scale per channel or group and dynamic inputs, "
                f"methods {', '.join(METHODS)}",
                next_step="use a machine whose memory holds the model, or leave it out of the plan",
            )


def write_streamed(
    spec: QuantizeSpec, source: Source, folder: Path, sequences: Sequence[Sequence[int]], emit: Emit
) -> tuple[str, ...]:
    """Write every tensor, `config.json` and `recipe.yaml` into `folder`; return the units with scaled inputs.

    `sequences` of token ids calibrate; none when nothing of the plan looks at text.
    """
    host = ModelHost.load(
        spec.model_path, spec.units, trust_remote_code=spec.trust_remote_code, streamed=True
    )
    writer = _Writer(folder, source)
    ticker = Ticker(emit, STAGE, len(host.blocks))
    scaled: list[str] = []
    for run in _blocks(host, sequences):
        scaled += _block(spec, host, run, writer)
        ticker(run.index + 1, f"layer {run.index + 1} of {len(host.blocks)}")
    writer.rest()
    writer.finish(spec)
    emit(
        Message(
            stage=STAGE, text=f"inputs of {len(scaled)} of {len(scaled_units(spec))} 8-bit units are scaled"
        )
    )
    return tuple(scaled)


def _blocks(host: ModelHost, sequences: Sequence[Sequence[int]]) -> Iterator[BlockRun]:
    """Every block in memory in turn, with its hidden states when there is text."""
    if sequences:
        ids = torch.tensor(sequences, dtype=torch.long)
        yield from host.blocks_in_turn(ids, max(1, BATCH_TOKENS // ids.shape[1]))
        return
    for index, block in enumerate(host.blocks):
        with host.entered(index):
            yield BlockRun(index, block, torch.empty(0, 0), (), ())


def _block(spec: QuantizeSpec, host: ModelHost, run: BlockRun, writer: _Writer) -> list[str]:
    """Quantize and write one block; afterwards it computes what the engine will."""
    units = [u for u in spec.units if u.block == run.index]
    scaled = _fold(spec, host, run, units)
    methods = spec.methods_by_unit()
    by_hessian = [u for u in units if methods.get(u.name) == "gptq"]
    hessians: dict[str, Tensor] = {}
    if by_hessian:
        hessians = collect_hessians(host, by_hessian, run.feed())
    written: dict[str, Tensor] = {}
    rounded: dict[str, LinearVariant] = {}
    for unit in units:
        fmt = get_format(spec.plan.formats[unit.name])
        if fmt.strategy is Strategy.NONE:
            continue
        weights = [host.linear(m.name).weight.data for m in unit.linears]
        if unit.name in hessians:
            hessian, damping = hessians[unit.name], spec.dampening_frac
            made = [gptq([w.clone()], [hessian.clone()], fmt, damping)[0] for w in weights]
        else:
            made = rtn_all(weights, fmt)
        for linear, variant in zip(unit.linears, made, strict=True):
            rounded[linear.name] = variant
            written |= _tensors(linear.name, fmt, variant, _TORCH[writer.source.dtype])
    for unit in units:
        fmt = get_format(spec.plan.formats[unit.name])
        kind = round_once(rounding(fmt.activations))
        for linear in unit.linears:
            if linear.name in rounded:
                module = host.linear(linear.name)
                module.weight.data = rounded[linear.name].dequantize(host.dtype).to(host.device)
                set_input_rounding(module, kind)
    writer.block(host, run.index, written, set(rounded))
    run.forget()
    return scaled


def _fold(spec: QuantizeSpec, host: ModelHost, run: BlockRun, units: Sequence[Unit]) -> list[str]:
    """Fold the input scales of the block's units: the search's, or found on the calibration text."""
    names = {u.name for u in scaled_units(spec)}
    wanted = [u for u in units if u.name in names]
    if not wanted:
        return []
    few = torch.arange(smoothing.PROBE_TOKENS)[None] * 7919 % int(host.model.config.vocab_size)
    (call,) = host.block_calls(few, 1)
    probe = BlockRun(run.index, run.block, few, [call], [call.hidden])
    found = smoothing.absorbers(host, wanted, probe.first)
    if spec.input_scales is not None:
        scales: Mapping[str, Tensor] = stored_scales(Path(spec.input_scales), wanted, spec)
    else:
        todo = [(u, spec.plan.formats[u.name]) for u in wanted if u.name in found]
        sought = input_scales(host, todo, found, run.feed()) if run.inputs else ()
        scales = {u.name: s for u, _, s in sought if s is not None}
    scaled = [u for u in wanted if u.name in scales and u.name in found]
    for unit in scaled:
        smoothing.fold(host, unit, found[unit.name], scales[unit.name])
    return [u.name for u in scaled]


def _tensors(module: str, fmt: Format, made: LinearVariant, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the file holds of a rounded weight (`tuners/quantize/layout.py`)."""
    if not bool(torch.isfinite(made.scale.float()).all()):
        raise RunFailed(
            f"{module} is not finite after quantization",
            got="NaN or infinity",
            next_step="raise --dampening or the number of calibration samples, or give this unit 8 bits",
        )
    out = write_codes(module, fmt, made.codes, made.scale.to(dtype))
    if fmt.packed_shape_bytes:
        out[f"{module}.weight_shape"] = torch.tensor(made.codes.shape)
        if made.zero is not None:
            from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

            zero = pack_to_int32(made.zero, fmt.weight_bits, packed_dim=0)
            out[f"{module}.weight_zero_point"] = zero.contiguous()
    return out


class _Writer:
    """Files of the checkpoint, one per block, and their index."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder, self.source = folder, source
        self.left = {t.name: t for t in source.tensors}
        self.places: dict[str, str] = {}
        self.bytes = 0

    def block(self, host: ModelHost, index: int, written: dict[str, Tensor], replaced: set[str]) -> None:
        """The block's rounded weights, and the rest of it as it is in memory, in the stored types."""
        assert host.stream is not None
        tensors = dict(written)
        for name, parameter in host.stream.group(index).items():
            stored = self.left.pop(name)
            if name.removesuffix(".weight") not in replaced:
                tensors[name] = parameter.data.to(self._type(stored.dtype))
        self._save(f"model-block-{index:04}.safetensors", tensors)

    def rest(self) -> None:
        """Tensors outside the blocks, a file's worth at a time, copied."""
        from tuners.model.stream import WeightFiles

        files = WeightFiles(Path(self.source.path))
        for number, (name, stored) in enumerate(list(self.left.items())):
            kind = self._type(stored.dtype) if stored.dtype in _TORCH else torch.float32
            self._save(
                f"model-rest-{number:04}.safetensors", {name: files.read(name, kind, torch.device("cpu"))}
            )

    def _type(self, stored: str) -> torch.dtype:
        return _TORCH[self.source.target_dtype(stored)]

    def _save(self, name: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        save_file(
            {n: t.contiguous().cpu() for n, t in tensors.items()},
            self.folder / name,
            metadata={"format": "pt"},
        )
        self.places.update(dict.fromkeys(tensors, name))
        self.bytes += sum(t.numel() * t.element_size() for t in tensors.values())

    def finish(self, spec: QuantizeSpec) -> None:
        """Index, configuration, recipe and what lies beside the weights."""
        index = {"metadata": {"total_size": self.bytes}, "weight_map": dict(sorted(self.places.items()))}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        config: dict[str, Any] = json.loads(Path(self.source.path, "config.json").read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)
        config["dtype"] = str(_TORCH[self.source.dtype]).removeprefix("torch.")
        config["quantization_config"] = quantization_config(spec.units, spec.plan)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (self.folder / "config.json").write_text(text, encoding="utf-8")
        recipe = {
            "sequential": "block by block, from storage",
            "methods": {f: sorted({m for u, m in spec.methods_by_unit().items() if spec.plan.formats[u] == f})
                        for f in sorted(set(spec.plan.formats.values()) - {"BF16"})},
            "dampening_frac": spec.dampening_frac,
        }  # fmt: skip
        with (self.folder / "recipe.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(recipe, file)
        copy_companions(Path(self.source.path), self.folder)
        for path in self.folder.iterdir():
            path.chmod(0o644)
