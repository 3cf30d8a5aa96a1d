"""A search of a model larger than the memory that it may use: the bound stated before, the peak measured.

    python benchmarks/streaming.py [--blocks 24] [--hidden 2048] [--limit-gib 3] [--folder DIR]

Writes a random Llama (3 GB in bfloat16 with the defaults, 6 GB in float32), then runs the whole search on
it in a child process inside a memory control group with that limit, file cache included (as root, cgroup v1
or v2; elsewhere the limit is only told to the search). `--resident` tries it with the whole model in memory.
Little text and few trials: what is measured is memory, and the time of a pass. INT4 and INT8
are offered in the first two blocks, INT8 in every sixth: rounding all of them would take an hour here, and
the memory of one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

from profiles.errors import AdvisorError
from profiles.hardware import probe_cpu
from profiles.models import read_model
from profiles.tasks import load_task
from tuners.child import run_child
from tuners.events import Event, Message, StageFinished, TrialFinished
from tuners.search.memory import search_memory
from tuners.search.schema import SearchResult, SearchSettings, SearchSpec
from tuners.units import build_units, fixed_bytes

GIB = 2**30


def make_model(folder: Path, blocks: int, hidden: int, tokenizer: str) -> None:
    """A random Llama, written block by block: it is never in memory as a whole."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, LlamaConfig

    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    known = AutoTokenizer.from_pretrained(tokenizer)
    known.save_pretrained(folder)
    inner, vocab = 3 * hidden, len(known)
    torch.manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape) * shape[-1] ** -0.5).to(torch.bfloat16)

    index: dict[str, str] = {}

    def shard(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    for b in range(blocks):
        at = f"model.layers.{b}"
        attention = {f"{at}.self_attn.{p}_proj.weight": random(hidden, hidden) for p in "qkvo"}
        shard(
            f"model-{b:03}.safetensors",
            attention
            | {f"{at}.mlp.{p}_proj.weight": random(inner, hidden) for p in ("gate", "up")}
            | {f"{at}.mlp.down_proj.weight": random(hidden, inner)}
            | {
                f"{at}.{n}.weight": torch.ones(hidden, dtype=torch.bfloat16)
                for n in ("input_layernorm", "post_attention_layernorm")
            },
        )
    shard(
        "model-ends.safetensors",
        {
            "model.embed_tokens.weight": random(vocab, hidden),
            "lm_head.weight": random(vocab, hidden),
            "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
        },
    )
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=blocks, vocab_size=vocab,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, tie_word_embeddings=False,
        dtype="bfloat16", architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)


def confined(limit_bytes: int) -> str:
    """Move this process, and so its children, into a control group with that limit; say where."""
    for base, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(base, "advisor-streaming")
        try:
            group.mkdir(exist_ok=True)
            (group / name).write_text(str(limit_bytes))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            continue
        return f"control group {group}"
    return "no control group (not allowed here): the limit is told to the search alone"


def main() -> None:
    """Make the model, search it within the limit, print what was predicted and measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--limit-gib", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/advisor-streaming"))
    parser.add_argument(
        "--tokenizer", default=str(Path("~/.cache/advisor/models/SmolLM2-135M-Instruct").expanduser())
    )
    parser.add_argument("--resident", action="store_true")
    options = parser.parse_args()
    folder = options.folder / f"llama-{options.blocks}x{options.hidden}"
    make_model(folder, options.blocks, options.hidden, options.tokenizer)
    model = read_model(str(folder))
    eight, both = ("W8A8", "BF16"), ("W4A16", "W8A8", "BF16")

    def menu(block: int | None) -> tuple[str, ...]:
        return eight if (block or 0) % 6 == 0 else ("BF16",)

    device = probe_cpu().device
    first = build_units(model, device, formats=both)
    units = [u if (u.block or 0) < 2 else u.model_copy(update={"options": menu(u.block)}) for u in first]
    fixed = fixed_bytes(model, units)
    smallest = sum(min(u.bytes_as(f) for f in u.options) for u in units)
    largest = sum(u.bytes_as("BF16") for u in units)
    limit = int(options.limit_gib * GIB)
    settings = SearchSettings(
        trials=2, seq_len=32, calibration_sequences=8, sensitivity_sequences=2, probe_sequences=2,
        search_sequences=4, select_sequences=4, evaluate_sequences=4, front_points=2, front_trials=0,
        finalists=1, memory="resident" if options.resident else "auto", memory_bytes=limit,
    )  # fmt: skip
    needs = search_memory(model.tensors, units, settings, limit)
    stored = sum(t.nbytes for t in model.tensors)
    print(
        f"model: {stored / 1e9:.2f} GB stored, {2 * stored / 1e9:.2f} GB in float32; "
        f"limit {limit / GIB:.2f} GiB"
    )
    for stage in needs.stages:
        parts = ", ".join(f"{k} {v / 2**20:,.0f}" for k, v in stage.parts.items())
        print(f"  {stage.stage:24} {stage.total_bytes / GIB:5.2f} GiB  (MiB: {parts})")
    print(f"stated before: {needs.mode}, at most {needs.bound_bytes / GIB:.2f} GiB")
    run_dir = options.folder / f"run-{'resident' if options.resident else 'streamed'}-{os.getpid()}"
    spec = SearchSpec(
        run_dir=run_dir, model_path=folder, units=tuple(units), fixed_bytes=fixed,
        budget_bytes=(smallest + largest) // 2, task=load_task("generic"), settings=settings,
    )  # fmt: skip
    print(f"confined by {confined(limit)}", flush=True)
    start = time.monotonic()

    def show(event: Event) -> None:
        at = f"{time.monotonic() - start:7.0f} s"
        if isinstance(event, StageFinished):
            peak = f", peak so far {event.peak_rss_bytes / GIB:.2f} GiB" if event.peak_rss_bytes else ""
            print(f"{at}  {event.stage}: {event.seconds:.0f} s{peak}", flush=True)
        elif isinstance(event, TrialFinished):
            print(f"{at}  a plan on {4 * 32} tokens: {event.seconds:.1f} s, KL {event.kl:.4f}", flush=True)
        elif isinstance(event, Message):
            print(f"{at}  {event.text}", flush=True)

    try:
        found = SearchResult.model_validate(
            run_child("tuners.search.job", spec, emit=show, log_path=run_dir / "log.txt", stage="search")
        )
    except AdvisorError as exc:
        print(f"ended after {time.monotonic() - start:.0f} s: {exc}")
        return
    assert found.memory is not None
    print(
        f"measured: peak {found.peak_rss_bytes / GIB:.2f} GiB of resident memory, stated "
        f"{found.memory.bound_bytes / GIB:.2f} GiB, limit {limit / GIB:.2f} GiB, "
        f"whole search {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
