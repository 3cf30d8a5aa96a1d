"""Uniform checkpoints of one model by every method: held-out KL with a paired interval, and wall time.

    python benchmarks/methods.py MODEL_DIR --out DIR [--data DIR] [--only rtn gptq] [--markdown FILE]

Each checkpoint is written by the product's own quantizer in a child process (--samples sequences of the
task's search split), read back from its file, and compared with the original on text that nothing was
calibrated or chosen on: the task's evaluate split and, with --data, WikiText-2 (validation). Measurements
are kept in DIR/methods.jsonl; methods found there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from texts import evaluation

from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from tuners.child import run_child
from tuners.evaluate import compare, paired_difference
from tuners.events import Event, Message
from tuners.model.host import ModelHost
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import QuantizeResult, QuantizeSpec
from tuners.quantize.served import install_checkpoint
from tuners.units import build_units

CASES: tuple[tuple[str, str, str], ...] = (
    ("W4A16_G64", "rtn", "round to nearest"),
    ("W4A16_G64", "gptq-minmax", "GPTQ"),
    ("W4A16_G64", "gptq-no-order", "GPTQ, clipped scales, no activation order"),
    ("W4A16_G64", "gptq", "GPTQ, clipped scales (default)"),
    ("W4A16_G64", "awq", "AWQ"),
    ("W4A16_G64", "awq-gptq", "AWQ, then GPTQ with clipped scales"),
    ("W4A16_G64", "autoround", "AutoRound"),
    ("W8A8", "rtn", "round to nearest"),
    ("W8A8", "smoothquant", "SmoothQuant, alpha 0.5"),
    ("W8A8", "smoothquant-pow2", "powers of two, alpha by unit (default)"),
)
SEQ_LEN = 128
BATCH = 4


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sequences", type=int, default=24)
    parser.add_argument("--samples", type=int, default=16, help="calibration sequences of 256 tokens")
    parser.add_argument("--rounding-steps", type=int, default=200)
    parser.add_argument("--only", nargs="*", help="methods to measure now")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "methods.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {(r["format"], r["method"]) for r in rows}
    todo = [c for c in CASES if c[:2] not in known and (options.only is None or c[1] in options.only)]
    if todo:
        units = build_units(read_model(str(options.model)), probe_cpu().device)
        bench = Bench(options.model, units, options.data, options.sequences)
        for fmt, method, _ in todo:
            row = bench.measure(
                fmt,
                method,
                options.out / f"{fmt}-{method}",
                rounding_steps=options.rounding_steps,
                num_samples=options.samples,
            )
            if not options.keep:
                shutil.rmtree(options.out / f"{fmt}-{method}")
            rows.append(row)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
    text = table(rows)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


class Bench:
    """The original model, held-out texts and their reference log-probabilities."""

    def __init__(self, path: Path, units: Sequence[Unit], data: Path | None, sequences: int) -> None:
        self.path, self.units = path, tuple(units)
        self.task = load_task("generic")
        self.host = ModelHost.load(path, self.units)
        texts = {"generic": list(self.task.splits.evaluate)}
        if data is not None:
            texts["WikiText-2"] = evaluation(data)["WikiText-2"]
        self.ids = {
            n: self.host.tokenise(t, seq_len=SEQ_LEN, max_sequences=sequences) for n, t in texts.items()
        }
        self.reference = {n: [self._log_probs(b) for b in ids.split(BATCH)] for n, ids in self.ids.items()}
        del self.host

    def made(self, plan: PrecisionPlan, folder: Path, **changes: Any) -> QuantizeResult:
        """The plan's checkpoint, written by the product's quantizer in a child."""
        splits = self.task.splits
        spec = QuantizeSpec(
            model_path=str(self.path),
            units=self.units,
            plan=plan,
            out_dir=str(folder),
            calibration_texts=splits.search,
            held_out=tuple(splits.fingerprints("select") | splits.fingerprints("evaluate")),
            overwrite=True,
            **changes,
        )
        log = folder.with_suffix(".log")
        raw = run_child("tuners.quantize.job", spec, emit=tell, log_path=log, stage="quantize")
        return QuantizeResult.model_validate(raw)

    def measure(self, fmt: str, method: str, folder: Path, **changes: Any) -> dict[str, Any]:
        """One checkpoint: KL of every held-out sequence, seconds and peak memory of making it."""
        plan = PrecisionPlan(formats={u.name: fmt for u in self.units})
        made = self.made(plan, folder, methods={fmt: method}, **changes)
        return {
            "format": fmt,
            "method": method,
            "bits": plan.bits_per_weight(self.units),
            "seconds": made.seconds,
            "peak_rss_bytes": made.peak_rss_bytes,
            "compute": made.compute_dtype,
            "kl": self.kl(folder, plan),
        }

    @torch.no_grad()
    def kl(self, folder: Path, plan: PrecisionPlan) -> dict[str, list[float]]:
        """KL to the original of every sequence, by text."""
        host = ModelHost.load(self.path, self.units)
        install_checkpoint(host, folder, plan)
        return {
            n: [
                loss.kl
                for batch, ref in zip(ids.split(BATCH), self.reference[n], strict=True)
                for loss in compare(host.logits(batch), ref, batch)
            ]
            for n, ids in self.ids.items()
        }

    def _log_probs(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.host.logits(batch), -1)


def tell(event: Event) -> None:
    """What the child says, on stdout."""
    if isinstance(event, Message):
        print(event.text, flush=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a checkpoint, its KL relative to the default's with a paired 95 % interval."""
    titles = {c[:2]: c[2] for c in CASES}
    order = {c[:2]: i for i, c in enumerate(CASES)}
    default = {"W4A16_G64": "gptq", "W8A8": "smoothquant-pow2"}
    by_case = {(r["format"], r["method"]): r for r in rows}
    texts = list(rows[0]["kl"])
    lines = [
        "| format | method | `--method` | " + " | ".join(f"KL {t} | against the default" for t in texts)
        + " | seconds | peak GB |",
        "|---|---|---|" + "---:|---|" * len(texts) + "---:|---:|",
    ]  # fmt: skip
    for key in sorted(by_case, key=lambda k: order[k]):
        row, cells = by_case[key], []
        base = by_case.get((key[0], default[key[0]]))
        for text in texts:
            kl = row["kl"][text]
            cells.append(f"{sum(kl) / len(kl):.5f}")
            if base is None or base is row:
                cells.append("")
                continue
            mean, low, high = paired_difference(kl, base["kl"][text])
            cells.append(f"{mean:+.5f} [{low:+.5f}, {high:+.5f}]")
        lines.append(
            f"| {key[0]} | {titles[key]} | {key[1]} | {' | '.join(cells)} | {row['seconds']:.0f} | "
            f"{row['peak_rss_bytes'] / 1e9:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
