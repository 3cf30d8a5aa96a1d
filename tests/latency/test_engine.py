"""vLLM's own kernels, timed for real: one short run of the child."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.footprint.schema import ServingSpec
from profiles.formats import get_format
from profiles.formats.kernels import kernel_support
from profiles.hardware import probe_cpu
from profiles.provenance import Provenance
from tuners.child import run_child
from tuners.engine.dtype import recommended_dtype
from tuners.events import Event
from tuners.latency.schema import TOKENS, KernelTimes, KernelTimesSpec, Shape

pytestmark = pytest.mark.engine


def test_every_format_of_a_small_layer_is_timed_on_the_kernel_that_was_planned(tmp_path: Path) -> None:
    device = probe_cpu().device
    shape, odd = Shape(256, 512), Shape(100, 96)
    formats = ("BF16", "W8A8", "W4A16_G64", "W4A16_G128", "FP8_DYNAMIC")
    planned = {f: kernel_support(get_format(f), device, 512, 256) for f in formats}
    spec = KernelTimesSpec(
        wanted=(*((shape, f) for f in formats if planned[f].runs), (odd, "W4A16_G64")),
        dtype=recommended_dtype(device)[0],
        swept_bytes=1 << 24,
        seconds=2.0,
    )
    events: list[Event] = []
    found = KernelTimes.model_validate(
        run_child("tuners.latency.job", spec, emit=events.append, log_path=tmp_path / "log", stage="latency")
    )
    assert {t.format: t.kernel for t in found.times} == {
        f: found.times[i].kernel if f == "BF16" else planned[f].kernel
        for i, f in enumerate(f for f in formats if planned[f].runs)
    }
    assert list(found.failed) == ["100x96 W4A16_G64"]  # no kernel takes it: said, and the rest goes on
    for timed in found.times:
        assert timed.provenance is Provenance.MEASURED
        assert len(timed.ms) == len(TOKENS)
        assert all(0 < s.low <= s.value <= s.high for s in timed.ms)
        assert timed.ms[3].value > timed.ms[0].value  # 2,048 rows against one
    assert found.engine.startswith(ServingSpec().engine_version[:4])
    assert any(e.kind == "progress" for e in events)
