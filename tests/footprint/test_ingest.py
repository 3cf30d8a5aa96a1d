"""Boot logs of several versions, garbage and malice, and what is learned from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import AdvisorError, UsageError
from profiles.footprint import Residuals, ServingSpec, compare, estimate, parse_boot_log, read_boot_log
from profiles.footprint.residuals import residuals_path
from tests.footprint.build import GIB, gpu, llama

V0_8 = """INFO 03-30 10:11:12 [api_server.py:981] vLLM API server version 0.8.2
INFO 03-30 10:11:20 [core.py:53] Initializing a V1 LLM engine (v0.8.2) with config: model='google/gemma-3', \
speculative_config=None, dtype=torch.bfloat16, max_seq_len=8192, tensor_parallel_size=4, \
pipeline_parallel_size=1, enforce_eager=False, kv_cache_dtype=auto
INFO 03-30 10:12:01 [gpu_model_runner.py:1174] Model loading took 13.1665 GB and 20.8 seconds
INFO 03-30 10:12:40 [kv_cache_utils.py:537] GPU KV cache size: 403,792 tokens
INFO 03-30 10:12:40 [kv_cache_utils.py:540] Maximum concurrency for 8,192 tokens per request: 49.29x
INFO 03-30 10:13:05 [gpu_model_runner.py:1499] Graph capturing finished in 25 secs, took 1.32 GiB
"""
V0 = """INFO worker.py:267] the current vLLM instance can use total_gpu_memory (23.58GiB) x \
gpu_memory_utilization (0.90) = 21.22GiB
INFO worker.py:267] model weights take 14.99GiB; non_torch_memory takes 0.35GiB; PyTorch activation peak \
memory takes 2.06GiB; the rest of the memory reserved for KV Cache is 3.81GiB.
INFO executor_base.py:111] # cuda blocks: 1952, # CPU blocks: 2048
INFO executor_base.py:116] Maximum concurrency for 20000 tokens per request: 1.56x
"""
V0_32 = """(EngineCore pid=1) INFO 11-23 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: \
model='m', dtype=torch.float32, max_seq_len=1024, tensor_parallel_size=1, enforce_eager=True
(Worker pid=2) INFO [cpu_worker.py:260] Explicitly set (1.0/9.09) GiB for KV cache on node 0.
(EngineCore pid=1) INFO [kv_cache_utils.py:2327] CPU KV cache size: 23,296 tokens, Maximum concurrency for \
1,024 tokens per request: 22.75x
"""
V0_10 = """(APIServer pid=1) INFO [utils.py:299]  ▀▀  █ █ ▀▄▀ █ version 0.10.2
(APIServer pid=1) INFO [utils.py:233] non-default args: {'model_tag': 'org/m', 'model': 'org/m', \
'max_model_len': 4096, 'gpu_memory_utilization': 0.85, 'max_num_seqs': 6}
(Worker pid=2) INFO [gpu_model_runner.py:1] Model loading took 14.08 GiB and 20.8 seconds
(Worker pid=2) INFO [gpu_worker.py:391] Free memory on device (78.66/79.19 GiB) on startup. Desired \
GPU memory utilization is (0.85, 67.31 GiB). Actual usage is 14.08 GiB for weight, 1.97 GiB for \
peak activation, 0.07 GiB for non-torch memory, and 0.67 GiB for CUDAGraph memory. Replace \
gpu_memory_utilization config with `--kv-cache-memory=58333988249` to fit into requested memory. \
Current kv cache memory in use is 54957621248 bytes.
"""
V0_31 = """(EngineCore pid=1) INFO [core.py:1] Initializing a V1 LLM engine (v0.31.0) with config: \
model='org/m', max_seq_len=131072
(EngineCore pid=1) INFO [model_runner.py:407] Model loading took 15.0 GiB memory and 5.42 seconds
(EngineCore pid=1) INFO [kv_cache_utils.py:2464] GPU KV cache size: 460,496 tokens, Maximum \
concurrency for 131,072 tokens per request: 3.51x
(EngineCore pid=1) INFO [gpu_worker.py:793] CUDA graph pool memory: 0.23 GiB (actual), 0.91 GiB \
(estimated), difference: 0.68 GiB (74.7%).
(EngineCore pid=1) INFO [gpu_worker.py:955] Free memory on device (78.84/79.25 GiB) on startup. \
Desired GPU memory utilization is (0.92, 72.91 GiB). Actual usage is 15.26 GiB for consumed memory \
(weights + non-torch), 1.44 GiB for peak activation, and 0.23 GiB for CUDAGraph memory.
(EngineCore pid=1) INFO [gpu_worker.py:692] Available KV cache memory: 56.21 GiB
"""
MODEL = llama(hidden=1024, vocab=32000, layers=16)
SPEC = ServingSpec(max_model_len=8192, engine_version="0.19.0")


def log_of(weights: float, kv: float, graph: float = 1.0, version: str = "0.19.0") -> str:
    """A log in the words of vLLM 0.19."""
    return (
        f"INFO [core.py:1] Initializing a V1 LLM engine (v{version}) with config: model='m', "
        "max_seq_len=8192\n"
        f"INFO [runner.py:1] Model loading took {weights:.6f} GiB memory and 3.5 seconds\n"
        f"INFO [gpu_worker.py:1] Available KV cache memory: {kv:.6f} GiB\n"
        f"INFO [gpu_model_runner.py:1] Graph capturing finished in 9 secs, took {graph:.2f} GiB\n"
    )


def test_a_log_of_0_8() -> None:
    log = parse_boot_log(V0_8)
    assert (log.engine_version, log.tensor_parallel_size, log.max_model_len) == ("0.8.2", 4, 8192)
    assert log.weights == pytest.approx(13.1665 * GIB)
    assert (log.kv_tokens, log.max_concurrency) == (403_792, 49.29)
    assert log.graph_actual == pytest.approx(1.32 * GIB)
    assert (log.dtype, log.failure, log.enforce_eager) == ("bfloat16", None, False)


def test_a_log_of_the_older_engine() -> None:
    log = parse_boot_log(V0)
    assert log.total_bytes == pytest.approx(23.58 * GIB)
    assert log.gpu_memory_utilization == 0.9
    assert [round((x or 0) / GIB, 2) for x in (log.weights, log.non_torch, log.activation, log.kv_bytes)] == [
        14.99, 0.35, 2.06, 3.81,
    ]  # fmt: skip
    assert log.kv_blocks == 1952


def test_a_log_of_0_10_names_every_part() -> None:
    log = parse_boot_log(V0_10)
    assert (log.engine_version, log.model, log.gpu_memory_utilization) == ("0.10.2", "org/m", 0.85)
    assert (log.max_num_seqs, log.max_model_len, log.arguments_listed) == (6, None, True)
    found = (log.total_bytes, log.weights, log.activation, log.non_torch, log.graph_actual, log.kv_bytes)
    assert [round((x or 0) / GIB, 2) for x in found] == [79.19, 14.08, 1.97, 0.07, 0.67, 51.18]


def test_a_log_of_0_31_whose_peak_holds_the_graphs_estimate() -> None:
    log = parse_boot_log(V0_31)
    assert (log.engine_version, log.gpu_memory_utilization, log.kv_tokens) == ("0.31.0", 0.92, 460_496)
    found = (
        log.total_bytes,
        log.weights,
        log.activation,
        log.non_torch,
        log.graph_estimate,
        log.graph_actual,
    )
    assert [round((x or 0) / GIB, 2) for x in found] == [79.25, 15.0, 0.53, 0.26, 0.91, 0.23]


def test_a_cache_that_was_asked_for_teaches_no_overhead() -> None:
    log = parse_boot_log(
        "INFO Model loading took 1.0 GiB memory\nINFO Initial free memory 78.1 GiB, reserved 2.0 GiB "
        "memory for KV Cache as specified by kv_cache_memory_bytes config and skipped memory profiling."
    )
    assert (log.kv_given, log.kv_bytes) == (2 * GIB, 2 * GIB)


def test_a_cpu_log_of_0_32() -> None:
    log = parse_boot_log(V0_32)
    assert (log.kv_tokens, log.max_concurrency, log.kv_bytes) == (23296, 22.75, GIB)
    assert log.enforce_eager


def test_the_tightest_worker_counts() -> None:
    log = parse_boot_log(log_of(1.0, 50) + log_of(1.5, 49.5))
    assert log.weights == 1.5 * GIB
    assert log.kv_bytes == 49.5 * GIB


def test_a_failed_start_is_a_log_too() -> None:
    log = parse_boot_log("ValueError: No available memory for the cache blocks. Try increasing ...")
    assert log.failure == "No available memory for the cache blocks"


def test_predicted_against_measured() -> None:
    predicted = estimate(MODEL, gpu(), SPEC)
    measured = log_of(predicted.weights.value / GIB, predicted.kv_bytes.value / GIB - 0.05)
    lines = {c.line: c for c in compare(parse_boot_log(measured), predicted)}
    assert set(lines) == {"weights", "cuda_graph", "kv_bytes"}
    assert lines["weights"].error == pytest.approx(0, abs=1e4)
    assert lines["weights"].within
    assert lines["kv_bytes"].error == pytest.approx(0.05 * GIB, rel=1e-3)
    assert lines["kv_bytes"].within


def test_a_log_corrects_the_next_prediction_and_says_so(tmp_path: Path) -> None:
    predicted = estimate(MODEL, gpu(), SPEC)
    real = predicted.kv_bytes.value / GIB - 0.7
    log = parse_boot_log(log_of(predicted.weights.value / GIB, real, 1.5))
    learned = Residuals().learned(log, predicted, MODEL.architecture)
    path = learned.save(tmp_path / "deep" / "residuals.json")
    again = estimate(MODEL, gpu(), SPEC, residuals=Residuals.load(path))
    assert again.kv_bytes.value / GIB == pytest.approx(real, abs=0.001)
    assert again.cuda_graph.value / GIB == pytest.approx(1.5, abs=0.01)
    assert "1 boot log" in again.kv_bytes.source
    other = estimate(MODEL, gpu(name="A100"), SPEC, residuals=learned)
    assert "boot log" not in other.kv_bytes.source
    newer = SPEC.model_copy(update={"engine_version": "0.25.0"})
    assert "boot log" not in estimate(MODEL, gpu(), newer, residuals=learned).kv_bytes.source


def test_residuals_average_over_logs() -> None:
    predicted = estimate(MODEL, gpu(), SPEC)
    residuals = Residuals()
    for shift in (0.2, 0.6):
        text = log_of(predicted.weights.value / GIB, predicted.kv_bytes.value / GIB - shift)
        residuals = residuals.learned(parse_boot_log(text), predicted, MODEL.architecture)
    (bucket,) = residuals.buckets.values()
    assert bucket.count == 2
    assert bucket.activation / GIB == pytest.approx(0.4, abs=0.001)


@pytest.mark.parametrize(("difference", "learned"), [(9 / 1024, False), (0.05, True)])
def test_a_few_megabytes_of_weights_teach_nothing(difference: float, learned: bool) -> None:
    predicted = estimate(MODEL, gpu(), SPEC)
    weights = predicted.weights.value / GIB
    log = parse_boot_log(log_of(weights + difference, predicted.kv_bytes.value / GIB))
    (bucket,) = Residuals().learned(log, predicted, MODEL.architecture).buckets.values()
    assert bucket.weights == pytest.approx(difference / weights if learned else 0.0, rel=1e-3)


def test_another_models_log_is_refused() -> None:
    predicted = estimate(MODEL, gpu(), SPEC)
    with pytest.raises(UsageError, match="not this model's"):
        Residuals().learned(parse_boot_log(log_of(90, 1)), predicted, MODEL.architecture)
    with pytest.raises(UsageError, match="no memory line"):
        Residuals().learned(parse_boot_log("# GPU blocks: 12"), predicted, MODEL.architecture)


def test_residuals_live_in_the_users_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert residuals_path().name == "residuals.json"
    assert Residuals.load(tmp_path / "none.json") == Residuals()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"buckets": {"x": {"count": 1e99}}}', b"\xff\xfe", b'{"buckets": 3}']
)
def test_broken_residuals_are_usage_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "residuals.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not readable"):
        Residuals.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00" * 5000,
        "hello world",
        "Model loading took 999999999999999 GiB memory",
        "GPU KV cache size: 999999999999999,999,999 tokens",
        "Model loading took nan GiB memory",
        "Available KV cache memory: inf GiB",
        "gpu_memory_utilization (7) Model loading took 1 GiB",
    ],
)
def test_garbage_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_boot_log(text)


def test_files_that_are_not_logs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_boot_log(tmp_path / "missing.log")
    with pytest.raises(UsageError, match="cannot read"):
        read_boot_log(tmp_path)
    path = tmp_path / "binary.log"
    path.write_bytes(b"\xff\x00\xfe Available KV cache memory: 2.5 GiB \xff")
    assert read_boot_log(path).kv_bytes == 2.5 * GIB


PIECES = [
    "Model loading took ", " GiB memory and ", "Available KV cache memory: ", "GPU KV cache size: ",
    "Maximum concurrency for ", " tokens per request: ", "x", "1" * 30, "-5", "1,,,2", "9.9.9", "e308",
    "(v0.", ") with config: model='", "'" * 400, "tensor_parallel_size=", "gpu_memory_utilization (",
    "\n", " tokens", "\x1b[31m",
]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20)), max_size=60).map("".join))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_log_or_a_clear_error(text: str) -> None:
    try:
        log = parse_boot_log(text)
        predicted = estimate(MODEL, gpu(), SPEC)
        compare(log, predicted)
        Residuals().learned(log, predicted, "x")
    except AdvisorError:
        return
    assert log.weights is None or log.weights > 0


def test_long_lines_do_not_hang() -> None:
    for piece in ("1,", "9", "Maximum concurrency for ", "gpu_memory_utilization ("):
        with pytest.raises(UsageError):
            parse_boot_log(piece * 200_000)
