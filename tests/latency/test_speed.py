"""From layers to plans: sums, ranges, calibration by the original's own speed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.provenance import Provenance
from tests.latency.columns import column
from tests.validate.examples import measurement, plan, units
from tuners.latency.originals import path_of, remember, remembered, speed_of
from tuners.latency.schema import TOKENS, OriginalSpeed
from tuners.latency.speed import Clockwork, at, calibrated
from tuners.plan import uniform

UNITS = units()


def clock(rest_ms: float = 1.0, ms_per_megaweight: float = 1000.0) -> Clockwork:
    return Clockwork(column(UNITS, rest_ms, ms_per_megaweight), UNITS)


def original(itl: float, itl_16: float | None = None, prefill: float = 100.0) -> OriginalSpeed:
    return OriginalSpeed(engine="0.32.0", itl_ms=itl, itl_16_ms=itl_16, prompt_tokens=512, prefill_ms=prefill)


def test_a_step_is_the_sum_of_its_layers_and_the_rest() -> None:
    here = clock()
    layers = sum(u.numel for u in UNITS) / 1e6 * 1000
    sixteen_bit = here.speed(uniform(UNITS, "16-bit"))
    assert sixteen_bit is not None
    assert sixteen_bit.decode_ms.value == pytest.approx(layers + 1.0)
    assert sixteen_bit.decode_16_ms.value == pytest.approx(2 * layers + 1.0)
    assert sixteen_bit.prefill_ms_per_1k.value == pytest.approx((80 * layers + 1.0) / 2.048)
    assert sixteen_bit.decode_ms.low < sixteen_bit.decode_ms.value < sixteen_bit.decode_ms.high
    assert sixteen_bit.decode_ms.provenance is Provenance.ESTIMATED
    int8 = here.speed(uniform(UNITS, "int8"))
    assert int8 is not None
    assert int8.decode_ms.value == pytest.approx(layers / 2 + 1.0)
    times = here.times(1)
    assert times is not None
    mixed = plan()
    summed = [
        here.rest_ms(1)[i] + sum(times[u.name][mixed.formats[u.name]][i] for u in UNITS) for i in range(3)
    ]
    assert here.step_ms(mixed.formats, 1) == pytest.approx(summed)


def test_a_layer_without_a_time_leaves_no_number() -> None:
    whole = column(UNITS)
    here = Clockwork(whole.model_copy(update={"layers": whole.layers[1:]}), UNITS)
    assert here.times(1) is None
    assert here.speed(uniform(UNITS, "16-bit")) is None


@given(st.floats(1, 4096))
@settings(deadline=None)
def test_between_timed_rows_times_rise(tokens: float) -> None:
    layer = column(UNITS).layers[0]
    assert at(layer, tokens).value <= at(layer, tokens + 1).value
    for index, rows in enumerate(TOKENS):
        assert at(layer, rows).value == pytest.approx(layer.ms[index].value)


@given(st.floats(0.1, 1000), st.floats(0.1, 3000), st.floats(1, 10**5))
@settings(deadline=None)
def test_calibration_reproduces_the_original(itl: float, itl_16: float, prefill: float) -> None:
    here = clock()
    fixed = Clockwork(calibrated(here, original(itl, itl_16, prefill)), UNITS)
    formats = uniform(UNITS, "16-bit").formats
    one, sixteen = fixed.step_ms(formats, 1), fixed.step_ms(formats, 16)
    assert one is not None
    assert sixteen is not None
    assert one.value == pytest.approx(itl)
    assert sixteen.value == pytest.approx(itl_16)
    assert one.low <= one.value <= one.high
    again = Clockwork(calibrated(fixed, original(itl, itl_16, prefill)), UNITS).step_ms(formats, 1)
    assert again is not None
    assert again.value == pytest.approx(itl)


def test_a_rest_that_was_measured_dilutes_the_gain() -> None:
    here = clock()
    formats = uniform(UNITS, "int8").formats
    layers = here.layers_ms(uniform(UNITS, "16-bit").formats, 1)
    assert layers is not None
    slow = Clockwork(calibrated(here, original(2 * layers.value)), UNITS).step_ms(formats, 1)
    fast = Clockwork(calibrated(here, original(layers.value / 2)), UNITS).step_ms(formats, 1)
    assert slow is not None
    assert fast is not None
    assert slow.value / (2 * layers.value) == pytest.approx(0.75)  # half of the half that layers take
    assert fast.value / (layers.value / 2) == pytest.approx(0.5)  # nothing beside the layers
    figure = Clockwork(calibrated(here, original(2 * layers.value)), UNITS).speed(uniform(UNITS, "int8"))
    assert figure is not None
    assert figure.decode_ms.provenance is Provenance.CALIBRATED
    assert "original's own speed" in figure.decode_ms.source


def test_an_originals_speed_is_kept_for_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = path_of({"model.safetensors": (1, 2)}, "CPU", "bfloat16")
    assert path != path_of({"model.safetensors": (1, 3)}, "CPU", "bfloat16")
    measured = measurement(quantized=False)
    remember(path, measured)
    assert remembered(path, measured.engine_version) == speed_of(measured)
    assert remembered(path, "another") is None
    silent = measured.model_copy(update={"itl_ms": 0.0})
    other = path_of({}, "CPU", "bfloat16")
    remember(other, silent)
    assert remembered(other, measured.engine_version) is None


def test_the_output_layer_has_one_row_per_request_and_embeddings_none() -> None:
    head = UNITS[0].model_copy(update={"name": "lm_head", "role": "lm_head", "block": None})
    table = UNITS[0].model_copy(update={"name": "embed", "role": "embed", "block": None})
    here = Clockwork(column([head, table], 0.0), [head, table])
    plain = here.unit_ms(UNITS[0].model_copy(update={"name": "lm_head"}), "BF16", 1)
    for tokens, rows in ((1, 1), (16, 16), (512, 1), (2048, 1)):
        expected = at(here.latency.layers[0], rows)
        assert here.unit_ms(head, "BF16", tokens) == pytest.approx(expected)
        assert here.unit_ms(table, "BF16", tokens) == (0.0, 0.0, 0.0)
    assert plain is not None
    assert here.step_ms({"lm_head": "BF16", "embed": "BF16"}, 1) == pytest.approx(plain)
