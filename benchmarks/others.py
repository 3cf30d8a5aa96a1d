"""Plans of the other tools, by their own code: AutoRound's AutoScheme and NVIDIA ModelOpt's `auto_quantize`.

Each runs in a child process with the interpreter that has it, on the same model, the same calibration text
(the search split of the product's generic task in samples of `--seq-len` tokens; where that is foreign to
the model, half of them gone on with by it, as in the product's search), the same fused units and the same
budgets in bytes. What it could not be told is in `NOTES`. The answer is kept; its processor seconds are
those of the run that made it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch
from bench import Bench

from profiles.formats import get_format
from tuners.model.written import half_written
from tuners.plan import Unit

HERE = Path(__file__).parent / "peers"
LONGER = 44
"""Tokens by which texts are cut longer than a sample, for AutoRound drops what is shorter."""

AUTOSCHEME, MODELOPT = "AutoScheme (AutoRound)", "auto_quantize (ModelOpt)"
AUTOSCHEME_16 = f"{AUTOSCHEME}, 16-bit among its options"
NOTES = {
    AUTOSCHEME: "one group size for the whole model (the menu's smallest); 16-bit not among its options",
    AUTOSCHEME_16: "the same with the menu's 16-bit",
    MODELOPT: "method `gradient`, group sizes and bytes by module as in the menu",
}
SHARED = [["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]]


def answer(bench: Bench, tool: str) -> dict:
    """Plans by budget (unit -> format) and seconds of a tool, from disk when it has answered."""
    bench.out.joinpath("peers").mkdir(parents=True, exist_ok=True)
    short = {AUTOSCHEME: "autoround", AUTOSCHEME_16: "autoround16", MODELOPT: "modelopt"}[tool]
    path = bench.out / "peers" / f"{short}-{bench.options.samples}.json"
    if not path.exists():
        bench.clock.check()
        asked = request(bench, path, [bench.bytes_for(b) for b in bench.options.budgets])
        asked["offer_16"] = tool == AUTOSCHEME_16
        python = str(bench.options.modelopt_python) if tool == MODELOPT else sys.executable
        with path.with_suffix(".log").open("w") as log:
            subprocess.run(
                [python, str(HERE / f"{short.removesuffix('16')}_child.py")],
                input=json.dumps(asked), text=True, stdout=log, stderr=subprocess.STDOUT, check=True,
            )  # fmt: skip
    found = json.loads(path.read_text())
    found["plans"] = {
        int(budget): {u.name: bench.family(u, plan[u.name]) for u in bench.units}
        for budget, plan in found["plans"].items()
    }
    return found


def request(bench: Bench, out: Path, budgets: list[int]) -> dict:
    """What both children read."""
    tokenizer = bench.host.tokenizer
    ids = [
        i for t in bench.spec.task.splits.search for i in (*tokenizer(t)["input_ids"], tokenizer.eos_token_id)
    ]
    step = bench.options.seq_len + LONGER
    rows = torch.tensor([ids[i : i + step] for i in range(0, len(ids) - step + 1, step)])
    if bench.setup.half_written:
        rows = half_written(bench.host.model, rows, bench.out / f"written-{step}.npy", seed=0)
    cut = tokenizer.batch_decode(rows)
    texts_path = out.with_name("texts.json")
    texts_path.write_text(json.dumps(cut))
    group = min(get_format(bench.family(u, "int4")).group_size or 0 for u in bench.units)
    return {
        "model": str(bench.options.model),
        "texts": str(texts_path),
        "nsamples": min(bench.options.samples, len(cut)),
        "seqlen": bench.options.seq_len,
        "group_size": group,
        "shared": SHARED,
        "linears": {u.name: [m.name for m in u.linears] for u in bench.units},
        "bytes": {u.name: {get_format(o).family: u.bytes_as(o) for o in u.options} for u in bench.units},
        "shapes": {u.name: shape(bench, u) for u in bench.units},
        "numel": bench.numel,
        "budgets": budgets,
        "targets": targets(bench, budgets, group),
        "out": str(out),
    }


def shape(bench: Bench, unit: Unit) -> dict:
    """Group size and exact bits of a unit's INT4 and INT8."""
    int4, int8 = bench.family(unit, "int4"), bench.family(unit, "int8")
    return {
        "group_size": get_format(int4).group_size,
        "int4_bits": round(unit.bytes_as(int4) * 8 / unit.numel, 4),
        "int8_bits": round(unit.bytes_as(int8) * 8 / unit.numel, 4),
    }


def targets(bench: Bench, budgets: list[int], group: int) -> list[float]:
    """The budgets in AutoScheme's own bits: it counts a zero point for every group of a symmetric format."""
    low = sum(u.bytes_as(bench.family(u, "int4")) for u in bench.units)
    high = sum(u.bytes_as(bench.family(u, "int8")) for u in bench.units)
    theirs_low = 4 + 20 / group
    theirs_high = sum((8 + 24 / u.linears[0].in_features) * u.numel for u in bench.units) / bench.numel
    return [theirs_low + (b - low) / (high - low) * (theirs_high - theirs_low) for b in budgets]
