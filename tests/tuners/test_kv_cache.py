"""The KV cache rounded in torch: calibrated, ordered by how fine the dtype is, and taken back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from profiles.formats.kv_cache import kv_dtypes, kv_problem
from profiles.hardware.schema import Device, DeviceKind
from profiles.provenance import Figure
from tuners.evaluate import Evaluator
from tuners.model.host import ModelHost
from tuners.model.kv_cache import kv_spans, rounded_cache
from tuners.model.variants import VariantStore
from tuners.plan import PrecisionPlan, Unit
from tuners.quantize.groups import kv_scheme


def test_spans_are_the_largest_keys_and_values(host: ModelHost, ids: torch.Tensor) -> None:
    from transformers import DynamicCache

    cache = DynamicCache()
    with torch.no_grad():
        host.model(input_ids=ids, past_key_values=cache, use_cache=True)
    found = kv_spans(host, ids, 3)
    assert sorted(found) == list(range(len(host.blocks)))
    for layer, (key, value) in found.items():
        assert key == pytest.approx(float(cache.layers[layer].keys.abs().max()))
        assert value == pytest.approx(float(cache.layers[layer].values.abs().max()))


def test_a_finer_cache_costs_less_and_nothing_is_left_behind(
    host: ModelHost, ids: torch.Tensor, tiny_units: list[Unit], tmp_path: Path
) -> None:
    before = host.logits(ids[:1])
    store = VariantStore(host, tmp_path, 2**20)
    evaluator = Evaluator(host, store, ids, tmp_path, "evaluate")
    evaluator.reference()
    spans = kv_spans(host, ids, 4)
    cost = {}
    for dtype in ("int8", "fp8_e4m3", "fp8_e5m2"):
        with rounded_cache(host, dtype, spans):
            cost[dtype] = evaluator.quality({}).kl
    assert 0 < cost["int8"] < cost["fp8_e4m3"] < cost["fp8_e5m2"]
    assert torch.equal(host.logits(ids[:1]), before)
    assert evaluator.quality({}).kl == pytest.approx(0, abs=1e-6)


def test_a_dtype_that_is_not_imitated_is_an_error(host: ModelHost) -> None:
    with pytest.raises(ValueError, match="nvfp4"), rounded_cache(host, "nvfp4", {}):
        pass


def device(
    kind: DeviceKind, capability: tuple[int, int] | None = None, isa: tuple[str, ...] = ("avx2", "avx512f")
) -> Device:
    return Device(
        kind=kind,
        name="test",
        total_bytes=Figure.exact(2**34, "B", "test"),
        isa=isa,
        compute_capability=capability,
    )


@pytest.mark.parametrize(
    ("dtype", "where", "runs"),
    [
        ("auto", device(DeviceKind.CPU), True),
        ("fp8_e5m2", device(DeviceKind.CPU), True),
        ("auto", device(DeviceKind.CPU, isa=("avx2",)), True),
        ("fp8", device(DeviceKind.CPU, isa=("avx2",)), False),
        ("fp8_e5m2", device(DeviceKind.CPU, isa=("avx2",)), False),
        ("int8", device(DeviceKind.CPU), False),
        ("fp8", device(DeviceKind.CUDA, (8, 0)), False),
        ("fp8_e5m2", device(DeviceKind.CUDA, (8, 0)), True),
        ("fp8", device(DeviceKind.CUDA, (8, 9)), True),
        ("nvfp4", device(DeviceKind.CUDA, (9, 0)), False),
        ("nvfp4", device(DeviceKind.CUDA, (10, 0)), True),
    ],
)
def test_what_the_engine_takes_by_device(dtype: str, where: Device, runs: bool) -> None:
    assert (kv_problem(dtype, where) is None) == runs
    assert (dtype in kv_dtypes(where)) == runs


def test_only_e4m3_has_scales_in_the_checkpoint() -> None:
    dtypes = ("auto", "fp8", "fp8_e5m2", "int8")
    schemes = {d: kv_scheme(PrecisionPlan(formats={}, kv_cache_dtype=d)) for d in dtypes}
    assert [d for d, s in schemes.items() if s is not None] == ["fp8"]
    assert schemes["fp8"] is not None
    assert (schemes["fp8"]["type"], schemes["fp8"]["strategy"]) == ("float", "tensor")
