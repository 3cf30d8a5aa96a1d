"""Final checkpoints: every tool by its own best method, at equal bytes, judged on text that nobody calibrated
on.

* Advisor: its search over the menu of `--rich`, then its own quantizer on the chosen plan (sequential GPTQ
  with clipped scales, SmoothQuant input scales); the checkpoint on disk is what is judged. A second row adds
  its recovery (`--recover` steps of distillation on the same calibration text, at the same bytes).
* AutoRound: AutoScheme's plan, weights tuned by AutoRound (`--iters` steps a block).
* ModelOpt: `auto_quantize` with AWQ for INT4; the model that it leaves.
* llm-compressor: GPTQ, one INT4 scheme (at every budget: its INT8 is above them all).

Nothing here leaves torch: the same forward pass judges all; engine_ranking.py measures checkpoints in vLLM.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import others
from bench import Bench

from tuners.child import run_child
from tuners.evaluate_schema import Quality, SequenceLoss
from tuners.plan import PrecisionPlan
from tuners.quantize.schema import QuantizeResult, QuantizeSpec

GPTQ = "GPTQ, uniform INT4 (llm-compressor)"
TOOLS = {others.AUTOSCHEME: "autoround", others.MODELOPT: "modelopt", GPTQ: "llmcompressor"}


def held_out(bench: Bench) -> dict[str, dict]:
    """What a child needs to judge: tokens, and the original's log-probabilities on disk."""
    for evaluator in bench.held_out.values():
        evaluator.reference()
    return {name: {"ids": e.ids.tolist(), "reference": str(e.path)} for name, e in bench.held_out.items()}


def qualities(texts: dict[str, list[dict]]) -> dict[str, dict]:
    """A child's losses as the rows keep them."""
    out = {}
    for name, rows in texts.items():
        losses = [SequenceLoss(**r) for r in rows]
        out[name] = Quality.of(name, losses).model_dump(mode="json")
    return out


def peer(bench: Bench, tool: str, budgets: list[float]) -> dict[float, dict]:
    """Plan, seconds and quality by budget of another tool's own product."""
    short = TOOLS[tool]
    path = bench.out / "peers" / f"{short}-product-{bench.options.iters}.json"
    if not path.exists():
        bench.clock.check()
        path.parent.mkdir(parents=True, exist_ok=True)
        wanted = [bench.bytes_for(b) for b in budgets]
        asked = others.request(bench, path, wanted) | {
            "held_out": held_out(bench),
            "iters": bench.options.iters,
        }
        python = str(bench.options.modelopt_python) if tool == others.MODELOPT else sys.executable
        child(python, f"{short}_child.py", asked, path.with_suffix(".log"))
    found = json.loads(path.read_text())
    if tool == GPTQ:
        plan = {u.name: bench.family(u, "int4") for u in bench.units}
        return {b: {"formats": plan, "seconds": found["seconds"], "texts": found["texts"]} for b in budgets}
    return {
        b: {
            "formats": {u.name: bench.family(u, row["plan"][u.name]) for u in bench.units},
            "seconds": row["seconds"],
            "texts": row["texts"],
        }
        for b in budgets
        if (row := found[str(bench.bytes_for(b))])
    }


def child(python: str, script: str, asked: dict, log_path: Path) -> None:
    """Run one of the scripts of peers/ on a request."""
    with log_path.open("w") as log:
        subprocess.run(
            [python, str(others.HERE / script)],
            input=json.dumps(asked),
            text=True,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


def children_s() -> float:
    """Processor seconds of finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def quantized(bench: Bench, plan: PrecisionPlan, name: str, recover_steps: int = 0) -> QuantizeResult:
    """Our own checkpoint of a plan, on disk, recovered when asked."""
    bench.clock.check()
    splits = bench.spec.task.splits
    scales = bench.out / "input_scales.npz"
    bench.store.save_input_scales(scales)
    spec = QuantizeSpec(
        model_path=str(bench.options.model),
        units=tuple(bench.units),
        plan=plan,
        out_dir=str(bench.out / "checkpoints" / name),
        calibration_texts=bench.spec.task.splits.search,
        input_scales=str(scales),
        recover_steps=recover_steps,
        held_out=tuple(splits.fingerprints("select") | splits.fingerprints("evaluate")),
        overwrite=True,
    )
    found = run_child(
        "tuners.quantize.job",
        spec,
        emit=lambda _: None,
        log_path=bench.out / "logs" / f"quantize-{name}.log",
        stage="quantize",
    )
    return QuantizeResult.model_validate(found)


def ours(bench: Bench, formats: dict[str, str], bits: float, recover_steps: int = 0) -> dict:
    """Quantize the plan, and judge the checkpoint."""
    start = children_s()
    name = PrecisionPlan(formats=formats).key + (f"-recovered-{recover_steps}" if recover_steps else "")
    plan = PrecisionPlan(formats=formats, label=f"{bits} bits")
    checkpoint = quantized(bench, plan, name, recover_steps)
    seconds = children_s() - start
    answer = bench.out / "checkpoints" / f"{name}.json"
    if not answer.exists():
        asked = {"checkpoint": checkpoint.checkpoint, "held_out": held_out(bench), "out": str(answer)}
        child(sys.executable, "checkpoint_child.py", asked, answer.with_suffix(".log"))
    return {
        "formats": formats,
        "seconds": seconds,
        "texts": json.loads(answer.read_text())["texts"],
    }
