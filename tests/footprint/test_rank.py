"""Ranking, the compiled catalogue, and the cost of quantizing."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.errors import UsageError
from profiles.footprint import (
    ServingSpec,
    Verdict,
    estimate,
    quantize_cost,
    rank_devices,
    rank_models,
    uniform_formats,
)
from profiles.footprint.compiled import Compiled, _read, build, compiled_catalogue, dumps
from profiles.footprint.facts import facts_of
from profiles.footprint.ledger import ledger_of
from profiles.hardware import planned
from profiles.hardware.schema import HardwareProfile
from profiles.models import catalogue_index, catalogue_model
from profiles.models.schema import ModelProfile
from tests.footprint.build import GIB, cpu, gpu, llama

SPEC = ServingSpec(max_model_len=4096)


def reduced(model: ModelProfile) -> Compiled:
    """One model as the ranking sees it."""
    return Compiled(facts_of(model), ledger_of(model), model.num_parameters, "mit", ())


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-3.1-8B-Instruct",
        "Qwen/Qwen3-30B-A3B",
        "google/gemma-3-12b-it",
        "deepseek-ai/DeepSeek-V3.1",
    ],
)
def test_ranking_agrees_with_the_estimate(name: str) -> None:
    machine = planned("h100")
    model = catalogue_model(name)
    for found in rank_models(machine, SPEC, ("16-bit", "fp8", "int4"), [reduced(model)]):
        plan = uniform_formats(model, machine.device, found.family)
        full = estimate(model, machine, SPEC, plan)
        assert found.weights == full.weights.value
        assert found.kv_tokens == full.kv_tokens.value
        assert (found.verdict is Verdict.FITS) == (full.verdict is Verdict.FITS)


@pytest.mark.parametrize(
    "machine",
    [
        cpu(24, 20),
        cpu(24, 3),
        cpu(64, 12),
        gpu(16, name="T4", capability=(7, 5)),
        gpu(24, free_gib=10),
        gpu(24, count=2),
        gpu(79.19),
    ],
    ids=("cpu", "cpu-little-free", "cpu-busy", "t4", "gpu-busy", "two-gpus", "h100"),
)
@pytest.mark.parametrize("spec", [ServingSpec(), SPEC, SPEC.model_copy(update={"concurrency": 200})])
def test_ranking_and_estimate_give_the_same_verdict(machine: HardwareProfile, spec: ServingSpec) -> None:
    for name in (
        "Qwen/Qwen3-0.6B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "google/gemma-3-12b-it",
        "openai/gpt-oss-20b",
    ):
        model = catalogue_model(name)
        for found in rank_models(machine, spec, ("16-bit", "int8", "int4"), [reduced(model)]):
            plan = uniform_formats(model, machine.device, found.family)
            length = spec.model_copy(update={"max_model_len": found.context})
            full = estimate(model, machine, length, plan or None)
            assert found.verdict is full.verdict, (name, found.family, full.reason)
            if full.refusals:
                assert found.reason == full.refusals[0]


def test_what_fits_comes_first_and_larger_before_smaller() -> None:
    models = [reduced(llama(layers=n, hidden=1024, vocab=32000)) for n in (2, 8)]
    found = rank_models(gpu(24, name="RTX 4090", capability=(8, 9)), SPEC, models=models)
    verdicts = [r.verdict is Verdict.FITS for r in found]
    assert verdicts == sorted(verdicts, reverse=True)
    assert found[0].params == max(m.params for m in models)
    assert all(r.decode_tokens_s and r.decode_low and r.decode_low <= r.decode_tokens_s for r in found)


def test_formats_without_a_kernel_are_not_ranked() -> None:
    families = {r.family for r in rank_models(gpu(16, capability=(7, 0)), SPEC, models=[reduced(llama())])}
    assert families == {"16-bit"}


def test_a_format_that_only_a_slow_kernel_runs_is_ranked_when_it_is_asked_for_by_name() -> None:
    machine, model = cpu(), reduced(llama())
    offered = {r.family for r in rank_models(machine, SPEC, models=[model])}
    assert "int8" in offered
    assert "fp8" not in offered
    assert {r.family for r in rank_models(machine, SPEC, ("fp8",), [model])} == {"fp8"}
    assert "fp8" in {r.family for r in rank_models(gpu(24, capability=(8, 9)), SPEC, models=[model])}

    devices = [machine.device, gpu(24, capability=(8, 9)).device]
    by_device = {(r.device, r.family) for r in rank_devices(llama(), devices, SPEC)}
    assert (devices[0].name, "int8") in by_device
    assert (devices[0].name, "fp8") not in by_device
    assert (devices[1].name, "fp8") in by_device


def test_devices_for_one_model_take_as_few_as_needed() -> None:
    model = catalogue_model("meta-llama/Llama-3.3-70B-Instruct")
    devices = [planned(name).device for name in ("rtx-4090", "h100")]
    found = rank_devices(model, devices, SPEC, ("16-bit", "int4"))
    needed = {(r.device, r.family): r.devices for r in found if r.verdict is Verdict.FITS}
    assert needed[(devices[1].name, "int4")] == 1
    assert needed[(devices[1].name, "16-bit")] == 4
    assert needed[(devices[0].name, "int4")] == 4
    assert found[0].verdict is Verdict.FITS


def test_the_compiled_form_reads_back_equal(tmp_path: Path) -> None:
    models = [reduced(m) for m in (llama(), llama(experts=4), catalogue_model("google/gemma-3-4b-it"))]
    path = tmp_path / "compiled.json"
    path.write_text(dumps(models, "stamp"), encoding="utf-8")
    again = _read(path, "stamp")
    assert again is not None
    for a, b in zip(again, models, strict=True):
        assert a.facts == b.facts
        assert [(g.lines, g.blocks) for g in a.ledger.groups] == [
            (g.lines, g.blocks) for g in b.ledger.groups
        ]
    assert _read(path, "another") is None
    path.write_text('{"fingerprint": "stamp", "models": [[1, 2]]}', encoding="utf-8")
    assert _read(path, "stamp") is None


def test_the_catalogue_is_compiled_whole() -> None:
    found = {c.facts.model_id: c for c in compiled_catalogue()}
    assert set(found) == {entry.id for entry in catalogue_index()}
    for name in ("meta-llama/Llama-3.1-8B-Instruct", "openai/gpt-oss-20b"):
        model = catalogue_model(name)
        assert found[name].facts == facts_of(model)
        assert found[name].ledger.stored_bytes == ledger_of(model).stored_bytes


def test_a_stale_packaged_file_is_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("profiles.footprint.compiled.fingerprint", lambda: "changed")
    one = (reduced(llama()),)
    monkeypatch.setattr("profiles.footprint.compiled.build", lambda: one)
    compiled_catalogue.cache_clear()
    try:
        assert compiled_catalogue() == one
        assert list(tmp_path.rglob("footprint-changed.json"))
    finally:
        compiled_catalogue.cache_clear()
    assert build is not None


def test_quantizing_costs_memory_and_time() -> None:
    model = catalogue_model("meta-llama/Meta-Llama-3-8B-Instruct")
    a100 = planned("a100-80gb")
    rtn, gptq, awq = (quantize_cost(model, a100, m) for m in ("rtn", "gptq", "awq"))
    assert rtn.seconds.value < gptq.seconds.value
    assert gptq.seconds.low / 60 <= 30 <= gptq.seconds.high / 60  # published: about half an hour
    assert rtn.seconds.low <= 60 <= rtn.seconds.high
    assert rtn.host_bytes.value < gptq.host_bytes.value < awq.host_bytes.value
    assert gptq.host_bytes.value > model.num_parameters * 2


def test_quantizing_says_when_it_does_not_fit() -> None:
    large = catalogue_model("Qwen/Qwen3-32B")
    found = quantize_cost(large, cpu(), "gptq")
    assert not found.fits
    assert "host memory" in found.reason
    small = quantize_cost(llama(), cpu(), "gptq", samples=8, sequence_length=256)
    assert small.fits
    assert small.host_bytes.value < 10 * GIB


@pytest.mark.parametrize(("method", "samples"), [("magic", 8), ("gptq", 0), ("gptq", 1 << 40)])
def test_bad_quantization_requests(method: str, samples: int) -> None:
    with pytest.raises(UsageError):
        quantize_cost(llama(), cpu(), method, samples=samples)
