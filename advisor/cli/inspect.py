"""`advisor inspect`: what was read of a model, and what may be decided about it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.options import Count, Formats, Gpu, Json, Offline, TrustToRead

if TYPE_CHECKING:
    from profiles.models.schema import ModelProfile
    from tuners.plan import Unit


def inspect(
    model: Annotated[str, Parameter(help="A folder with config.json and safetensors, or a Hub id.")],
    /,
    *,
    gpu: Gpu = None,
    count: Count = 1,
    formats: Formats = None,
    tp: Annotated[int, Parameter(name=["--tp", "--tensor-parallel-size"], help="Ranks of a layer.")] = 1,
    units: Annotated[
        bool, Parameter(name="--units", negative="", help="Every unit, not a line per role.")
    ] = False,
    trust_remote_code: TrustToRead = False,
    offline: Offline = False,
    json: Json = False,
) -> int:
    """Tensors by role, the units that must share a format, their options, and why others are left out."""
    from advisor.cli.output import print_json
    from advisor.machine import read_hardware
    from profiles.models import read_model
    from tuners.units import build_units

    hardware = read_hardware(gpu, count)
    found = read_model(model, offline=offline, trust_remote_code=trust_remote_code)
    listed = build_units(found, hardware.device, formats=formats, tp=tp)
    if json:
        print_json(
            {
                "model": found,
                "device": hardware.device.name,
                "roles": roles(found),
                "units": listed,
            }
        )
    else:
        _show(found, listed, hardware.device.name, every=units)
    return 0


def roles(model: ModelProfile) -> dict[str, dict[str, int]]:
    """Stored bytes and tensors by the role of their linear layer; the rest is `norms and others`."""
    role_of = {f"{m.name}.weight": m.role for m in model.linears}
    out: dict[str, dict[str, int]] = defaultdict(lambda: {"tensors": 0, "bytes": 0, "weights": 0})
    for tensor in model.tensors:
        entry = out[role_of.get(tensor.name, "norms and others")]
        entry["tensors"] += 1
        entry["bytes"] += tensor.nbytes
        entry["weights"] += tensor.numel
    return dict(sorted(out.items(), key=lambda item: -item[1]["bytes"]))


def _show(model: ModelProfile, units: list[Unit], device: str, *, every: bool) -> None:
    from advisor.cli.output import console, table
    from profiles.sizes import size
    from tuners.units import excluded_formats, fixed_reasons

    out = console()
    total = sum(t.nbytes for t in model.tensors)
    out.print(
        f"{model.model_id}: {model.architecture}, {model.num_parameters / 1e6:,.1f} M parameters, "
        f"{size(total)} as stored ({model.source})",
        markup=False,
    )
    out.print(
        f"{model.num_layers} layers, hidden {model.hidden_size}, {model.num_attention_heads} heads / "
        f"{model.num_key_value_heads} KV heads x {model.head_dim}, vocabulary {model.vocab_size:,}, "
        f"context {model.max_position_embeddings:,}"
        + (", tied embeddings" if model.tie_word_embeddings else ""),
        markup=False,
    )
    if model.quantization is not None:
        out.print(f"already quantized: {model.quantization.method} {model.quantization.label}", markup=False)
    for text in model.assumptions:
        out.print(f"assumed: {text}", markup=False)
    rows = table("\ntensors by role", ["role", "tensors", "stored", "share"], right=(1, 2, 3))
    for role, entry in roles(model).items():
        share = f"{entry['bytes'] / total:.1%}" if total else "-"
        rows.add_row(role, str(entry["tensors"]), size(entry["bytes"]), share)
    out.print(rows)
    rows = table(f"\nunits, with the formats that run on {device}", ["unit", "units", "weights", "options"])
    for name, members in _grouped(units, every=every).items():
        weights = sum(u.numel for u in members)
        rows.add_row(name, str(len(members)), f"{weights / 1e6:,.1f} M", _options(members))
    out.print(rows)
    for reason, left_out in excluded_formats(units).items():
        out.print(f"left out: {', '.join(left_out)}: {reason}", markup=False)
    for reason in fixed_reasons(model).values():
        out.print(f"fixed: {reason}", markup=False)


def _grouped(units: list[Unit], *, every: bool) -> dict[str, list[Unit]]:
    out: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        out[unit.name if every else unit.role].append(unit)
    return out


def _options(units: list[Unit]) -> str:
    kinds = {u.options for u in units}
    return " or ".join(sorted(", ".join(k) for k in kinds))
