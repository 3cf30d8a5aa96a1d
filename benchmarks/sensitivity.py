"""Sensitivity by suffix evaluation against the naive full forward, side by side in one run.

    python benchmarks/sensitivity.py MODEL_DIR [--every 3] [--sequences 4] [--seq-len 128]

Measures the KL of every (unit, format) of every `--every`-th block both ways, in alternation, and prints
the wall times, their ratio and the largest difference between the two tables. `--every 1` does the whole
table. Variants are rounded to nearest: how a variant was made does not change the cost of measuring it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from profiles.formats import get_format
from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from tuners.evaluate import compare
from tuners.model.host import ModelHost
from tuners.model.variants import VariantStore, rtn
from tuners.units import build_units


def main() -> None:
    """Run the comparison and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=128)
    options = parser.parse_args()
    units = build_units(read_model(options.model), probe_cpu().device)
    host = ModelHost.load(options.model, units)
    ids = host.tokenise(
        load_task("generic").splits.search, seq_len=options.seq_len, max_sequences=options.sequences
    )
    sampled = [u for u in units if (u.block or 0) % options.every == 0]
    naive_s = suffix_s = 0.0
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        store = VariantStore(host, Path(folder), 2**30)
        start = time.perf_counter()
        inputs, logits = host.capture(ids)
        reference = torch.log_softmax(logits, -1)
        suffix_s += time.perf_counter() - start
        for unit in sampled:
            for fmt in unit.options:
                if fmt == "BF16":
                    continue
                store.put(
                    unit.name,
                    fmt,
                    {m.name: rtn(host.original[m.name], get_format(fmt)) for m in unit.linears},
                )
                with store.installed({unit.name: fmt}):
                    start = time.perf_counter()
                    full = compare(host.logits(ids), reference, ids)
                    naive_s += time.perf_counter() - start
                    start = time.perf_counter()
                    part = compare(host.logits_from(host.block_of(unit.name), ids, inputs), reference, ids)
                    suffix_s += time.perf_counter() - start
                worst = max(worst, *(abs(a.kl - b.kl) for a, b in zip(full, part, strict=True)))
    cells = sum(len(u.options) - 1 for u in sampled)
    print(f"{cells} cells of {sum(len(u.options) - 1 for u in units)}, {ids.numel()} tokens each")
    print(f"naive   {naive_s:8.1f} s   {naive_s / cells:.3f} s a cell")
    print(f"suffix  {suffix_s:8.1f} s   {suffix_s / cells:.3f} s a cell (capture included)")
    print(f"ratio   {suffix_s / naive_s:8.3f}")
    print(f"largest difference of a KL between the two: {worst:.2e}")


if __name__ == "__main__":
    main()
