"""What a run found, for people and as data. Reads the run directory; computes nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.errors import ExitCode
from tuners.nats import nats, signed

if TYPE_CHECKING:
    from profiles.provenance import Figure
    from tuners.latency.schema import PlanSpeed
    from tuners.search.schema import KvCost, SearchResult
    from tuners.validate.schema import ValidationReport

NEXT = (
    ("search", "quantize", "advisor quantize --run {run}"),
    ("quantize", "validate", "advisor validate --run {run}"),
    ("validate", "export", "advisor export --run {run}"),
)


def answer(root: Path, *, json: bool) -> int:
    """Print what the run found so far; 4 when its validation did not pass."""
    from advisor.cli.output import print_json

    found = collect(root)
    if json:
        print_json(found)
    else:
        show(root)
    validation = found["validation"]
    failed = validation is not None and not validation["passed"]
    return int(ExitCode.RUN_FAILED if failed else ExitCode.OK)


def collect(root: Path) -> dict[str, Any]:
    """Every finished result of a run as data."""
    from advisor.cli.output import plain
    from advisor.workspace import Workspace

    workspace = Workspace.read_only(root)
    bundle = root / "bundle"
    return {
        "run": str(root),
        "stages": plain(workspace.records()),
        "search": plain(_search(root)),
        "quantize": _json(root / "quantize.json"),
        "validation": plain(_validation(root)),
        "bundle": str(bundle) if bundle.is_dir() else None,
        "next": next_command(root),
    }


def next_command(root: Path) -> str:
    """The command that goes on from here."""
    from advisor.workspace import Workspace

    done = Workspace.read_only(root).records()
    if "export" in done:
        return f"{root}/bundle/run.sh"
    for stage, following, command in reversed(NEXT):
        if stage in done and following not in done:
            return command.format(run=root)
    return "the same command with --through search, which is its default"


def show(root: Path) -> None:
    """The same as text."""
    from advisor.cli.output import console

    out = console()
    search, validation = _search(root), _validation(root)
    if search is not None:
        _show_search(search)
    if validation is not None:
        _show_validation(validation)
    _show_stages(root)
    bundle = root / "bundle"
    if bundle.is_dir():
        out.print(f"\nbundle: {bundle}", markup=False, soft_wrap=True)
    out.print(f"next: {next_command(root)}", markup=False, soft_wrap=True)


def _show_search(found: SearchResult) -> None:
    from advisor.cli.output import console, table
    from profiles.sizes import size

    out = console()
    best = found.held_out[0]
    total = best.unit_bytes + found.fixed_bytes
    allowed = found.budget_bytes + found.fixed_bytes
    out.print(
        f"\nplan: {size(total)} of the {size(allowed)} allowed, {best.bits_per_weight:.3f} bits per weight"
    )
    for name, count in best.plan.counts().most_common():
        out.print(f"  {count:4} units {name}")
    if best.speed is not None:
        out.print(speed_words(best.speed), markup=False)
    rows = table(
        f"\nheld-out text ({best.quality.tokens:,} tokens, seen by nothing before; measured)",
        ["scheme", "bits", "checkpoint", "KL", "perplexity", "same top token"],
        right=(1, 2, 3, 4, 5),
    )
    rows.add_row("original", "16.000", "-", "0", f"{found.perplexity_original:.3f}", "100.0%")
    for point in found.held_out:
        rows.add_row(
            point.label,
            f"{point.bits_per_weight:.3f}",
            size(point.unit_bytes + found.fixed_bytes),
            nats(point.quality.kl),
            f"{point.quality.perplexity:.3f}",
            f"{point.quality.top1:.1%}",
        )
    out.print(rows)
    for other in found.comparisons:
        out.print(
            f"against {other.other}{_at(found, other.other)}: KL {signed(other.difference)} "
            f"(95 %: {signed(other.low)} to {signed(other.high)}): {other.verdict}",
            markup=False,
        )
    for line in (sensitivity_words(found), memory_words(found)):
        if line:
            out.print(line, markup=False)
    if found.kv is not None:
        out.print(_kv_words(found.kv), markup=False)
    for note in found.notes:
        out.print(f"note: {note}", markup=False)


def sensitivity_words(found: SearchResult) -> str | None:
    """How sensitivity was found, and how the fast signal agrees with the measured one."""
    if found.sensitivity_mode == "quick":
        return f"sensitivity: quick, estimated from backward passes ({found.cells} cells, none measured)"
    if found.cells_measured is None or "fisher~kl" not in found.signal_correlations:
        return None
    how = "every cell measured" if found.sensitivity_mode == "exact" else "backward passes, checked"
    rank, total = found.signal_correlations["fisher~kl"], found.signal_sums["fisher/kl"]
    return (
        f"sensitivity: {how} ({found.cells_measured} of {found.cells} cells); fast signal against measured "
        f"KL: rank correlation {rank:.2f}, sum {total:.2f}x, a single cell off by "
        f"{found.signal_errors['fisher/kl']:.0%} (median)"
    )


def memory_words(found: SearchResult) -> str | None:
    """The memory that was stated before and what was measured."""
    from profiles.sizes import size

    if found.memory is None:
        return None
    how = "held as a whole" if found.memory.mode == "resident" else "read block by block"
    return (
        f"memory: model {how}, peak {size(found.peak_rss_bytes)} (measured), "
        f"at most {size(found.memory.bound_bytes)} stated before (estimated)"
    )


def speed_words(speed: PlanSpeed) -> str:
    """Predicted step times with their ranges, and how they are known."""
    ms = speed.decode_ms
    return (
        f"{ms.provenance.value}: {_range(ms)} ms per token (1 request), {_range(speed.decode_16_ms)} "
        f"(16 at once), {_range(speed.prefill_ms_per_1k)} ms per 1,000 prompt tokens; {ms.source}"
    )


def _range(figure: Figure) -> str:
    return f"{figure.value:.4g} [{figure.low:.4g} to {figure.high:.4g}]"


def _kv_words(kv: KvCost) -> str:
    return (
        f"KV cache in {kv.dtype}: KL {nats(kv.kl_without)} -> {nats(kv.kl_with)} ({signed(kv.difference)}, "
        f"95 %: {signed(kv.low)} to {signed(kv.high)}), perplexity {kv.perplexity_with:.3f} "
        "(measured on held-out text, the cache imitated in torch)"
    )


def _at(found: SearchResult, label: str) -> str:
    """At how many bits the other plan is: a plan of more bits is expected to be closer."""
    bits = next((p.bits_per_weight for p in found.held_out if p.label == label), None)
    return "" if bits is None else f" at {bits:.2f} bits"


def _show_validation(found: ValidationReport) -> None:
    from advisor.cli.output import console, table

    out = console()
    rows = table(
        f"\nin vLLM {found.quantized.engine_version}, predicted and measured",
        ["", "predicted", "measured", "unit", ""],
        right=(1, 2),
    )
    for line in found.lines:
        mark = "" if line.ok is None else "ok" if line.ok else "NOT OK"
        rows.add_row(
            line.name,
            "-" if line.predicted is None else _in_unit(line.predicted, line.unit),
            _in_unit(line.measured, line.unit),
            "" if line.unit == "B" else line.unit,
            f"{mark} {line.note}".strip(),
        )
    out.print(rows)
    _show_generations(found)
    for gate in found.gates:
        out.print(f"{gate.mark}: {gate.name}: {gate.reason}", markup=False)
    out.print(f"verdict: {'passed' if found.passed else 'FAILED'}")
    for note in found.notes:
        out.print(f"note: {note}", markup=False)


SHOWN_GENERATIONS, SHOWN_CHARACTERS = 3, 160
"""How much of the greedy answers the terminal shows; validation.json and the model card have them all."""


def _show_generations(found: ValidationReport) -> None:
    """Greedy answers of both checkpoints, one under the other."""
    from advisor.cli.output import console

    triples = zip(
        found.quantized.prompts, found.original.generations, found.quantized.generations, strict=False
    )
    for prompt, original, quantized in list(triples)[:SHOWN_GENERATIONS]:
        console().print(f"\n{prompt}", markup=False)
        for name, text in (("original ", original), ("quantized", quantized)):
            line = " ".join(text.split())
            cut = line[:SHOWN_CHARACTERS] + ("..." if len(line) > SHOWN_CHARACTERS else "")
            console().print(f"  {name}  {cut}", markup=False)


def _in_unit(value: float, unit: str) -> str:
    from profiles.sizes import size

    return size(value) if unit == "B" else f"{value:,.6g}"


def _show_stages(root: Path) -> None:
    from advisor.cli.output import console, table
    from advisor.cli.progress import duration
    from advisor.workspace import Workspace
    from profiles.sizes import size

    rows = table("\nstages", ["stage", "time", "peak memory", ""], right=(1, 2))
    for record in Workspace.read_only(root).records().values():
        peak = "-" if record.peak_rss_bytes is None else size(record.peak_rss_bytes)
        rows.add_row(record.name, duration(record.seconds), peak, record.summary)
    console().print(rows)


def _search(root: Path) -> SearchResult | None:
    from advisor.pipeline.search import load_search
    from advisor.workspace import Workspace

    return load_search(Workspace.read_only(root)) if (root / "search.json").exists() else None


def _validation(root: Path) -> ValidationReport | None:
    from tuners.validate.schema import ValidationReport

    path = root / "validation.json"
    return ValidationReport.model_validate_json(path.read_text()) if path.exists() else None


def _json(path: Path) -> Any:
    import json

    return json.loads(path.read_text()) if path.exists() else None
