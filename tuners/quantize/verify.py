"""A written checkpoint, re-opened and held against the plan: nothing unverified gets its final name."""

from __future__ import annotations

import json
from pathlib import Path

from profiles.errors import RunFailed
from profiles.formats import get_format
from profiles.models.headers import read_tensors
from profiles.models.schema import TensorInfo
from profiles.provenance import Contract
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize.groups import kv_scheme, module_names
from tuners.quantize.layout import stored_tensors
from tuners.quantize.preflight import check
from tuners.quantize.source import Source


class Verified(Contract):
    """What the files hold, in bytes of tensors (headers and padding not counted)."""

    weight_bytes: int
    unit_bytes: int
    files: tuple[str, ...]


def verify_checkpoint(folder: Path, units: tuple[Unit, ...], plan: PrecisionPlan, source: Source) -> Verified:
    """Every tensor of every unit in its planned dtype and shape, all others as in the source, the byte
    count equal to the plan's price, and a `quantization_config` that passes preflight.

    Raises:
        RunFailed: the files are not what was planned.
    """
    found = {t.name: t for t in read_tensors(folder)}
    expected = _expected_of_units(units, plan, source)
    unit_bytes = 0
    for name, (dtype, shape) in expected.items():
        unit_bytes += _require(folder, found, name, dtype, shape).nbytes
    planned_modules = {n.rpartition(".")[0] for n in expected}
    for name, tensor in found.items():
        module, _, leaf = name.rpartition(".")
        if module in planned_modules and name not in expected and leaf.startswith(("weight", "input_")):
            raise _failed(folder, f"{name} is in the file but not in the plan's format", tensor.dtype)
    _check_rest(folder, found, planned_modules, source)
    price = plan.bytes_of(units)
    if unit_bytes != price:
        raise _failed(folder, f"the units take {unit_bytes:,} bytes, the plan's price is {price:,}", None)
    _check_cache(folder, found, units, plan)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    check(config.get("quantization_config") or {}, units, plan, where=str(folder / "config.json"))
    return Verified(
        weight_bytes=sum(t.nbytes for t in found.values()),
        unit_bytes=unit_bytes,
        files=tuple(sorted(p.name for p in folder.iterdir())),
    )


def _expected_of_units(
    units: tuple[Unit, ...], plan: PrecisionPlan, source: Source
) -> dict[str, tuple[str, tuple[int, ...]]]:
    stored = {t.name: t.dtype for t in source.tensors}
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for unit in units:
        fmt = get_format(plan.formats[unit.name])
        for linear in unit.linears:
            for module in module_names(linear):
                dtype = source.target_dtype(stored.get(f"{module}.weight", source.dtype))
                layout = stored_tensors(
                    fmt, linear.out_features, linear.in_features, dtype if dtype != "F32" else source.dtype
                )
                expected.update({f"{module}.{leaf}": tensor for leaf, tensor in layout.items()})
    return expected


def _check_rest(folder: Path, found: dict[str, TensorInfo], planned: set[str], source: Source) -> None:
    """Embeddings, norms, biases and the like: same names, shapes and dtypes as in the source."""
    for tensor in source.tensors:
        module, _, leaf = tensor.name.rpartition(".")
        if (module in planned and leaf == "weight") or ".experts" in tensor.name:
            continue
        _require(folder, found, tensor.name, source.target_dtype(tensor.dtype), tensor.shape)


def _check_cache(
    folder: Path, found: dict[str, TensorInfo], units: tuple[Unit, ...], plan: PrecisionPlan
) -> None:
    """A scale for the keys and one for the values of every attention layer, if the plan's cache has them."""
    if kv_scheme(plan) is None:
        return
    attention = sorted({m.name.rpartition(".")[0] for u in units if u.role == "o" for m in u.linears})
    wanted = [f"{a}.{leaf}" for a in attention for leaf in ("k_scale", "v_scale")]
    missing = [name for name in wanted if name not in found]
    if missing or not attention:
        raise _failed(folder, f"the KV cache has no scale: {(missing or ['no attention layer'])[0]}", None)


def _require(
    folder: Path, found: dict[str, TensorInfo], name: str, dtype: str, shape: tuple[int, ...]
) -> TensorInfo:
    tensor = found.get(name)
    if tensor is None:
        raise _failed(folder, f"{name} was not written", None)
    if tensor.dtype != dtype or tensor.shape != shape:
        raise _failed(
            folder, f"{name} should be {dtype} {list(shape)}", f"{tensor.dtype} {list(tensor.shape)}"
        )
    return tensor


def _failed(folder: Path, what: str, got: str | None) -> RunFailed:
    return RunFailed(
        f"the written checkpoint is not what was planned: {what}",
        where=str(folder),
        got=got,
        next_step="the files are kept under this name for a look; run the same command to write them again",
    )
