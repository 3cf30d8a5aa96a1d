"""`advisor gguf`: the plan of a run as one GGUF file of mixed types, for llama.cpp and Ollama."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from advisor.cli.options import Json, Quiet


def gguf(
    *,
    run: Annotated[Path, Parameter(name="--run", help="The run directory.")],
    out: Annotated[
        Path | None, Parameter(name="--out", help="The file; none: model.gguf in the run.")
    ] = None,
    measure: Annotated[
        bool,
        Parameter(name="--measure", negative="", help="Run the file in llama.cpp on the held-out tokens."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write the original model in llama.cpp's types of the plan's widths: q4_k or q4_0, q6_k, q8_0, bf16.

    Another rounding than the one that validation measured: --measure before it serves. Llama and Mistral
    with byte-level BPE; for others the bundle's deploy/llama.cpp/quantize.sh.
    """
    from advisor.cli.output import console, print_json
    from advisor.cli.progress import renderer
    from advisor.pipeline.facts import load_facts
    from advisor.pipeline.gguf import measured, plan_types
    from advisor.pipeline.quantize import load_plan
    from advisor.workspace import Workspace
    from profiles.sizes import size
    from tuners.child import run_child
    from tuners.gguf.write import GgufResult, GgufSpec

    workspace = Workspace.read_only(run)
    facts, plan = load_facts(workspace), load_plan(workspace)
    types = plan_types(workspace, facts, plan)
    target = out or run / "model.gguf"
    shown = renderer(quiet=quiet)
    try:
        answer = run_child(
            "tuners.gguf.job",
            GgufSpec(model_path=facts.model_path, out=str(target.resolve()), types=types),
            emit=shown,
            log_path=workspace.log_path("gguf"),
            stage="gguf",
        )
        found = GgufResult.model_validate(answer)
        ran = measured(workspace, facts, found.path, shown) if measure else None
    finally:
        shown.close()
    if json:
        print_json(
            {**found.model_dump(mode="json"), "measured": ran.model_dump(mode="json") if ran else None}
        )
        return 0
    text = console()
    text.print(f"written: {found.path}, {size(found.bytes)}", markup=False, soft_wrap=True)
    for kind, count in sorted(found.tensors.items()):
        text.print(
            f"  {count:4} tensors {kind:5} relative error {found.error[kind]:.4f} (measured, weights alone)"
        )
    if ran is None:
        text.print(
            "its quality was not measured: --measure, or llama-perplexity -m FILE -f TEXT", markup=False
        )
        return 0
    words = f"perplexity {ran.perplexity:.3f} over {ran.tokens:,} held-out tokens"
    speed = f"{ran.prefill_tokens_s:.0f} tokens/s (measured, {ran.build})"
    text.print(f"in llama.cpp: {words}, {speed}", markup=False, soft_wrap=True)
    if ran.ratio is not None:
        text.print(f"  {ran.ratio:.4f} times the original's in vLLM on the same tokens", markup=False)
    cut = "as the original's does" if not ran.differently_cut else f"ANOTHER WAY in {ran.differently_cut}"
    text.print(f"  its tokenizer cuts {ran.checked} texts {cut}", markup=False)
    return 0
