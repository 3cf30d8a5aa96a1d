"""Losses on answer tokens, and the profile of a task, on a tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from profiles.errors import UsageError
from profiles.tasks import load_task
from profiles.tasks.schema import EvaluationItem, TaskPart, TaskProfile, TextSplits
from profiles.tasks.split import fingerprint
from tests.tuners.conftest import sentences
from tuners.child import run_child
from tuners.evaluate import Evaluator, compare
from tuners.events import Event
from tuners.model import items
from tuners.model.calibrate import build_variants
from tuners.model.host import ModelHost
from tuners.model.items import task_sequences
from tuners.model.variants import VariantStore
from tuners.plan import Unit, uniform
from tuners.sensitivity import scoring, stopping
from tuners.sensitivity.answers import fisher_row
from tuners.sensitivity.crossing import conclude
from tuners.sensitivity.task_schema import Correlation, Crossing, ProfileSettings, TasksResult, TasksSpec
from tuners.sensitivity.tasks import run
from tuners.solver import predicted_loss, solve


def splits(seed: int, *, answers: bool) -> TextSplits:
    names = ("search", "select", "evaluate")
    texts = {name: tuple(sentences(24, seed + i)) for i, name in enumerate(names)}
    # the last ten words are the answer
    starts = {name: tuple(len(" ".join(t.split()[:30])) for t in part) for name, part in texts.items()}
    return TextSplits.model_validate({**texts, "answers": starts if answers else {}})


def task(name: str, seed: int, *, answers: bool = True, **more: object) -> TaskProfile:
    found = splits(seed, answers=answers)
    items = tuple(
        EvaluationItem(prompt=text[:at], answer=text[at:], scorer="exact")
        for text, at in zip(found.evaluate, found.answers.get("evaluate", ()), strict=False)
    )
    fields: dict[str, object] = {
        "name": name, "title": name, "prior": "low", "prior_source": "test", "origin": "made by the test",
        "licence": "Apache-2.0", "quality_floor_ppl_ratio": 1.5, "splits": found, "items": items,
        "seq_len": 84,
    }  # fmt: skip
    return TaskProfile.model_validate(fields | more)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny operations: a second thread costs more at the barriers than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def host(tiny_model_dir: Path, tiny_units: list[Unit]) -> ModelHost:
    return ModelHost.load(tiny_model_dir, tiny_units)


@pytest.fixture(scope="module")
def store(host: ModelHost, tmp_path_factory: pytest.TempPathFactory) -> VariantStore:
    made = VariantStore(host, tmp_path_factory.mktemp("variants"), 2**30)
    ids = host.tokenise(sentences(20, 9), seq_len=32, max_sequences=16)
    build_variants(host, made, ids, emit=lambda event: None)
    return made


def test_items_are_packed_whole_and_only_answers_count(host: ModelHost) -> None:
    found = task_sequences(host, task("t", 1), "search", seq_len=84, max_sequences=4)
    assert found.weights is not None
    assert found.ids.shape == found.weights.shape == (4, 84)
    # two items of 40 words and their end in each sequence; 10 answer words and the end are predicted
    assert found.weights.sum(1).tolist() == [22.0] * 4
    row = found.weights[0].nonzero().squeeze(-1).tolist()
    assert row == [*range(29, 40), *range(70, 81)]
    assert int(found.ids[0, 40]) == host.tokenizer.eos_token_id


def test_items_longer_than_a_sequence_are_skipped_and_counted(host: ModelHost) -> None:
    base = splits(1, answers=True)
    long = base.model_copy(
        update={
            "search": (" ".join(base.search[:3]), *base.search[3:]),
            "answers": {"search": (5, *base.answers["search"][3:])},
        }
    )
    found = task_sequences(host, task("t", 1, splits=long), "search", seq_len=84, max_sequences=2)
    assert found.skipped == 1
    with pytest.raises(UsageError, match="no item fits"):
        task_sequences(host, task("t", 1), "search", seq_len=20, max_sequences=2)


def test_a_mixture_has_its_parts_in_every_prefix(host: ModelHost) -> None:
    code, chat = splits(1, answers=True), splits(50, answers=False)
    mixed = task(
        "mix", 1,
        parts=(TaskPart(name="a", weight=0.75, splits=code), TaskPart(name="b", weight=0.25, splits=chat)),
    )  # fmt: skip
    found = task_sequences(host, mixed, "search", seq_len=84, max_sequences=8)
    assert found.weights is not None
    whole = (found.weights.sum(1) == 84).tolist()
    assert sum(whole) == 2
    assert sum(whole[:4]) == 1


def test_counted_losses_are_those_positions_of_the_dense_ones(host: ModelHost, store: VariantStore) -> None:
    found = task_sequences(host, task("t", 1), "search", seq_len=84, max_sequences=2)
    assert found.weights is not None
    reference = torch.log_softmax(host.logits(found.ids), -1)
    with store.installed(uniform(host.units.values(), "int4").formats):
        logits = host.logits(found.ids)
    counted = compare(logits, reference, found.ids, found.weights)
    logp = torch.log_softmax(logits, -1)
    kl = (reference.exp() * (reference - logp)).sum(-1)
    nll = -logp[:, :-1].gather(-1, found.ids[:, 1:, None]).squeeze(-1)
    for row, loss in enumerate(counted):
        keep = found.weights[row] > 0
        assert loss.kl == pytest.approx(float(kl[row][keep].mean()), rel=1e-5)
        assert loss.nll == pytest.approx(float(nll[row][keep[:-1]].mean()), rel=1e-5)
    everything = compare(logits, reference, found.ids, torch.ones_like(found.weights))
    dense = compare(logits, reference, found.ids)
    for a, b in zip(everything, dense, strict=True):
        assert a.kl == pytest.approx(b.kl, rel=1e-5)
        assert a.nll == pytest.approx(b.nll, rel=1e-5)
        assert a.top1 == pytest.approx(b.top1)


def test_the_evaluator_stores_and_compares_counted_positions(
    host: ModelHost, store: VariantStore, tmp_path: Path
) -> None:
    found = task_sequences(host, task("t", 1), "search", seq_len=84, max_sequences=5)
    formats = uniform(host.units.values(), "int4").formats
    masked = Evaluator(host, store, found.ids, tmp_path, "search", batch_size=2, weights=found.weights)
    dense = Evaluator(host, store, found.ids, tmp_path, "search", batch_size=2)
    quality = masked.quality(formats)
    assert quality.tokens == 110
    assert masked.reference().shape == (110, 64)
    assert masked.path != dense.path
    reference = torch.from_numpy(dense.reference())
    with store.installed(formats):
        expected = compare(host.logits(found.ids), reference, found.ids, found.weights)
    assert quality.sequence_kl == pytest.approx([x.kl for x in expected], rel=1e-4)
    assert dense.quality(formats).kl != pytest.approx(quality.kl, rel=1e-3)


def test_search_and_engine_mean_the_same_by_their_numbers(
    host: ModelHost, store: VariantStore, tmp_path: Path
) -> None:
    """Uneven sequences, all of the vocabulary as the engine's top tokens: perplexity, KL and top-1 agree."""
    from tuners.validate.distributions import TopK, top1_agreement, truncated_kl

    found = task_sequences(host, task("t", 1), "evaluate", seq_len=84, max_sequences=4)
    assert found.weights is not None
    found.weights[0, :70] = 0  # 11 tokens of this sequence count, 22 of the others
    formats = uniform(host.units.values(), "int4").formats
    quality = Evaluator(host, store, found.ids, tmp_path, "evaluate", weights=found.weights).quality(formats)
    assert quality.sequence_tokens == (11, 22, 22, 22)

    def engine(logits: torch.Tensor) -> TopK:
        logp = torch.log_softmax(logits, -1)[:, :-1]
        best, ids = logp.sort(-1, descending=True)
        target = logp.gather(-1, found.ids[:, 1:, None])
        flat = [x.flatten(0, 1).numpy() for x in (target, ids, best)]
        counted = (found.weights[:, :-1] > 0).flatten().tolist()  # type: ignore[index]
        return TopK(flat[0][:, 0], flat[1].astype(np.int32), flat[2], "same").only(counted)

    reference = engine(host.logits(found.ids))
    with store.installed(formats):
        served = engine(host.logits(found.ids))
    assert quality.tokens == len(served.target_logprobs) == 77
    assert quality.perplexity == pytest.approx(served.perplexity, rel=1e-4)
    assert quality.kl == pytest.approx(truncated_kl(reference, served), rel=0.02)
    assert quality.top1 == pytest.approx(top1_agreement(reference, served))
    by_sequence = math.exp(float(np.mean(quality.sequence_nll)))
    assert abs(by_sequence - quality.perplexity) > 1e-3  # what is not meant


def test_the_last_position_predicts_nothing_and_does_not_count(host: ModelHost) -> None:
    ids = host.tokenise(sentences(8, 3), seq_len=32, max_sequences=2)
    reference = torch.log_softmax(host.logits(ids), -1)
    changed = host.logits(ids)
    changed[:, -1] += torch.linspace(0, 9, changed.shape[-1])
    for weights in (None, torch.ones(ids.shape)):
        for loss in compare(changed, reference, ids, weights):
            assert loss.kl == pytest.approx(0, abs=1e-6)
            assert (loss.top1, loss.tokens) == (1.0, 31)


def test_second_order_loss_is_near_the_measured_one(host: ModelHost, store: VariantStore) -> None:
    found = task_sequences(host, task("t", 1), "search", seq_len=84, max_sequences=6)
    assert found.weights is not None
    rng = torch.Generator().manual_seed(0)
    rows = [fisher_row(host, store, i, w, rng) for i, w in zip(found.ids, found.weights, strict=True)]
    inputs, logits = host.capture(found.ids)
    reference = torch.log_softmax(logits, -1)
    estimated, measured = [], []
    for unit in host.units.values():
        fmt = unit.options[0]
        with store.installed({unit.name: fmt}):
            out = host.logits_from(host.block_of(unit.name), found.ids, inputs)
        measured.append(np.mean([x.kl for x in compare(out, reference, found.ids, found.weights)]))
        estimated.append(np.mean([row[unit.name, fmt] for row in rows]))
    assert stopping.rank_correlation(estimated, measured) > 0.8
    assert 0.4 < sum(estimated) / sum(measured) < 2.5


def test_scoring_counts_what_the_model_writes(host: ModelHost) -> None:
    text = sentences(1, 77)[0]
    words = text.split()
    prompt = " ".join(words[:20])
    ids = torch.tensor([scoring.encode(host, prompt)])
    best = host.tokenizer.decode([int(host.logits(ids)[0, -1].argmax())])
    other = next(w for w in words if w != best)
    items = [
        EvaluationItem(prompt=prompt, answer=f" {best}", scorer="exact"),
        EvaluationItem(prompt=prompt, answer=f" {other}", scorer="exact"),
        EvaluationItem(prompt=prompt, answer=best, scorer="choice", choices=(other, best)),
        EvaluationItem(prompt=prompt, answer=other, scorer="choice", choices=(other, best)),
        EvaluationItem(prompt=" ".join(words * 9), answer="x", scorer="exact"),
        EvaluationItem(prompt=prompt, answer="x", scorer="choice", choices=("y", "z")),
        EvaluationItem(prompt=prompt, answer="{", scorer="json"),
        EvaluationItem(prompt="", answer=text, scorer="next-token"),
    ]
    found, _ = scoring.score_items(host, items, 256)
    assert found[:4] == [1.0, 0.0, 1.0, 0.0]
    assert found[4:7] == [scoring.Skipped.TOO_LONG, scoring.Skipped.FAILED, scoring.Skipped.FAILED]
    assert isinstance(found[7], float)
    assert 0.2 < found[7] < 1


def test_drafts_save_steps_and_change_no_answer(
    host: ModelHost, store: VariantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = sentences(12, 78)
    items = [
        EvaluationItem(
            prompt=" ".join(t.split()[: 8 + 2 * i]), answer=" ".join(t.split()[20:30]), scorer="exact"
        )
        for i, t in enumerate(words)
    ]
    original = scoring.write(host, items)
    assert max(map(len, original)) > 4
    steps = 0
    forward = host.model.forward

    def counted(*args: object, **more: object) -> object:
        nonlocal steps
        steps += 1
        return forward(*args, **more)

    monkeypatch.setattr(host.model, "forward", counted)
    formats = uniform(host.units.values(), "int4").formats
    with store.installed(formats):
        plain = scoring.write(host, items)
        alone, steps = steps, 0
        assert scoring.write(host, items, original) == plain
    assert steps <= alone
    assert scoring.write(host, items, original) == original
    garbage = [[3, 4, 5], [], *original[2:]]
    assert scoring.write(host, items, garbage) == original


@pytest.fixture
def units() -> list[Unit]:
    from tuners.plan import UnitLinear

    return [
        Unit(
            name=f"u{i}", role="o", block=i, options=("W4A16_G128", "W8A8", "BF16"),
            linears=(UnitLinear(name=f"u{i}", in_features=128, out_features=128),),
        )
        for i in range(6)
    ]  # fmt: skip


def samples(units: list[Unit], noise: float, count: int) -> dict[tuple[str, str], list[float]]:
    rng = np.random.default_rng(0)
    return {
        (u.name, f): [float(v) for v in (i + 1) * scale * np.exp(noise * rng.standard_normal(count))]
        for i, u in enumerate(units)
        for f, scale in (("W4A16_G128", 1.0), ("W8A8", 0.01))
    }


def test_a_clear_order_is_decided_by_few_samples_and_a_noisy_one_is_not(units: list[Unit]) -> None:
    budget = sum(u.bytes_as("W4A16_G128") for u in units[:3]) + sum(u.bytes_as("W8A8") for u in units[3:])
    ask = {"tolerance": 0.03, "bootstraps": 40, "seed": 0}
    plan, sure = stopping.plan_certainty(units, samples(units, 0.01, 6), (9,) * 6, budget, **ask)  # type: ignore[arg-type]
    assert [plan[u.name] for u in units] == ["W4A16_G128"] * 3 + ["W8A8"] * 3
    assert sure == 1.0
    _, unsure = stopping.plan_certainty(units, samples(units, 2.5, 6), (9,) * 6, budget, **ask)  # type: ignore[arg-type]
    assert unsure < 0.9


def test_the_greedy_plan_is_within_a_step_of_the_exact_one(units: list[Unit]) -> None:
    scores = stopping.table(samples(units, 1.0, 3), (9,) * 3)
    smallest = sum(u.bytes_as("W4A16_G128") for u in units)
    largest = sum(u.bytes_as("BF16") for u in units)
    for budget in np.linspace(smallest, largest, 25).astype(int):
        quick, exact = stopping.greedy(units, scores, int(budget)), solve(units, scores, int(budget))
        used = sum(u.bytes_as(quick[u.name]) for u in units)
        assert used <= budget
        step = max(max(scores[u.name].values()) for u in units)
        assert predicted_loss(quick, scores) <= predicted_loss(exact, scores) + step


def test_why_it_stopped() -> None:
    ask = {"confidence": 0.95, "most": 6, "exhausted": False}
    go_on = stopping.why_stopped(sure=0.8, undecided=[], chunks=3, **ask)  # type: ignore[arg-type]
    assert go_on is None
    floor = stopping.why_stopped(sure=1.0, undecided=["int4"], chunks=3, **ask)  # type: ignore[arg-type]
    assert floor is None
    done = stopping.why_stopped(sure=0.97, undecided=[], chunks=3, **ask)  # type: ignore[arg-type]
    assert done is not None
    assert done.startswith("decided: 97%")
    limit = stopping.why_stopped(sure=0.8, undecided=["int4"], chunks=6, **ask)  # type: ignore[arg-type]
    assert limit is not None
    assert "limit" in limit
    assert "int4 cannot be told" in limit
    ended = stopping.why_stopped(sure=0.8, undecided=[], chunks=2, confidence=0.95, most=6, exhausted=True)
    assert ended is not None
    assert "used up" in ended


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [((1.0, 0.9, 1.05), "passes"), ((1.3, 1.2, 1.4), "fails"), ((1.1, 1.0, 1.2), "undecided")],
)
def test_floor(ratio: tuple[float, float, float], verdict: str) -> None:
    assert stopping.floor_verdict(ratio, 1.1) == verdict


def spec(tiny_model_dir: Path, tiny_units: list[Unit], folder: Path, *tasks: TaskProfile) -> TasksSpec:
    weights = sum(u.numel for u in tiny_units)
    return TasksSpec(
        model_path=tiny_model_dir,
        units=tuple(tiny_units),
        budget_bytes=int(5.5 * weights / 8),
        tasks=tasks,
        calibration=task("generic", 100, answers=False),
        cache_dir=folder,
        settings=ProfileSettings(
            chunk_tokens=168, most_chunks=4, bootstraps=10, calibration_len=32, score_chunk=6, most_scored=12,
            exact_cells=4, cross_sequences=4,
        ),
    )  # fmt: skip


def test_two_profiles_are_compared_cached_and_say_why_they_stopped(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job = spec(tiny_model_dir, tiny_units, tmp_path / "cache", task("a", 1), task("b", 30, answers=False))
    found = TasksResult.model_validate(
        run_child("tuners.sensitivity.tasks", job, emit=lambda e: None, log_path=tmp_path / "log", stage="s")
    )
    first = found.tasks[0]
    assert [u.family for u in first.uniform] == ["int4", "int8", "fp8"]
    for row in first.uniform:
        total = sum(
            c.kl for c in first.units if row.family[:4] in _family(c.format) and c.how == "apportioned"
        )
        assert total <= row.kl.value * 1.001
        assert row.kl.low <= row.kl.value <= row.kl.high
        assert row.score_change is not None
    assert sum(c.how == "measured" for c in first.units) == 4
    assert first.stopped.sequences >= 6
    assert first.stopped.why
    assert first.stopped.items >= 6
    assert [c.verdict for c in found.crossings].count("own plan") == 2
    assert len(found.correlations) == 1
    assert found.conclusion
    events: list[Event] = []
    again = run(job, events.append)
    assert again.tasks == found.tasks
    assert sum(e.kind == "stage_finished" and e.skipped and e.title in "ab" for e in events) == 2


def test_exact_measures_every_cell_on_every_sequence(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    profile = task("a", 1, items=())
    job = spec(tiny_model_dir, tiny_units, tmp_path, profile)
    settings = job.settings.model_copy(update={"exact": True, "most_chunks": 2})
    found = run(job.model_copy(update={"settings": settings}), lambda e: None).tasks[0]
    assert {c.how for c in found.units} == {"measured"}
    assert found.stopped.sequences == 4
    assert found.original_score is None
    assert "no items to score" in found.notes[0]
    assert found.check is not None


def test_few_items_are_measured_but_nothing_is_called_sure(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    rows = [{"prompt": t[:60], "answer": t[61:]} for t in sentences(9, 5)]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run(spec(tiny_model_dir, tiny_units, tmp_path, load_task(own)), lambda e: None).tasks[0]
    assert found.stopped.sequences < 6
    assert found.stopped.sure == 0
    assert "used up" in found.stopped.why
    assert {u.verdict for u in found.uniform} == {"undecided"}
    assert any("give more items" in note for note in found.notes)


def test_items_beyond_the_context_are_counted(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    base = task("a", 1)
    long = EvaluationItem(prompt=" ".join(sentences(9, 6)), answer="fox", scorer="exact")
    broken = EvaluationItem(prompt="the quick", answer="{", scorer="json")
    job = spec(
        tiny_model_dir, tiny_units, tmp_path, base.model_copy(update={"items": (long, broken, *base.items)})
    )
    found = run(job, lambda e: None).tasks[0]
    assert found.stopped.skipped == 2
    assert "1 item(s) skipped longer than the model's context" in found.notes
    assert "1 item(s) skipped whose scorer failed" in found.notes


def _family(fmt: str) -> str:
    from profiles.formats import get_format

    return get_format(fmt).family


def test_no_evaluation_item_reaches_measurement_or_quantization(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By fingerprint of everything that is tokenised, but for the items that are scored."""
    tasks = (task("a", 1), task("b", 30))
    read: set[str] = set()
    scored: list[str] = []
    encode, tokenise, real = scoring.encode, ModelHost.tokenise, items.encode_item

    def watch(host: ModelHost, texts: tuple[str, ...], **more: int) -> torch.Tensor:
        read.update(map(fingerprint, texts))
        return tokenise(host, texts, **more)

    def watch_items(host: ModelHost, text: str) -> list[int]:
        scored.append(text)
        return encode(host, text)

    def watch_item(host: ModelHost, text: str, start: int) -> tuple[list[int], int]:
        read.add(fingerprint(text))
        return real(host, text, start)

    monkeypatch.setattr(ModelHost, "tokenise", watch)
    monkeypatch.setattr(items, "encode_item", watch_item)
    monkeypatch.setattr(scoring, "encode", watch_items)
    job = spec(tiny_model_dir, tiny_units, tmp_path, *tasks)
    found = run(job, lambda e: None)
    assert found.crossings
    for used in (*tasks, job.calibration):
        assert read & used.splits.fingerprints("search")
        assert not read & used.splits.fingerprints("evaluate")
    assert read & tasks[0].splits.fingerprints("select")
    assert scored


def test_what_is_concluded() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.task = name

    pair = [Named("a"), Named("b")]
    ranks = [Correlation(a="a", b="b", rank=0.9, ceiling=0.95)]

    def cross(difference: float, half: float) -> Crossing:
        return Crossing(
            plan_for="b", measured_on="a", kl=0.1 + difference, own_kl=0.1, difference=difference,
            low=difference - half, high=difference + half,
            verdict="costs more" if difference > half else "no measurable difference",
        )  # fmt: skip

    assert conclude(pair, ranks, [cross(0.02, 0.01)]).startswith("different plans are worth it")  # type: ignore[arg-type]
    assert conclude(pair, ranks, [cross(0.001, 0.002)]).startswith("these tasks do not need")  # type: ignore[arg-type]
    assert "do not rule one out" in conclude(pair, ranks, [cross(0.001, 0.02)])  # type: ignore[arg-type]
    assert conclude(pair[:1], [], []).startswith("one task")  # type: ignore[arg-type]
    scant = cross(0.02, 0.01).model_copy(update={"verdict": "too little text"})
    assert "cannot be told" in conclude(pair, ranks, [scant])  # type: ignore[arg-type]
    assert "do not rule one out" in conclude(pair, ranks, [scant, cross(0.001, 0.002)])  # type: ignore[arg-type]


def test_too_little_selection_text_decides_nothing(
    tiny_model_dir: Path, tiny_units: list[Unit], tmp_path: Path
) -> None:
    job = spec(tiny_model_dir, tiny_units, tmp_path, task("a", 1, items=()), task("b", 30, items=()))
    settings = job.settings.model_copy(update={"cross_sequences": 3, "most_chunks": 2, "exact_cells": 0})
    found = run(job.model_copy(update={"settings": settings}), lambda e: None)
    assert {c.verdict for c in found.crossings} <= {"own plan", "too little text", "no measurable difference"}
    if found.tasks[0].plan != found.tasks[1].plan:
        assert "cannot be told" in found.conclusion


def test_intervals_pass_through_a_function() -> None:
    value, low, high = stopping.interval([0.0, 0.1, 0.2], of=math.exp)
    assert value == pytest.approx(math.exp(0.1))
    assert low <= value <= high
