"""Final checkpoints: every tool by its own best method, at equal bytes, judged on text that nobody calibrated
on.

* Advisor: its search over the menu of `--rich`, then its own quantizer on the chosen plan (sequential GPTQ
  with clipped scales, SmoothQuant input scales); the checkpoint on disk is what is judged. Further rows: the
  menu of `--menu`; more calibration sequences (`--calibration-samples`), those that the text does not make
  written by the original itself; recovery (`--recover` steps of distillation on the same calibration text).
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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Way:
    """How our own checkpoint is made: the bench with its menu, calibration sequences, steps of recovery."""

    bench: Bench
    samples: int
    recover_steps: int = 0

    def name(self, plan: PrecisionPlan) -> str:
        """Of the checkpoint's folder."""
        recovered = f"-recovered-{self.recover_steps}" if self.recover_steps else ""
        return f"{plan.key}-{self.samples}{recovered}"


def quantized(way: Way, plan: PrecisionPlan) -> QuantizeResult:
    """Our own checkpoint of a plan, on disk, recovered when asked."""
    bench, name = way.bench, way.name(plan)
    bench.clock.check()
    splits = bench.spec.task.splits
    scales = bench.out / f"input_scales-{name}.npz"
    bench.store.save_input_scales(scales)
    spec = QuantizeSpec(
        model_path=str(bench.options.model),
        units=tuple(bench.units),
        plan=plan,
        out_dir=str(bench.out / "checkpoints" / name),
        calibration_texts=splits.search,
        num_samples=way.samples,
        max_seq_length=bench.options.seq_len,
        input_scales=str(scales),
        recover_steps=way.recover_steps,
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


def ours(way: Way, formats: dict[str, str], bits: float) -> dict:
    """Quantize the plan, and judge the checkpoint."""
    start, bench = children_s(), way.bench
    plan = PrecisionPlan(formats=formats, label=f"{bits} bits")
    checkpoint = quantized(way, plan)
    seconds = children_s() - start
    answer = bench.out / "checkpoints" / f"{way.name(plan)}.json"
    if not answer.exists():
        asked = {"checkpoint": checkpoint.checkpoint, "held_out": held_out(bench), "out": str(answer)}
        child(sys.executable, "checkpoint_child.py", asked, answer.with_suffix(".log"))
    return {
        "formats": formats,
        "seconds": seconds,
        "texts": json.loads(answer.read_text())["texts"],
    }
