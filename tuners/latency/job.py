"""The child that times layers with the engine's own kernels: vLLM builds them, vLLM runs them.

A layer is a `ReplicatedLinear` of the rank's shape with the compressed-tensors scheme of the format, so
vLLM's own selection picks the kernel (Marlin, Machete, CUTLASS; oneDNN and CPUWNA16 on CPUs), as when it
serves. Weights are random: no kernel's time depends on them. On an H100 (vLLM 0.26, docs/gpu.md) BF16, INT4
and INT8 layers were timed so; FP8's not yet.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from profiles.footprint.schema import ServingSpec
from profiles.formats import Strategy, get_format
from profiles.formats.kernels import cpu_environment
from profiles.provenance import Provenance
from tuners.child import child_main
from tuners.engine.arguments import measuring_environment
from tuners.events import Emit, Ticker
from tuners.latency.schema import TOKENS, KernelTimes, KernelTimesSpec, LayerTime, Shape, Spread
from tuners.quantize.groups import scheme_of, storage_format

VERSION = 2
MAX_CALLS, MIN_CALLS = 25, 3
"""Timed calls of one (layer, tokens): as many as its share of the time allows."""
SWEPT_TOKENS = 64
"""Up to so many rows a layer's time is that of reading its weights: from where they really lie."""
LONGEST_CALL_MS = 1500.0
"""A call expected to take longer is not made: its time is that of fewer rows, times the rows."""
TWIN_BYTES = 256 << 20
"""Larger layers need no twin: they do not stay in any cache themselves."""
SLOW_MACS_S = 1e8
"""Below this rate even one row is arithmetic, not reading (PyTorch's FP8 matmul on CPUs: 6e6)."""
GROWTH_SPREAD = 0.3
"""Relative: time per row still falls so far where it was extrapolated."""
BUSY_SHARE = 0.5
QUEUED_CYCLES = 1_000_000
"""About half a millisecond of a GPU: longer than Python needs to queue the kernels of one layer."""


def run(spec: KernelTimesSpec, emit: Emit) -> KernelTimes:
    """Time every layer asked for; one that cannot be built is noted, not an error."""
    for name, value in measuring_environment(ServingSpec(), "", on_cpu=not _sees_gpu()).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import torch
    import vllm
    from vllm.platforms import current_platform
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    place = "cpu" if current_platform.is_cpu() else "cuda"
    clock = Clock(place, spec.swept_bytes)
    failed: dict[str, str] = {}
    notes = busy()
    times: list[LayerTime] = []
    ticker = Ticker(emit, "latency", len(spec.wanted))
    share_s = spec.seconds / max(1, len(spec.wanted))
    with _engine(spec.dtype, place):
        for done, (shape, fmt) in enumerate(spec.wanted, 1):
            try:
                os.environ.update(cpu_environment([fmt]))  # read by vLLM when it prepares the layer
                times.append(_timed(Shape(*shape), fmt, spec.dtype, place, clock, share_s))
            except Exception as exc:  # whatever a kernel of this build raises for this shape
                text = str(exc).strip().splitlines()
                failed[key_of(Shape(*shape), fmt)] = f"{type(exc).__name__}: {text[0] if text else ''}"[:300]
            ticker(done, f"{shape[0]} x {shape[1]}, {fmt}")
    return KernelTimes(
        version=VERSION,
        device="",
        engine=str(vllm.__version__),
        dtype=spec.dtype,
        threads=torch.get_num_threads(),
        swept_bytes=spec.swept_bytes,
        taken_at=time.time(),
        times=tuple(times),
        failed=failed,
        notes=tuple(notes),
    )


def key_of(shape: Shape, fmt: str) -> str:
    """A (shape, format) as a word."""
    return f"{shape.in_features}x{shape.out_features} {fmt}"


def _sees_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def busy() -> list[str]:
    """A note when other work shares the cores: times are then too long."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load <= cores * BUSY_SHARE + 1:  # one of it is this process itself
        return []
    return [f"the machine was busy while layers were timed (load {load:.1f} on {cores} cores)"]


@contextlib.contextmanager
def _engine(dtype: str, place: str) -> Iterator[None]:
    """What vLLM's layers ask of their surroundings: a configuration, and groups of one rank."""
    import torch
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import (
        cleanup_dist_env_and_memory,
        ensure_model_parallel_initialized,
        init_distributed_environment,
    )

    config = VllmConfig()
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(config):
        init_distributed_environment(
            world_size=1,
            rank=0,
            distributed_init_method=f"file://{folder}/store",
            local_rank=0,
            backend="gloo" if place == "cpu" else "nccl",
        )
        ensure_model_parallel_initialized(1, 1)
        # schemes ask the model's configuration for its dtype, DeepGEMM for its type; a real one costs a
        # process start
        config.model_config = SimpleNamespace(
            dtype=getattr(torch, dtype), is_moe=False, hf_text_config=SimpleNamespace(model_type="llama")
        )
        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))  # FP8 schemes' output, set so in the engine
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_default_dtype(before)
            cleanup_dist_env_and_memory()


def build_layer(shape: Shape, format_name: str, dtype: str, place: str) -> Any:
    """A layer of vLLM with random weights, ready to run."""
    import torch
    from vllm.model_executor.layers.linear import ReplicatedLinear
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
        CompressedTensorsConfig,
    )

    fmt = get_format(format_name)
    quantization = None
    if fmt.strategy is not Strategy.NONE:
        stored = storage_format(fmt)
        group = {"targets": ["Linear"], **scheme_of(fmt), "format": stored}
        quantization = CompressedTensorsConfig.from_config(
            {
                "quant_method": "compressed-tensors",
                "format": stored,
                "config_groups": {"group_0": group},
                "ignore": [],
            }
        )
    with torch.device(place):
        layer = ReplicatedLinear(
            shape.in_features,
            shape.out_features,
            bias=False,
            params_dtype=getattr(torch, dtype),
            quant_config=quantization,
            prefix="model.layers.0.timed",
            return_bias=False,
        )
    generator = torch.Generator(device=place).manual_seed(0)
    for name, parameter in layer.named_parameters():
        _fill(name, parameter.data, shape, generator)
    layer.quant_method.process_weights_after_loading(layer)
    return layer


def _fill(name: str, data: Any, shape: Shape, generator: Any) -> None:
    import torch

    if name == "weight_shape":
        data.copy_(torch.tensor([shape.out_features, shape.in_features]))
    elif "scale" in name and data.is_floating_point() and data.element_size() > 1:
        data.fill_(0.01)
    elif data.dtype in (torch.int32, torch.int8, torch.uint8):
        bounds = torch.iinfo(data.dtype)
        data.random_(bounds.min, bounds.max, generator=generator)
    elif data.element_size() == 1:  # float8: through a type that random numbers exist for
        data.copy_(torch.randn(data.shape, generator=generator, device=data.device).to(data.dtype))
    else:
        data.normal_(0, 0.02, generator=generator)


def _timed(shape: Shape, fmt: str, dtype: str, place: str, clock: Clock, seconds: float) -> LayerTime:
    import torch

    layer = build_layer(shape, fmt, dtype, place)
    large = 2 * shape.in_features * shape.out_features > TWIN_BYTES
    twin = layer if large else build_layer(shape, fmt, dtype, place)
    spreads: list[Spread] = []
    for before, tokens in zip((1, *TOKENS), TOKENS, strict=False):
        grown = tokens / before * spreads[-1].value if spreads else 0.0
        if grown > LONGEST_CALL_MS and (before >= 16 or _is_computing(shape, before, spreads[-1])):
            spreads.append(Spread(grown, grown * (1 - GROWTH_SPREAD), grown))
            continue
        x = torch.randn(tokens, shape.in_features, device=place).to(getattr(torch, dtype))

        def call(which: Any, x: Any = x) -> None:
            which(x)

        first = functools.partial(call, twin) if tokens <= SWEPT_TOKENS else None
        spreads.append(clock.spread(functools.partial(call, layer), seconds / len(TOKENS), first))
    return LayerTime(
        shape=shape,
        format=fmt,
        ms=tuple(spreads),
        kernel=_kernel(layer),
        provenance=Provenance.MEASURED,
    )


def _is_computing(shape: Shape, tokens: int, took: Spread) -> bool:
    return shape.in_features * shape.out_features * tokens / (took.value / 1e3) < SLOW_MACS_S


def _kernel(layer: Any) -> str:
    from tuners.engine.probe import kernel_of

    return kernel_of(getattr(layer, "scheme", None), layer.quant_method)


class Clock:
    """Times calls. Between two of them as many bytes pass through the caches as the model has weights, then a
    twin of the layer runs: the weights are cold, the code is not, as when the engine goes through layers.
    One thread's own time is taken, which other processes do not lengthen; of several the wall clock's."""

    def __init__(self, place: str, swept_bytes: int) -> None:
        import torch

        self.place = place
        # written, not zeros: untouched pages are one page of zeros, which stays in the smallest cache
        self.swept = torch.ones(max(1, swept_bytes // 4), dtype=torch.int32, device=place)
        self.now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def spread(self, job: Callable[[], None], seconds: float, twin: Callable[[], None] | None) -> Spread:
        """Lower quartile, least and upper quartile of repeated calls, in ms: few of long ones, `MAX_CALLS` of
        short ones. Whatever else runs only adds: low values are the layer's own (as `timeit` advises).
        Without a twin caches are left as they are."""
        end = time.perf_counter() + seconds
        first = self._once(job)  # compiled, packed, touched
        least = MIN_CALLS if first * MIN_CALLS < 4e3 * seconds else 2
        times: list[float] = []
        while len(times) < least or (time.perf_counter() < end and len(times) < MAX_CALLS):
            if twin is not None:
                self.swept.sum()
                twin()
            times.append(self._once(job))
        value, _, high = statistics.quantiles(times, n=4, method="inclusive")
        return Spread(value, min(times), high)

    def _once(self, job: Callable[[], None]) -> float:
        if self.place == "cpu":
            start = self.now()
            job()
            return 1e3 * (self.now() - start)
        import torch

        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(QUEUED_CYCLES)  # the GPU waits for the whole call: Python's share is not timed,
        first.record()  # as in the engine, which replays CUDA graphs
        job()
        last.record()
        torch.cuda.synchronize()
        return float(first.elapsed_time(last))


if __name__ == "__main__":
    child_main(KernelTimesSpec, run)
