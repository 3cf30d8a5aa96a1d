"""Predicted against measured boot logs of vLLM, beside the naive "1.2 x weights".

    python benchmarks/boot_logs.py [CSV]

The CSV has the columns of `vllm_0.19_h100_boot_logs.csv`; the engine version is read from its file name.
Models come from the catalogue, also those that it knows under another name (base and tuned, quantized from
a known one: `profiles/models/catalogue/variants.py`); a model that it lacks is listed as such. Bars: weights
1 %, KV GiB 2 % (dense) or 5 % (MoE, windows, vision), tokens 0.5 % given the measured KV GiB, activation
0.25 GiB (dense).
"""

from __future__ import annotations

import contextlib
import csv
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from profiles.errors import AdvisorError
from profiles.footprint import Footprint, ServingSpec, Verdict, estimate, uniform_formats
from profiles.footprint.core import Rank
from profiles.footprint.estimate import predict_stages
from profiles.hardware import find_device, planned
from profiles.hardware.schema import HardwareProfile
from profiles.models import ModelProfile, catalogue_model
from profiles.models.schema import KvKind
from profiles.provenance import Figure

GIB = 1 << 30
DEFAULT = Path(__file__).parents[1] / ".." / "shared" / "data" / "vllm_0.19_h100_boot_logs.csv"


@dataclass
class Row:
    """One run: errors of each line, and which bars it misses."""

    name: str
    arguments: str
    lines: dict[str, tuple[float, float]] = field(default_factory=dict)  # predicted, measured
    naive: float = 0.0
    verdict: str = ""
    dense: bool = True
    misses: list[str] = field(default_factory=list)


def main() -> int:
    """Print the table, the errors and the misses; exit code 1 when a bar is missed."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    if not path.exists():
        print(f"no such file: {path}\nusage: python benchmarks/boot_logs.py CSV", file=sys.stderr)
        return 2
    match = re.search(r"vllm_(\d+\.\d+)", path.name)
    version = f"{match[1]}.0" if match else "0.19.0"
    rows, absent = [], []
    with path.open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            try:
                rows.append(measured_row(record, version))
            except AdvisorError as exc:
                absent.append(f"{record['model']}: {exc.what}")
    if not rows:
        print("no row could be predicted:\n  " + "\n  ".join(absent), file=sys.stderr)
        return 2
    show(rows, version)
    for name in sorted(set(absent)):
        print(f"not predicted - {name}")
    missed = [r for r in rows if r.misses]
    for row in missed:
        print(f"misses a bar - {row.name} {row.arguments}: {'; '.join(row.misses)}")
    print(f"{len(rows) - len(missed)} of {len(rows)} rows within every bar, {len(absent)} not predicted")
    return 1 if missed else 0


def measured_row(record: dict[str, str], version: str) -> Row:
    """Predict one run and set every line against the measurement."""
    model = catalogue_model(record["model"])
    tp, pp, dp = (int(record[k]) for k in ("tp", "pp", "dp"))
    hardware = machine(record, tp * pp * dp)
    dtype = record["dtype"].removeprefix("torch.")
    spec = ServingSpec.model_validate(
        {
            "max_model_len": int(record["max_model_len"]),
            "gpu_memory_utilization": float(record["gpu_memory_utilization"]),
            "kv_cache_dtype": record["kv_cache_dtype"],
            "dtype": dtype,
            "tensor_parallel_size": tp,
            "pipeline_parallel_size": pp,
            "data_parallel_size": dp,
            "engine_version": version,
        }
    )
    formats = formats_of(record, model, hardware, tp)
    predicted = estimate(model, hardware, spec, formats, record["quantization"])
    given = spec.model_copy(update={"kv_cache_memory_bytes": int(float(record["kv_cache_memory_gib"]) * GIB)})
    tokens = estimate(model, hardware, given, formats).kv_tokens
    row = Row(
        record["model"],
        f"TP{tp} PP{pp} len {record['max_model_len']} {record['quantization']} kv {record['kv_cache_dtype']}",
        verdict=predicted.verdict.value,
        dense=is_dense(model),
    )
    if pp > 1:  # the log prints stage 0's memory, and tokens that the tightest stage limits
        tokens = predicted.kv_tokens
    stage = predict_stages(model, hardware, spec, formats).ranks[0]
    fill(row, record, predicted, tokens, stage)
    return row


def machine(record: dict[str, str], count: int) -> HardwareProfile:
    """The catalogue's device with the total that the run's driver reported."""
    hardware = planned(known_device(record["gpu"].lower()), count)
    total = Figure.exact(float(record["init_total_memory_gib"]) * GIB, "B", "boot log")
    devices = tuple(d.model_copy(update={"total_bytes": total}) for d in hardware.devices)
    return hardware.model_copy(update={"devices": devices})


def known_device(name: str) -> str:
    """The catalogue's name for a log's: `h100-80gb`, else without its last parts."""
    parts = name.split("-")
    for end in range(len(parts), 1, -1):
        with contextlib.suppress(AdvisorError):
            return find_device("-".join(parts[:end])).name
    return parts[0]


def formats_of(
    record: dict[str, str], model: ModelProfile, hardware: HardwareProfile, tp: int
) -> dict[str, str] | None:
    """None for a checkpoint as it is; a uniform plan where the engine was asked to quantize while loading."""
    if record["quantization"] == "None" or model.quantization is not None:
        return None
    family = "int8" if "w8a8" in record["quantization"].lower() else "fp8"
    return uniform_formats(model, hardware.device, family, tensor_parallel_size=tp)


def is_dense(model: ModelProfile) -> bool:
    """Full attention, no experts, no vision tower: the tighter bar."""
    kinds = {layer.kind for layer in model.kv_layers}
    return kinds == {KvKind.FULL} and model.moe is None and not model.is_multimodal


def fill(row: Row, record: dict[str, str], predicted: Footprint, tokens: Figure, stage: Rank) -> None:
    """Lines and bars of one row; memory is stage 0's, which is all there is without a pipeline."""
    weights, kv = float(record["weight_memory_gib"]), float(record["kv_cache_memory_gib"])
    row.naive = (
        float(record["init_total_memory_gib"]) * float(record["gpu_memory_utilization"]) - 1.2 * weights
    )
    row.lines = {
        "weights": (stage.weights / GIB, weights),
        "activation": (stage.activation.value / GIB, float(record["activation_memory_gib"])),
        "non_torch": (stage.non_torch.value / GIB, float(record["non_torch_forward_gib"])),
        "graph": (stage.graph.value / GIB, float(record["cuda_graph_actual_gib"])),
        "kv": (stage.available.value / GIB, kv),
        "tokens": (tokens.value, float(record["kv_cache_tokens"])),
        "concurrency": (predicted.max_concurrency.value, float(record["max_concurrency"])),
    }
    if relative(row, "weights") > 0.01:
        row.misses.append(f"weights {relative(row, 'weights'):.1%}")
    if relative(row, "kv") > (0.02 if row.dense else 0.05):
        row.misses.append(f"KV GiB {relative(row, 'kv'):.1%}")
    if relative(row, "tokens") > 0.005:
        row.misses.append(f"tokens {relative(row, 'tokens'):.2%}")
    if row.dense and difference(row, "activation") > 0.25:
        row.misses.append(f"activation {difference(row, 'activation'):.2f} GiB")
    if predicted.verdict is not Verdict.FITS:
        row.misses.append("started, but was not said to fit")


def relative(row: Row, line: str) -> float:
    """Absolute relative error."""
    a, b = row.lines[line]
    return abs(a / b - 1)


def difference(row: Row, line: str) -> float:
    """Absolute error."""
    a, b = row.lines[line]
    return abs(a - b)


def show(rows: list[Row], version: str) -> None:
    """The table, then mean and largest errors."""
    print(f"vLLM {version}: predicted / measured; GiB per rank, naive KV = budget - 1.2 x weights")
    head = f"{'model':44} {'weights':>13} {'activation':>11} {'non-torch':>11} {'graphs':>11} {'KV':>13}"
    print(head + f" {'naive KV':>8} {'tokens given KV':>21}  verdict")
    for row in rows:
        cells = [f"{a:6.2f}/{b:6.2f}" for a, b in (row.lines["weights"],)]
        cells += [
            f"{a:5.2f}/{b:5.2f}" for a, b in (row.lines[k] for k in ("activation", "non_torch", "graph"))
        ]
        cells.append("{:6.2f}/{:6.2f}".format(*row.lines["kv"]))
        tokens = "{:10,.0f}/{:10,.0f}".format(*row.lines["tokens"])
        print(f"{row.name[:44]:44} {' '.join(cells)} {row.naive:8.2f} {tokens}  {row.verdict}")
    print()
    for line, words in (("weights", "weights"), ("kv", "KV GiB"), ("tokens", "tokens given KV")):
        errors = [relative(r, line) for r in rows]
        print(f"{words:16} mean {mean(errors):7.3%}  largest {max(errors):7.3%}")
    naive = [abs(r.naive / r.lines["kv"][1] - 1) for r in rows]
    print(f"{'KV GiB, naive':16} mean {mean(naive):7.3%}  largest {max(naive):7.3%}")
    for line in ("activation", "non_torch", "graph"):
        errors = [difference(r, line) for r in rows]
        print(f"{line:16} mean {mean(errors):7.3f}  largest {max(errors):7.3f} GiB")
    overhead = [
        abs(
            r.lines["activation"][0]
            + r.lines["non_torch"][0]
            - r.lines["activation"][1]
            - r.lines["non_torch"][1]
        )
        for r in rows
    ]
    print(f"{'non-KV overhead':16} mean {mean(overhead):7.3f}  largest {max(overhead):7.3f} GiB")


if __name__ == "__main__":
    raise SystemExit(main())
