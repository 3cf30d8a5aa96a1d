"""Uniform checkpoints of one model by every method: held-out KL with a paired interval, and wall time.

    python benchmarks/methods.py MODEL_DIR --out DIR [--data DIR] [--only rtn gptq] [--markdown FILE]

Each checkpoint is written by the product's own quantizer in a child process (--samples sequences of the
task's search split), read back from its file, and compared with the original on text that nothing was
calibrated or chosen on: the task's evaluate split and, with --data, WikiText-2 (validation). Measurements
are kept in DIR/methods.jsonl; methods found there are not measured again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoints import Bench, parser_of

from tuners.evaluate import paired_difference

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


def main() -> None:
    """Measure what is missing and print the table."""
    parser = parser_of(__doc__)
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
        bench = Bench.of(options)
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
