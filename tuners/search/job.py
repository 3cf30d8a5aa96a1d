"""The search as a child process: variants, sensitivity, study, choice among finalists, held-out report."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tuners.child import child_main, peak_rss_bytes
from tuners.events import Emit, StageFinished, StageStarted
from tuners.model.calibrate import build_variants
from tuners.search import workers
from tuners.search.report import Reporter
from tuners.search.schema import SearchResult, SearchSpec
from tuners.search.scoring import quick_note, score
from tuners.search.setup import Setup
from tuners.search.study import PlanSearch
from tuners.search.trials import Trials, open_storage
from tuners.sensitivity.table import FISHER, G2DY2, GDY2, KL, MSE, SensitivityTable


def run(spec: SearchSpec, emit: Emit) -> SearchResult:
    """Run or resume a search; every intermediate result is on disk as soon as it exists."""
    emit(StageStarted(stage="load", title="load the model"))
    start = time.monotonic()
    setup = Setup(spec, emit)
    # validation measures the same tokens in the engine, so that the two numbers may be compared
    _write(spec.run_dir / "evaluate_ids.json", json.dumps(setup.held_out.ids.tolist()))
    if setup.held_out.weights is not None:
        _write(spec.run_dir / "evaluate_weights.json", json.dumps(setup.held_out.weights.tolist()))
    emit(StageFinished(stage="load", title="load the model", seconds=time.monotonic() - start))
    _variants(setup, emit)
    table = sensitivity(setup, emit)
    start = time.monotonic()
    search = study(setup, table, emit)
    reporter = Reporter(setup, table, emit)
    best = reporter.choose(search)
    front = reporter.front(search, best)
    held_out, original = reporter.held_out(best)
    kv = reporter.kv_cost(best, spec.kv_cache_dtype)
    if spec.kv_cache_dtype != "auto":
        decided = best.plan.model_copy(update={"kv_cache_dtype": spec.kv_cache_dtype})
        best = best.model_copy(update={"plan": decided})
    trials, pruned, measured = search.counts()
    second_order = (FISHER, GDY2, G2DY2)
    cheap = (*second_order, MSE)
    quick = (quick_note(spec.settings),) if spec.settings.is_quick else ()
    written = (setup.excess.words,) if setup.excess is not None and setup.half_written else ()
    exact_cells = len(table.cells) if table.exact_cells is None else table.exact_cells
    result = SearchResult(
        best=best,
        held_out=held_out,
        front=front.points,
        comparisons=reporter.comparisons(held_out),
        perplexity_original=original.perplexity,
        original_sequence_nll=original.sequence_nll,
        budget_bytes=spec.budget_bytes,
        fixed_bytes=spec.fixed_bytes,
        trials=trials,
        trials_pruned=pruned,
        trials_measured=measured,
        sensitivity_seconds=table.seconds,
        search_seconds=time.monotonic() - start,
        signal_correlations={f"{s}~kl": c for s in cheap if (c := table.rank_correlation(KL, s)) is not None},
        signal_sums={f"{s}/kl": r for s in second_order if (r := table.ratio_of_sums(s)) is not None},
        signal_errors={f"{s}/kl": e for s in second_order if (e := table.median_error(s)) is not None},
        cells_measured=exact_cells,
        cells=len(table.cells),
        sensitivity_mode="quick" if quick else "exact" if exact_cells == len(table.cells) else "fast",
        peak_rss_bytes=peak_rss_bytes(),
        notes=(*quick, *written, *reporter.goal_notes(held_out[0])),
        goal=spec.goal,
        memory=setup.memory,
        kv=kv,
    )
    _write(spec.run_dir / "front.json", front.model_dump_json())
    _write(spec.run_dir / "search.json", result.model_dump_json(indent=1))
    _write(spec.run_dir / "plan.yaml", best.plan.to_yaml())
    setup.trim_cache(emit)  # this search has grown it
    return result


def _variants(setup: Setup, emit: Emit) -> None:
    """Quantized variants in the cache, and their input scales for the quantizer, which seeks them itself
    after a quick search: that has none."""
    scales, used = setup.spec.run_dir / "input_scales.npz", setup.settings
    if used.is_quick:
        scales.unlink(missing_ok=True)
        return
    build_variants(
        setup.host,
        setup.store,
        setup.calibration,
        emit=emit,
        damping=used.gptq_damping,
        batch_size=used.batch_size,
    )
    setup.store.save_input_scales(scales)


def sensitivity(setup: Setup, emit: Emit) -> SensitivityTable:
    """The table, from the cache or measured now."""
    table = setup.load_table()
    skipped = table is not None
    if table is None:
        wanted = sum(len(u.options) - 1 for u in setup.spec.units)
        what = "(g dy)^2" if setup.settings.is_quick else "KL"
        emit(
            StageStarted(
                stage="sensitivity", title=f"{what} of every unit in every format", total=wanted, unit="cells"
            )
        )
        table = score(setup, emit)
    _write(setup.spec.run_dir / "sensitivity.json", table.model_dump_json())
    emit(
        StageFinished(
            stage="sensitivity",
            title="sensitivity",
            seconds=table.seconds,
            skipped=skipped,
            peak_rss_bytes=peak_rss_bytes(),
            summary=f"{len(table.cells)} cells on {table.tokens} tokens",
        )
    )
    return table


def study(setup: Setup, table: SensitivityTable, emit: Emit) -> PlanSearch:
    """The Optuna studies at the budget, with helpers when several workers are asked for."""
    spec = setup.spec
    emit(
        StageStarted(
            stage="search", title="Optuna over prices", total=float(spec.settings.trials), unit="trials"
        )
    )
    start = time.monotonic()
    search = PlanSearch(
        spec.units,
        table,
        Trials(spec.units, setup.search, spec.settings, emit, setup.pace()),
        spec.budget_bytes,
        open_storage(spec.settings.storage, spec.run_dir),
        spec.settings,
        emit,
        name=setup.study_name(table),
    )
    with workers.helping(spec, search, emit):
        search.run()
    trials, pruned, measured = search.counts()
    emit(
        StageFinished(
            stage="search",
            title="Optuna over prices",
            seconds=time.monotonic() - start,
            peak_rss_bytes=peak_rss_bytes(),
            summary=f"{trials} trials, {pruned} pruned, {measured} distinct plans measured",
        )
    )
    return search


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    child_main(SearchSpec, run)
