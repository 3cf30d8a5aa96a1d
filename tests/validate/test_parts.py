"""Windows, degenerate text, dtypes, arguments, log causes, served bytes."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.errors import AdvisorError, RunFailed, UsageError
from profiles.footprint.schema import ServingSpec
from profiles.hardware.schema import DeviceKind
from tests.validate.examples import cpu_device, cuda_device, model, plan, units
from tuners.engine.arguments import base_environment, engine_arguments, measuring_environment
from tuners.engine.dtype import recommended_dtype
from tuners.plan import PrecisionPlan
from tuners.validate.generations import is_degenerate, more_by_chance
from tuners.validate.measure import MeasureSpec
from tuners.validate.run import last_causes, measure_checkpoint
from tuners.validate.served import served_weights_bytes, unit_served_bytes
from tuners.validate.windows import MIN_WINDOW, cut_windows, windows_key


def _encode(text: str) -> list[int]:
    return [ord(c) for c in text]


@given(
    st.lists(st.text(min_size=0, max_size=300), min_size=1, max_size=6),
    st.integers(MIN_WINDOW, 200),
    st.integers(MIN_WINDOW, 64),
)
def test_windows_stay_within_their_text_and_the_token_budget(
    texts: list[str], eval_tokens: int, seq_len: int
) -> None:
    if all(len(t) < MIN_WINDOW for t in texts):
        with pytest.raises(UsageError):
            cut_windows(texts, _encode, eval_tokens=eval_tokens, seq_len=seq_len)
        return
    windows = cut_windows(texts, _encode, eval_tokens=eval_tokens, seq_len=seq_len)

    assert sum(len(w) - 1 for w in windows) <= eval_tokens
    assert all(2 <= len(w) <= seq_len for w in windows)
    assert all(any("".join(map(chr, w)) in t for t in texts) for w in windows)


def test_enough_text_gives_exactly_the_tokens_asked_for() -> None:
    windows = cut_windows(["x" * 5000], _encode, eval_tokens=2048, seq_len=512)

    assert sum(len(w) - 1 for w in windows) == 2048


def test_the_key_depends_on_where_windows_end() -> None:
    assert windows_key([[1, 2], [3]]) != windows_key([[1], [2, 3]])
    assert windows_key([[1, 2]]) == windows_key([(1, 2)])


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("", True),
        ("  \n !!! ...", True),
        ("a b c " * 30, True),
        ("!" * 200, True),
        ("ha" * 3, False),
        ("Paris.", False),
        ("A prime number is a positive integer that is divisible only by itself and 1.", False),
    ],
)
def test_degenerate_text(text: str, broken: bool) -> None:
    assert is_degenerate(text) is broken


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        (cuda_device((7, 5)), "float16"),
        (cuda_device((8, 0)), "bfloat16"),
        (cuda_device((9, 0)), "bfloat16"),
        (cpu_device(("avx2",)), "float32"),
        (cpu_device(("avx2", "avx512f", "avx512_vnni")), "float32"),
        (cpu_device(("avx2", "avx512f", "avx512_bf16")), "bfloat16"),
        (cpu_device(("amx_bf16",)), "bfloat16"),
        (cpu_device().model_copy(update={"kind": DeviceKind.ROCM}), "bfloat16"),
    ],
)
def test_recommended_dtype(device: object, dtype: str) -> None:
    found, reason = recommended_dtype(device)  # type: ignore[arg-type]

    assert (found, bool(reason)) == (dtype, True)


def test_arguments_name_only_what_differs_from_the_engine() -> None:
    assert engine_arguments(ServingSpec(), on_cpu=False) == {}
    spec = ServingSpec(tensor_parallel_size=2, gpu_memory_utilization=0.8, kv_cache_dtype="fp8")
    assert engine_arguments(spec, on_cpu=False) == {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.8,
        "kv_cache_dtype": "fp8",
    }


def test_on_the_cpu_the_cache_is_bounded_and_nothing_is_compiled() -> None:
    found = engine_arguments(ServingSpec(gpu_memory_utilization=0.9), on_cpu=True)
    assert found == {"enforce_eager": True, "kv_cache_memory_bytes": 512 * 2**20}
    asked = engine_arguments(ServingSpec(kv_cache_memory_bytes=7), on_cpu=True)
    assert asked["kv_cache_memory_bytes"] == 7


def test_nothing_is_reported_and_local_models_stay_offline(tmp_path: Path) -> None:
    local, hub = base_environment(str(tmp_path)), base_environment("org/name")

    assert local["DO_NOT_TRACK"] == hub["DO_NOT_TRACK"] == local["VLLM_NO_USAGE_STATS"] == "1"
    assert ("HF_HUB_OFFLINE" in local, "HF_HUB_OFFLINE" in hub) == (True, False)


def test_only_a_single_rank_runs_inside_the_measuring_process() -> None:
    one = measuring_environment(ServingSpec(), "m", on_cpu=False)
    two = measuring_environment(ServingSpec(tensor_parallel_size=2), "m", on_cpu=False)

    assert one["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in two


@pytest.mark.parametrize(("inputs", "switch"), [(None, "0"), ({"num_bits": 8, "type": "int"}, "1")])
def test_int4_layers_get_the_activations_of_their_format_on_the_cpu(
    tmp_path: Path, inputs: dict[str, object] | None, switch: str
) -> None:
    group = {"weights": {"type": "int", "num_bits": 4}, "input_activations": inputs}
    config = {"quantization_config": {"config_groups": {"int4": group}}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    env = measuring_environment(ServingSpec(), str(tmp_path), on_cpu=True)
    assert env["VLLM_CPU_INT4_W4A8"] == switch
    assert "VLLM_CPU_INT4_W4A8" not in measuring_environment(ServingSpec(), "org/name", on_cpu=True)


def test_causes_are_the_last_distinct_errors_of_a_log() -> None:
    log = """
INFO 01-01 00:00:00 [x.py:1] fine
(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:9] ValueError: To serve at least one request, 4 GiB
(EngineCore pid=7) ERROR 01-01 00:00:00 [core.py:9] ValueError: To serve at least one request, 4 GiB
(Worker pid=8) INFO 01-01 00:00:01 [y.py:2] shutting down
RuntimeError: Engine core initialization failed
"""
    assert last_causes(log) == [
        "ValueError: To serve at least one request, 4 GiB",
        "RuntimeError: Engine core initialization failed",
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_child_without_an_engine_says_so_and_names_the_log(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'torch.OutOfMemoryError: CUDA out of memory, 3 GiB asked'\nexit 9\n")
    script.chmod(0o755)
    log = tmp_path / "engine.log"

    with pytest.raises(RunFailed) as caught:
        measure_checkpoint(MeasureSpec(checkpoint="m"), emit=lambda _: None, log_path=log, python=str(script))
    assert "out of memory, 3 GiB asked" in str(caught.value)
    assert str(log) in str(caught.value)
    assert isinstance(caught.value, AdvisorError)
    del caught
    gc.collect()


def test_served_bytes_by_hand() -> None:
    qkv, o, gate_up, down = units()
    # INT8: a byte per weight and a float32 scale per output
    assert unit_served_bytes(qkv, "W8A8", "bfloat16") == 128 * 64 + 128 * 4
    assert unit_served_bytes(o, "FP8_DYNAMIC", "float32") == 64 * 64 + 64 * 4
    # INT4: half a byte, a scale per 32 inputs in the serving dtype, one shape for the fused layer
    assert unit_served_bytes(gate_up, "W4A16_G32", "bfloat16") == 256 * 32 + 256 * 2 * 2 + 16
    assert unit_served_bytes(gate_up, "W4A16_G32", "float32") == 256 * 32 + 256 * 2 * 4 + 16
    assert unit_served_bytes(down, "BF16", "float32") == 64 * 128 * 4


def test_the_rest_is_served_in_the_engine_dtype_with_a_padded_vocabulary() -> None:
    all16 = PrecisionPlan(formats={u.name: "BF16" for u in units()})
    linears = sum(u.numel for u in units())

    assert served_weights_bytes(model(), all16, units(), "bfloat16") == (linears + 128 * 64 + 64) * 2
    assert served_weights_bytes(model(), all16, units(), "float32") == (linears + 128 * 64 + 64) * 4


def test_fewer_bits_never_weigh_more() -> None:
    all16 = PrecisionPlan(formats={u.name: "BF16" for u in units()})

    for dtype in ("bfloat16", "float32"):
        assert served_weights_bytes(model(), plan(), units(), dtype) < served_weights_bytes(
            model(), all16, units(), dtype
        )


@pytest.mark.parametrize(
    ("before", "after", "count"), [(0, 1, 6), (0, 3, 6), (2, 5, 8), (1, 1, 1), (0, 0, 4)]
)
def test_chance_of_more_loops_is_fishers_exact_test(before: int, after: int, count: int) -> None:
    from scipy.stats import fisher_exact

    table = [[after, count - after], [before, count - before]]
    assert more_by_chance(before, after, count) == pytest.approx(
        fisher_exact(table, alternative="greater").pvalue
    )
