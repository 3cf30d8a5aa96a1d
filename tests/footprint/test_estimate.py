"""Laws, verdicts, refusals, levers, speed: the whole boot log."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import UsageError
from profiles.footprint import ServingSpec, Verdict, estimate, explain, uniform_formats
from profiles.footprint.estimate import predict_stages
from profiles.footprint.laws import capture_sizes
from profiles.footprint.version import EXTRAPOLATED, NEWEST, check_known
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile
from profiles.models import catalogue_model
from profiles.models.schema import KvKind, KvLayer, StoredQuantization
from profiles.provenance import Figure, Provenance
from tests.footprint.build import GIB, cpu, gpu, llama


def gib(figure: Figure) -> float:
    """A figure in GiB."""
    return figure.value / GIB


@pytest.mark.parametrize(
    ("model", "activation"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1.89),
        ("codellama/CodeLlama-7b-Instruct-hf", 0.77),  # the MLP's peak, not the sampler
        ("google/gemma-2-9b-it", 3.65),
        ("ibm-granite/granite-3.3-8b-instruct", 0.85),
        ("microsoft/phi-2", 0.79),
        ("Qwen/Qwen3-30B-A3B", 2.68),
    ],
)
def test_activation_that_vllm_0_19_reported_on_h100(model: str, activation: float) -> None:
    found = estimate(catalogue_model(model), gpu(), ServingSpec(engine_version="0.19.0"))
    assert gib(found.activation) == pytest.approx(activation, abs=0.1)
    assert found.activation.provenance is Provenance.CALIBRATED
    assert "0.19" in found.activation.source


@pytest.mark.parametrize(
    ("model", "machine", "arguments", "kv"),
    [
        ("Qwen/Qwen3-32B", gpu(), {"engine_version": "0.11.0", "max_model_len": 16000}, 4.45),
        (
            "Qwen/Qwen3-32B",
            gpu(count=2),
            {"engine_version": "0.11.0", "max_model_len": 16000, "tensor_parallel_size": 2},
            34.49,
        ),
        (
            "meta-llama/Meta-Llama-3-8B-Instruct",
            gpu(79.25, name="A100", capability=(8, 0)),
            {"engine_version": "0.28.0"},
            55.11,
        ),
        (
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
            gpu(79.25, name="A100", capability=(8, 0)),
            {"engine_version": "0.28.0", "max_model_len": 8192},
            41.96,
        ),
        (
            "Qwen/Qwen3-0.6B",
            gpu(79.25, name="A100", capability=(8, 0)),
            {"engine_version": "0.10.0", "max_model_len": 4096},
            69.66,
        ),
    ],
)
def test_kv_memory_of_single_runs(
    model: str, machine: HardwareProfile, arguments: dict[str, object], kv: float
) -> None:
    spec = ServingSpec.model_validate({"gpu_memory_utilization": 0.9, **arguments})
    found = estimate(catalogue_model(model), machine, spec)
    assert found.verdict is Verdict.FITS
    assert gib(found.kv_bytes) == pytest.approx(kv, rel=0.02)
    assert found.kv_bytes.low <= kv * GIB <= found.kv_bytes.high


def test_70b_int4_on_one_a100() -> None:
    model = catalogue_model("meta-llama/Llama-3.3-70B-Instruct")
    machine = gpu(79.25, name="A100", capability=(8, 0))
    plan = uniform_formats(model, machine.device, "int4")
    spec = ServingSpec(gpu_memory_utilization=0.9, max_model_len=8192, engine_version="0.28.0")
    found = estimate(model, machine, spec, plan, "int4")
    assert gib(found.weights) == pytest.approx(37.06, rel=0.005)
    assert gib(found.kv_bytes) == pytest.approx(31.96, rel=0.02)


@pytest.mark.parametrize(
    ("model", "machine", "arguments", "family"),
    [
        (
            "meta-llama/Llama-3.1-8B-Instruct",
            gpu(23.56, name="RTX 3090", capability=(8, 6)),
            {"max_model_len": 29000, "max_num_batched_tokens": 29000, "engine_version": "0.8.0"},
            None,
        ),
        (
            "Qwen/Qwen2.5-7B-Instruct",
            gpu(7.99, name="RTX 4060", capability=(8, 9)),
            {"max_model_len": 4096, "gpu_memory_utilization": 0.7, "engine_version": "0.9.0"},
            "int4",
        ),
        ("openai/gpt-oss-120b", gpu(), {"engine_version": "0.10.0", "max_model_len": 8192}, None),
    ],
)
def test_starts_that_failed_are_not_said_to_fit(
    model: str, machine: HardwareProfile, arguments: dict[str, object], family: str | None
) -> None:
    profile = catalogue_model(model)
    plan = uniform_formats(profile, machine.device, family) if family else None
    spec = ServingSpec.model_validate({"gpu_memory_utilization": 0.9, **arguments})
    found = estimate(profile, machine, spec, plan)
    assert found.verdict is not Verdict.FITS
    assert found.refusals


def test_rtx_3090_holds_20000_tokens() -> None:
    spec = ServingSpec(
        gpu_memory_utilization=0.9, max_model_len=20000, max_num_batched_tokens=20000, engine_version="0.8.0"
    )
    model = catalogue_model("meta-llama/Llama-3.1-8B-Instruct")
    found = estimate(model, gpu(23.56, name="RTX 3090", capability=(8, 6)), spec)
    assert found.verdict is Verdict.FITS
    assert gib(found.kv_bytes) == pytest.approx(3.81, rel=0.05)


def test_the_lines_add_up_to_the_budget() -> None:
    found = estimate(llama(), gpu(), ServingSpec())
    parts = (found.weights, found.activation, found.non_torch, found.cuda_graph, found.kv_bytes)
    assert sum(p.value for p in parts) == pytest.approx(found.budget.value, abs=2)
    assert found.budget.value == math.ceil(79.19 * GIB * 0.92)
    older = estimate(llama(), gpu(), ServingSpec(engine_version="0.19.0"))
    assert older.budget.value == math.ceil(79.19 * GIB * 0.9)
    assert "CUDA graphs" not in (older.kv_bytes.formula or "")


def test_defaults_follow_the_device() -> None:
    def batch(machine: HardwareProfile) -> tuple[int | None, int | None, int | None]:
        spec = estimate(llama(), machine, ServingSpec(max_model_len=8192)).spec
        return spec.max_num_batched_tokens, spec.max_num_seqs, spec.block_size

    assert batch(gpu()) == (8192, 1024, 16)
    assert batch(gpu(name="A100")) == (2048, 256, 16)
    assert batch(gpu(178)) == (16384, 1024, 16)
    assert batch(cpu()) == (2048, 128, 128)


def test_older_samplers_sort() -> None:
    peaks = [
        gib(estimate(catalogue_model("Qwen/Qwen3-14B"), gpu(), ServingSpec(engine_version=v)).activation)
        for v in ("0.15.0", "0.16.0", "0.17.0", "0.19.0")
    ]
    assert peaks == pytest.approx([5.64, 5.64, 2.23, 2.23], abs=0.05)


def test_eager_mode_captures_no_graphs() -> None:
    assert estimate(llama(), gpu(), ServingSpec(enforce_eager=True)).cuda_graph.value == 0
    assert capture_sizes(1024) == capture_sizes(256) == 51
    assert capture_sizes(16) == 7


def test_the_tightest_stage_is_shown_and_the_first_is_noted() -> None:
    model = catalogue_model("meta-llama/Llama-3.1-8B-Instruct")
    spec = ServingSpec(
        pipeline_parallel_size=2, engine_version="0.19.0", gpu_memory_utilization=0.95, max_model_len=8192
    )
    found = estimate(model, gpu(count=2), spec)
    assert found.kv_tokens.value == pytest.approx(1_075_312, rel=0.005)
    first = predict_stages(model, gpu(count=2), spec).ranks[0]
    assert first.activation.value / GIB == pytest.approx(1.10, abs=0.1)
    assert any("stage 0" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "machine", "words"),
    [
        ({"tensor_parallel_size": 3}, gpu(count=3), "attention heads"),
        ({"tensor_parallel_size": 2}, gpu(), "2 devices are needed"),
        ({"max_model_len": 9000}, gpu(), "positions"),
        ({}, gpu(free_gib=10), "less than the budget"),
        ({"gpu_memory_utilization": 1.0}, gpu(), "less than the budget"),
        ({}, gpu(0.4), "no memory is left"),
        ({"dtype": "bfloat16"}, gpu(16, capability=(7, 5)), "bfloat16 needs"),
        ({"kv_cache_memory_bytes": 90 * GIB}, gpu(), "exceed"),
        ({"decode_context_parallel_size": 3, "tensor_parallel_size": 4}, gpu(count=4), "does not divide"),
    ],
)
def test_refusals(arguments: dict[str, object], machine: HardwareProfile, words: str) -> None:
    found = estimate(llama(), machine, ServingSpec.model_validate(arguments))
    assert found.verdict is not Verdict.FITS
    assert any(words in text for text in found.refusals), found.refusals


def test_tensor_parallelism_must_divide_the_vocabulary() -> None:
    model = llama(heads=12, kv_heads=12, hidden=768, vocab=4096)
    found = estimate(model, gpu(count=3), ServingSpec(tensor_parallel_size=3))
    assert any("vocabulary" in text for text in found.refusals)


def test_int8_is_refused_on_blackwell() -> None:
    model = llama()
    plan = uniform_formats(model, gpu().device, "int8")
    found = estimate(model, gpu(180, name="B200", capability=(10, 0)), ServingSpec(), plan)
    assert any("54311" in text for text in found.refusals)
    stored = StoredQuantization(method="compressed-tensors", label="W8A8")
    same = model.model_copy(update={"quantization": stored})
    again = estimate(same, gpu(180, name="B200", capability=(10, 0)), ServingSpec())
    assert any("54311" in text for text in again.refusals)


def test_hybrids_need_a_block_per_sequence() -> None:
    state = KvLayer(kind=KvKind.MAMBA, state_elements=30_000_000, state_bytes_per_element=2)
    full = KvLayer(kind=KvKind.FULL, kv_heads=2, head_dim=64)
    model = llama(kv_layers=(full, state, state, state))
    found = estimate(model, gpu(24), ServingSpec(max_num_seqs=512))
    assert any("max_num_seqs 512 exceeds" in text for text in found.refusals)
    fewer = estimate(model, gpu(24), ServingSpec(max_num_seqs=16))
    assert fewer.verdict is Verdict.FITS


def test_metal_has_no_engine() -> None:
    device = Device(kind=DeviceKind.METAL, name="M4", total_bytes=Figure.exact(64 * GIB, "B", "test"))
    found = estimate(llama(), HardwareProfile(devices=(device,), origin="catalogue"), ServingSpec())
    assert "llama.cpp" in found.refusals[0]
    assert found.decode_tokens_s is None
    assert any("bandwidth" in note for note in found.notes)


def test_levers_come_cheapest_first_and_say_when_they_are_enough() -> None:
    model = catalogue_model("meta-llama/Llama-3.1-8B-Instruct")
    spec = ServingSpec(
        max_model_len=65536, max_num_seqs=1024, max_num_batched_tokens=8192, engine_version="0.21.0"
    )
    found = estimate(model, gpu(23.56, name="RTX 3090", capability=(8, 6)), spec)
    assert found.verdict is Verdict.FITS_IF
    changes = [lever.change for lever in found.levers]
    assert changes[0] == "--max-num-seqs 256"
    assert found.levers[0].frees_bytes.value / GIB == pytest.approx(0.97, abs=0.1)
    assert changes.index("--kv-cache-dtype fp8") < changes.index("--enforce-eager")
    enough = {lever.change for lever in found.levers if lever.enough}
    assert enough
    shorter = next(c for c in enough if c.startswith("--max-model-len"))
    again = estimate(
        model,
        gpu(23.56, name="RTX 3090", capability=(8, 6)),
        spec.model_copy(update={"max_model_len": int(shorter.split()[1])}),
    )
    assert again.verdict is Verdict.FITS


def test_the_formula_of_a_cpu_is_the_cpus_law() -> None:
    found = estimate(llama(), cpu(), ServingSpec(max_model_len=1024)).activation
    assert "x 14.4;" in (found.formula or "") or "x 16.4;" in (found.formula or "")  # no second runner there


def test_cpu_engine_takes_the_cache_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    found = estimate(llama(), cpu(), ServingSpec(max_model_len=1024))
    assert found.kv_bytes.value == 2 * GIB
    assert found.cuda_graph.value == 0
    assert found.verdict is Verdict.FITS
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "two")
    with pytest.raises(UsageError, match="whole number"):
        estimate(llama(), cpu(), ServingSpec())
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    default = estimate(llama(), cpu(), ServingSpec())  # 0.92 of 24 GiB is more than the 20 that are free
    assert any("VLLM_CPU_KVCACHE_SPACE" in text for text in default.refusals)
    assert default.verdict is Verdict.FITS_IF


def test_drafter_lora_and_offload_are_counted() -> None:
    model = catalogue_model("meta-llama/Llama-3.1-8B-Instruct")
    plain = estimate(model, gpu(), ServingSpec())
    spec = ServingSpec(speculative_model="meta-llama/Llama-3.2-1B-Instruct", num_speculative_tokens=4)
    drafted = estimate(model, gpu(), spec)
    assert gib(drafted.weights) - gib(plain.weights) == pytest.approx(2.3, abs=0.1)
    assert drafted.kv_bytes_per_token.value > plain.kv_bytes_per_token.value
    unknown = estimate(model, gpu(), ServingSpec(speculative_model="nobody/nothing"))
    assert any("NOT counted" in note for note in unknown.notes)
    lora = estimate(model, gpu(), ServingSpec(max_loras=4, max_lora_rank=64))
    assert gib(lora.weights) > gib(plain.weights) + 0.5
    offloaded = estimate(model, gpu(), ServingSpec(cpu_offload_gb=5))
    assert gib(plain.weights) - gib(offloaded.weights) == pytest.approx(5)


def test_mixture_reads_only_the_experts_it_touches() -> None:
    dense = estimate(llama(), gpu(), ServingSpec(max_model_len=256))
    sparse = estimate(llama(experts=32), gpu(), ServingSpec(max_model_len=256))
    assert sparse.weights.value > 4 * dense.weights.value
    assert dense.itl_ms is not None
    assert sparse.itl_ms is not None
    assert sparse.itl_ms.value < 3 * dense.itl_ms.value


def test_single_stream_speed_covers_published_runs() -> None:
    model = catalogue_model("Qwen/Qwen3-8B")
    device = gpu(31.4, name="RTX 5090", capability=(12, 0)).device.model_copy(
        update={"bandwidth_bytes_s": Figure.exact(1.792e12, "B/s", "test")}
    )
    machine = HardwareProfile(devices=(device,), origin="catalogue")
    for family, measured in (("16-bit", 11.1), ("int4", 4.7)):
        plan = uniform_formats(model, device, family)
        itl = estimate(model, machine, ServingSpec(max_model_len=1024), plan).itl_ms
        assert itl is not None
        assert itl.low <= measured <= itl.high


def test_no_bandwidth_no_speed() -> None:
    found = estimate(llama(), gpu(bandwidth=False), ServingSpec())
    assert found.ttft_ms is None
    assert any("bandwidth" in note for note in found.notes)


def test_explanations_hold_the_numbers() -> None:
    text = explain(estimate(llama(), gpu(), ServingSpec(max_model_len=4096)))
    assert "8192 x 512 x 2 + 1024 x 4096 x 2.0" in text
    assert "79.19 GiB x 0.92" in text
    assert "budget - weights - activation - non-torch - CUDA graphs" in text


@pytest.mark.parametrize("version", ["", "latest", "0.7.3", "1.0.0", "0.32; rm", "0.32.banana", "9" * 400])
def test_bad_versions_are_usage_errors(version: str) -> None:
    with pytest.raises(UsageError):
        estimate(llama(), gpu(), ServingSpec(engine_version=version))


@pytest.mark.parametrize("version", ["0.8.5.post1", "v0.32.0", "0.33.1rc2", "0.32.0+cu129.g12ab", "0.35"])
def test_releases_in_and_near_the_known_range_are_taken(version: str) -> None:
    check_known(version)


def test_a_version_that_nobody_knows_must_be_taught() -> None:
    newest, near = f"{NEWEST[0]}.{NEWEST[1]}", NEWEST[1] + EXTRAPOLATED
    with pytest.raises(UsageError, match="unknown engine version") as info:
        check_known("0.99.9")
    assert (info.value.got, newest in str(info.value.allowed)) == ("0.99.9", True)
    assert f"--engine-version {newest}.0" in str(info.value.next_step)
    assert "advisor ingest LOG" in str(info.value.next_step)
    with pytest.raises(UsageError):
        check_known(f"0.{near + 1}.0")
    check_known("0.99.9", taught=[(0, 99)])
    with pytest.raises(UsageError, match=r"0\.98\.0"):
        check_known("0.99.9", taught=[(0, 98)])


def test_absurd_requests_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="parallel"):
        estimate(llama(), gpu(), ServingSpec(tensor_parallel_size=1 << 20))
    with pytest.raises(UsageError, match="parallel"):
        estimate(llama(), gpu(), ServingSpec(pipeline_parallel_size=5))
    with pytest.raises(UsageError, match="unknown format"):
        estimate(llama(), gpu(), ServingSpec(), {"model.layers.0.mlp.down_proj": "W3A5"})
    with pytest.raises(UsageError, match="family"):
        uniform_formats(llama(), gpu().device, "int7")
    with pytest.raises(UsageError, match="no tensors"):
        estimate(llama().model_copy(update={"tensors": (), "linears": ()}), gpu(), ServingSpec())


@given(
    st.builds(
        ServingSpec,
        max_model_len=st.none() | st.integers(1, 1 << 40),
        concurrency=st.integers(1, 1 << 40),
        gpu_memory_utilization=st.none() | st.floats(1e-6, 1),
        kv_cache_memory_bytes=st.none() | st.integers(0, 1 << 60),
        kv_cache_dtype=st.sampled_from(["auto", "fp8", "int8", "nvfp4"]),
        dtype=st.sampled_from(["auto", "float32"]),
        tensor_parallel_size=st.integers(1, 16),
        pipeline_parallel_size=st.integers(1, 4),
        decode_context_parallel_size=st.integers(1, 8),
        max_num_batched_tokens=st.none() | st.integers(1, 1 << 40),
        max_num_seqs=st.none() | st.integers(1, 1 << 40),
        block_size=st.none() | st.integers(1, 1 << 20),
        cpu_offload_gb=st.floats(0, 1e9),
        enable_expert_parallel=st.booleans(),
        engine_version=st.sampled_from(["0.8.5", "0.11.0", "0.19.1", "0.25.0", "0.32.0", "0.33.0", "0.40.0"]),
    ),
    st.floats(0.01, 1e6),
    st.integers(0, 3),
)
@settings(max_examples=120, deadline=None)
def test_any_request_gets_an_answer(spec: ServingSpec, total: float, kind: int) -> None:
    state = KvLayer(kind=KvKind.MAMBA, state_elements=1000, state_bytes_per_element=2)
    window = KvLayer(kind=KvKind.SLIDING, kv_heads=2, head_dim=64, window=512)
    full = KvLayer(kind=KvKind.FULL, kv_heads=2, head_dim=64)
    layers = [(full,) * 4, (full, window, window, window), (full, state, state, state), ()][kind]
    found = estimate(llama(kv_layers=layers), gpu(total), spec)
    assert found.weights.value >= 0
    assert found.kv_bytes.low <= found.kv_bytes.value <= found.kv_bytes.high
    if found.verdict is Verdict.FITS:
        assert not found.refusals
    else:
        assert found.reason


def test_a_hybrid_that_engines_reported() -> None:
    """Nemotron 3 Nano (6 attention, 23 mamba layers): a public log of 0.21 on a GB10, one of 0.13 at TP 2."""
    model = catalogue_model("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    spec = ServingSpec(engine_version="0.21.0", max_model_len=262144, kv_cache_memory_bytes=int(34.32 * GIB))
    found = estimate(model, gpu(120), spec)
    assert found.kv_tokens.value == 5_769_184
    assert found.max_concurrency.value == pytest.approx(22.01, abs=0.005)
    assert any("padded by 1 layers" in note for note in found.notes)

    older = ServingSpec(
        engine_version="0.13.0", max_model_len=131072, tensor_parallel_size=2, kv_cache_dtype="fp8",
        kv_cache_memory_bytes=222 * 6_426_000,
    )  # fmt: skip
    two = estimate(model, gpu(80, count=2), older)
    assert two.kv_tokens.value == 183_744
    assert two.max_concurrency.value == pytest.approx(6.17, abs=0.005)


@pytest.mark.parametrize(
    ("model", "block", "tokens", "concurrency", "spec"),
    [
        (
            "Qwen/Qwen3.6-35B-A3B", 2096, 567_978, 4.33,
            {"engine_version": "0.24.0", "kv_cache_dtype": "fp8", "max_model_len": 131072,
             "kv_cache_memory_bytes": int(5.98 * GIB), "enable_prefix_caching": True},
        ),
        (
            "Qwen/Qwen3.5-27B", 784, 290_864, 33.04,
            {"engine_version": "0.19.0", "max_model_len": 32768, "kv_cache_memory_bytes": 1487 * 51_380_224},
        ),
    ],
)  # fmt: skip
def test_linear_attention_that_engines_reported(
    model: str, block: int, tokens: int, concurrency: float, spec: dict[str, object]
) -> None:
    """Public logs: an RTX 5090 with prefix caching, and an H20 (vLLM issue 40691)."""
    known, asked = catalogue_model(model), ServingSpec.model_validate(spec)
    assert predict_stages(known, gpu(140), asked).cache.block == block
    found = estimate(known, gpu(140), asked)
    assert found.kv_tokens.value == tokens
    assert found.max_concurrency.value == pytest.approx(concurrency, abs=0.005)


def test_a_model_of_windows_and_experts_that_no_law_was_fitted_on() -> None:
    """Gemma 4 26B-A4B on an A100, eager: 48.5 GiB of weights, 21.5 GiB for the cache (0.19, public)."""
    spec = ServingSpec(
        engine_version="0.19.0", gpu_memory_utilization=0.9, max_model_len=131072, enforce_eager=True
    )
    found = estimate(
        catalogue_model("google/gemma-4-26B-A4B"), gpu(79.25, name="A100", capability=(8, 0)), spec
    )
    assert gib(found.weights) == pytest.approx(48.5, rel=0.005)
    assert gib(found.kv_bytes) == pytest.approx(21.5, rel=0.01)


def test_a_dense_model_in_a_newer_engine() -> None:
    """Llama-3.1-8B on an A100, 0.31, public: KV 56.21 GiB, 460,496 tokens, 3.51 requests."""
    spec = ServingSpec(engine_version="0.31.0", max_model_len=131072)
    found = estimate(
        catalogue_model("meta-llama/Llama-3.1-8B-Instruct"), gpu(79.25, name="A100", capability=(8, 0)), spec
    )
    assert gib(found.kv_bytes) == pytest.approx(56.21, rel=0.01)
    assert found.kv_tokens.value == pytest.approx(460_496, rel=0.01)
    assert found.max_concurrency.value == pytest.approx(3.51, abs=0.03)
