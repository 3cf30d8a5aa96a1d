"""Checkpoints of one model by the product's quantizer, judged on text that nothing was calibrated on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from texts import evaluation

from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from tuners.child import run_child
from tuners.evaluate import compare
from tuners.events import Event, Message
from tuners.model.host import ModelHost
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize import QuantizeResult, QuantizeSpec
from tuners.quantize.served import install_checkpoint
from tuners.units import build_units

SEQ_LEN = 128
BATCH = 4


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """The options that say which model, where, and how much text."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sequences", type=int, default=24)
    parser.add_argument("--samples", type=int, default=16, help="calibration sequences of 256 tokens")
    return parser


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

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """As `parser_of` reads it, with the units that this CPU serves."""
        units = build_units(read_model(str(options.model)), probe_cpu().device)
        return cls(options.model, units, options.data, options.sequences)

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
