"""`advisor gguf`: the plan of a run as one GGUF file of mixed types, for llama.cpp and Ollama."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.options import Json, Quiet

if TYPE_CHECKING:
    from advisor.pipeline.facts import Facts
    from tuners.plan import PrecisionPlan


def gguf(
    *,
    run: Annotated[Path, Parameter(name="--run", help="The run directory.")],
    out: Annotated[
        Path | None, Parameter(name="--out", help="The file; none: model.gguf in the run.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write the original model in llama.cpp's types of the plan's widths: q4_k or q4_0, q8_0, bf16.

    Another rounding than the one that validation measured: measure the file (llama-perplexity) before it
    serves. Llama and Mistral with byte-level BPE; for others the bundle's deploy/llama.cpp/quantize.sh.
    """
    from advisor.cli.output import console, print_json, size
    from advisor.cli.progress import renderer
    from advisor.pipeline.facts import load_facts
    from advisor.pipeline.quantize import load_plan
    from advisor.workspace import Workspace
    from tuners.child import run_child
    from tuners.gguf.write import GgufResult, GgufSpec

    workspace = Workspace.read_only(run)
    facts, plan = load_facts(workspace), load_plan(workspace)
    types = plan_types(facts, plan)
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
    finally:
        shown.close()
    found = GgufResult.model_validate(answer)
    if json:
        print_json(found)
        return 0
    text = console()
    text.print(f"written: {found.path}, {size(found.bytes)}", markup=False, soft_wrap=True)
    for kind, count in sorted(found.tensors.items()):
        text.print(
            f"  {count:4} tensors {kind:5} relative error {found.error[kind]:.4f} (measured, weights alone)"
        )
    text.print("its quality was not measured: llama-perplexity -m FILE -f TEXT", markup=False)
    return 0


def plan_types(facts: Facts, plan: PrecisionPlan) -> dict[str, str]:
    """GGUF tensor -> type, as the bundle's quantize.sh has them.

    Raises:
        UsageError: a unit that llama.cpp has no name or no type for.
    """
    from advisor.bundle.targets.llama_cpp import gguf_type, tensor_name
    from advisor.bundle.targets.registry import Refused
    from profiles.errors import UsageError

    try:
        return {
            tensor_name(facts.model.architecture, m.name): gguf_type(plan.formats[u.name], m)
            for u in facts.units
            for m in u.linears
        }
    except Refused as exc:
        raise UsageError("the plan has no GGUF form", got=str(exc)) from exc
