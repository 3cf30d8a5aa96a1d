"""The checkpoint, made by llm-compressor: the modifiers of the plan's methods, in one run of `oneshot`.

Which method makes which unit is said by `tuners/quantize/methods.py`, the modifiers by
`tuners/quantize/recipe.py`.

When calibration runs in float32, 16-bit scales are rounded to their stored type while they are computed
(`scale_dtype`), so GPTQ compensates the error of exactly the weights that the engine will see.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.errors import EnvironmentProblem, RunFailed, UsageError
from profiles.formats import CALIBRATED, get_format
from profiles.hardware.host import host_memory
from profiles.provenance import Contract
from profiles.sizes import size
from tuners.events import Emit, Message, Ticker
from tuners.quantize import gptq_cpu
from tuners.quantize.awq_cpu import unpinned
from tuners.quantize.calibration import pack
from tuners.quantize.compute import choose_compute, needed_bytes
from tuners.quantize.gptq_scales import clipped_scales
from tuners.quantize.groups import kv_scheme, module_names
from tuners.quantize.layout import MAY_BE_FLOAT32
from tuners.quantize.methods import METHODS, by_format
from tuners.quantize.recipe import recipe
from tuners.quantize.schema import QuantizeSpec
from tuners.quantize.smooth import fold_input_scales, scaled_units
from tuners.quantize.source import Source, copy_companions
from tuners.quantize.transforms import find_producers
from tuners.search.memory import quantize_memory
from tuners.search.schema import StageMemory

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

STAGE = "quantize"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
PASSIVE_WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Threads that wait sleep instead of spinning: on cores shared with other work, GPTQ's many short
operations were ten times slower with spinning (read when torch is first imported)."""
BATCH_TOKENS = 1024
"""Tokens per calibration batch: enough rows for a fast product, little memory."""

_TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class Written(Contract):
    """How the checkpoint was made."""

    compute_dtype: str
    compute_reason: str
    calibration_tokens: int
    methods: dict[str, str]
    input_scaled: tuple[str, ...]
    memory: StageMemory | None = None


def write_checkpoint(spec: QuantizeSpec, source: Source, folder: Path, emit: Emit) -> Written:
    """Load, calibrate, quantize and save into `folder`, with everything else an engine needs beside it."""
    os.environ.update(OFFLINE)
    for name, value in PASSIVE_WAIT.items():
        os.environ.setdefault(name, value)
    import torch
    from llmcompressor.core import reset_session
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(spec.seed)
    limit = spec.memory_bytes or host_memory().available_bytes
    if spec.memory == "streamed" or (spec.memory == "auto" and not fits(source, limit)):
        return _streamed(spec, source, folder, limit, emit)
    compute, reason = choose_compute(
        spec.compute,
        _TORCH[source.dtype],
        sum(t.numel for t in source.tensors),
        limit,
        on_gpu=torch.cuda.is_available(),
    )
    emit(Message(stage=STAGE, text=f"calibrating in {compute}: {reason}"))
    tokenizer = AutoTokenizer.from_pretrained(
        spec.model_path, trust_remote_code=spec.trust_remote_code, local_files_only=True
    )
    sequences = _sequences(spec, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        spec.model_path,
        dtype=getattr(torch, compute),
        trust_remote_code=spec.trust_remote_code,
        local_files_only=True,
    )
    sequences = _filled(spec, model, sequences, emit)
    input_scaled = fold_input_scales(spec, model, tokenizer, sequences, emit)
    _oneshot(spec, source, model, tokenizer, sequences if _calibrated(spec) else [], emit)
    _save(spec, source, model, folder)
    reset_session()  # the library's session would keep the model in memory
    return Written(
        compute_dtype=compute,
        compute_reason=reason,
        calibration_tokens=sum(len(s) for s in sequences),
        methods=by_format(spec.plan, spec.methods_by_unit()),
        input_scaled=input_scaled,
    )


def fits(source: Source, available_bytes: int) -> bool:
    """Whether the whole model can be held in its stored type while it is calibrated."""
    return needed_bytes(_TORCH[source.dtype], sum(t.numel for t in source.tensors)) <= available_bytes


def _streamed(spec: QuantizeSpec, source: Source, folder: Path, limit_bytes: int, emit: Emit) -> Written:
    """Block by block, when the model is larger than memory."""
    import torch
    from transformers import AutoTokenizer

    from tuners.quantize.streamed_backend import check_streamable, write_streamed

    check_streamable(spec)
    tokenizer = AutoTokenizer.from_pretrained(
        spec.model_path, trust_remote_code=spec.trust_remote_code, local_files_only=True
    )
    sequences = _filled(spec, None, _sequences(spec, tokenizer), emit)
    bound = quantize_memory(
        source.tensors, spec.units, len(sequences), spec.max_seq_length, on_gpu=torch.cuda.is_available()
    )
    compute = "bfloat16" if torch.cuda.is_available() else "float32"
    reason = f"block by block, at most {size(bound.total_bytes)} (estimated) of {size(limit_bytes)}"
    emit(Message(stage=STAGE, text=f"calibrating in {compute}: {reason}"))
    if bound.total_bytes > limit_bytes and spec.memory == "auto":
        raise EnvironmentProblem(
            "not enough memory to quantize this model, even one block at a time",
            got=size(limit_bytes),
            allowed=size(bound.total_bytes),
            next_step="close other programs, or use a machine with more memory",
        )
    scaled = write_streamed(spec, source, folder, sequences, emit)
    return Written(
        compute_dtype=compute,
        compute_reason=reason,
        calibration_tokens=sum(len(s) for s in sequences),
        methods=by_format(spec.plan, spec.methods_by_unit()),
        input_scaled=scaled,
        memory=bound,
    )


def _calibrated(spec: QuantizeSpec) -> bool:
    """Whether a modifier of the recipe looks at activations."""
    return kv_scheme(spec.plan) is not None or any(
        (METHODS[m].calibrated and m != "smoothquant-pow2")
        or get_format(spec.plan.formats[u]).activations in CALIBRATED
        for u, m in spec.methods_by_unit().items()
    )


def _sequences(spec: QuantizeSpec, tokenizer: Any) -> list[list[int]]:
    """Token sequences, or none when nothing in the plan looks at data."""
    if not _calibrated(spec) and (spec.input_scales is not None or not scaled_units(spec)):
        return []
    return pack(
        spec.calibration_texts,
        lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
        separator=tokenizer.eos_token_id,
        length=spec.max_seq_length,
        count=spec.num_samples,
        seed=spec.seed,
    )


def _filled(spec: QuantizeSpec, model: Any, sequences: list[list[int]], emit: Emit) -> list[list[int]]:
    """The sequences, and as many that the original writes as are missing to `num_samples`; None, a model
    that is read block by block, writes nothing.

    More text lowers GPTQ's loss on other text: benchmarks/calibration.py, results/calibration.md.
    """
    import torch

    from tuners.model.written import PREFIX, can_write, written

    missing = spec.num_samples - len(sequences)
    if not sequences or missing <= 0:
        return sequences
    text = f"the texts make {len(sequences)} sequences of {len(sequences[0])} tokens, not {spec.num_samples}"
    if model is None or not can_write(model) or len(sequences[0]) <= PREFIX:
        emit(Message(stage=STAGE, level="warning", text=text))
        return sequences
    emit(Message(stage=STAGE, text=f"{text}: the original writes the other {missing}"))
    more: list[list[int]] = written(model, torch.tensor(sequences), missing).tolist()
    return sequences + more


def _loader(sequences: list[list[int]], batch_size: int) -> DataLoader[Any]:
    import torch
    from torch.utils.data import DataLoader

    rows: list[dict[str, torch.Tensor]] = [
        {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.long)}
        for ids in sequences
    ]
    return DataLoader(rows, batch_size=batch_size, shuffle=False)


def _oneshot(
    spec: QuantizeSpec,
    source: Source,
    model: Any,
    tokenizer: Any,
    sequences: list[list[int]],
    emit: Emit,
) -> None:
    import torch
    from llmcompressor import oneshot

    methods = spec.methods_by_unit()
    learned = "autoround" in methods.values()
    batch = 1 if learned else max(1, BATCH_TOKENS // max(1, len(sequences[0]) if sequences else 1))
    data = _loader(sequences, batch) if sequences else None
    gptq_cpu.register()
    producers = find_producers(spec, methods, model, tokenizer, emit)
    modifiers = recipe(spec, methods, producers, scale_dtype=f"torch.{_TORCH[source.dtype]}")
    calibrated = sum(bool(m.requires_calibration_data) for m in modifiers)
    passes = 2 * len(data) * max(1, calibrated) if data is not None else 1  # calibrate, then propagate
    plain = [n for u in spec.units if methods.get(u.name) == "gptq-minmax"
             for m in u.linears for n in module_names(m)]  # fmt: skip
    with (
        _layer_progress(model, passes, emit),
        clipped_scales(getattr(torch, _TORCH[source.dtype]), but=frozenset(plain)),
        unpinned(),
    ):
        oneshot(
            model=model,
            tokenizer=tokenizer,
            recipe=modifiers,
            dataset=data,
            num_calibration_samples=max(1, len(sequences)),
            max_seq_length=spec.max_seq_length,
        )


@contextmanager
def _layer_progress(model: Any, passes: int, emit: Emit) -> Iterator[None]:
    """Progress in decoder layers, by counting how often each is called."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    layers = [m for m in model.modules() if type(m).__name__ in kinds]
    tick = Ticker(emit, STAGE, max(1, len(layers)))
    calls = 0

    def called(*_: object) -> None:
        nonlocal calls
        calls += 1
        done = min(calls / passes, float(len(layers)))
        tick(done, f"layer {min(int(done) + 1, len(layers))} of {len(layers)}")

    handles = [layer.register_forward_hook(called) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    tick(max(1, len(layers)), "writing")


def _save(spec: QuantizeSpec, source: Source, model: Any, folder: Path) -> None:
    import torch
    from compressed_tensors import ModelCompressor
    from compressed_tensors.offload import remove_dispatch
    from transformers import GenerationConfig

    ModelCompressor.from_pretrained_model(model).compress_model(model)
    remove_dispatch(model)
    _restore_dtypes(model, source)
    model.config.dtype = getattr(torch, _TORCH[source.dtype])
    if (Path(source.path) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig()  # the original file is copied byte for byte below
    model.save_pretrained(folder, save_compressed=True, max_shard_size=spec.max_shard_bytes)
    copy_companions(Path(source.path), folder)
    _tidy_config(folder / "config.json")
    for path in folder.iterdir():
        path.chmod(0o644)


def _restore_dtypes(model: Any, source: Source) -> None:
    """Every floating tensor back to the dtype it is stored in, checked for NaN and infinity."""
    import torch

    stored = {t.name: source.target_dtype(t.dtype) for t in source.tensors}
    done: dict[int, torch.nn.Parameter] = {}  # tied weights stay tied
    for prefix, module in model.named_modules():
        for leaf, param in list(module._parameters.items()):
            if param is None or param.dtype not in (torch.float32, torch.bfloat16, torch.float16):
                continue
            name = f"{prefix}.{leaf}"
            if not torch.isfinite(param).all():
                raise RunFailed(
                    f"{name} is not finite after quantization",
                    got="NaN or infinity",
                    next_step="raise --dampening or the number of calibration samples, "
                    "or give this unit 8 bits",
                )
            if leaf in MAY_BE_FLOAT32:
                continue
            if id(param) not in done:
                dtype = getattr(torch, _TORCH.get(stored.get(name, source.dtype), _TORCH[source.dtype]))
                done[id(param)] = torch.nn.Parameter(param.data.to(dtype), requires_grad=False)
            setattr(module, leaf, done[id(param)])


def _tidy_config(path: Path) -> None:
    """Drop the 16-bit `scale_dtype`, which only mattered while scales were computed."""
    config = json.loads(path.read_text(encoding="utf-8"))
    quantization = config.get("quantization_config")
    if not quantization:
        raise UsageError("llm-compressor found nothing to quantize", where=str(path))
    for group in quantization["config_groups"].values():
        if group["weights"].get("scale_dtype") in ("torch.bfloat16", "torch.float16"):
            group["weights"]["scale_dtype"] = None
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
