"""What is timed, what is kept under which key, what the roofline fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from profiles.errors import Interrupted, RunFailed
from profiles.formats import get_format
from profiles.hardware import planned
from profiles.hardware.schema import HardwareProfile
from profiles.provenance import Provenance
from tests.footprint.build import cpu
from tuners.events import Event, Message
from tuners.latency import table
from tuners.latency.roofline import layer_time, work
from tuners.latency.schema import TOKENS, KernelTimes, KernelTimesSpec, LayerTime, Shape, Spread
from tuners.latency.shapes import distinct, shapes_of
from tuners.latency.table import Place, cache_path, place_of, swept_bytes, times_of
from tuners.plan import Unit, UnitLinear

PLACE = Place("CPU", "0.32.0", "bfloat16", 1, 1 << 28)
A, B = (Shape(64, 128), "W8A8"), (Shape(64, 128), "BF16")


class Child:
    """Stands for the timing child: answers one millisecond for everything, and counts."""

    def __init__(self, fails: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> None:
        self.asked: list[KernelTimesSpec] = []
        self.fails = fails
        self.notes = notes

    def __call__(self, module: str, spec: KernelTimesSpec, **_: Any) -> dict[str, Any]:
        assert module == "tuners.latency.job"
        self.asked.append(spec)
        times = [
            LayerTime(
                shape=shape, format=fmt, ms=(Spread(1.0, 0.9, 1.1),) * 4, kernel="K",
                provenance=Provenance.MEASURED,
            )
            for shape, fmt in spec.wanted if fmt not in self.fails
        ]  # fmt: skip
        failed = {table.key_of(s, f): "ValueError: no" for s, f in spec.wanted if f in self.fails}
        return KernelTimes(
            version=1, device="", engine="0.32.0", dtype=spec.dtype, threads=1,
            swept_bytes=spec.swept_bytes, taken_at=0.0, times=tuple(times), failed=failed, notes=self.notes,
        ).model_dump()  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def ask(
    wanted: list[table.Pair], place: Place | None = PLACE, events: list[Event] | None = None
) -> tuple[list[LayerTime], list[str]]:
    sink: list[Event] = [] if events is None else events
    return times_of(wanted, cpu().device, place, emit=sink.append, log_path=Path("log"))


def test_a_layer_is_timed_once_per_device_and_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child()
    monkeypatch.setattr(table, "run_child", child)
    assert [t.provenance for t in ask([A])[0]] == [Provenance.MEASURED]
    ask([A])
    assert len(child.asked) == 1
    ask([A, B])
    assert child.asked[1].wanted == (B,)
    for other in (
        PLACE._replace(engine="0.33.0"),
        PLACE._replace(device="Another"),
        PLACE._replace(dtype="float16"),
        PLACE._replace(threads=2),
    ):
        assert cache_path(other) != cache_path(PLACE)
        ask([A], other)
    assert len(child.asked) == 6


def test_what_no_kernel_takes_is_estimated_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(fails=("W8A8",))
    monkeypatch.setattr(table, "run_child", child)
    found, notes = ask([A, B])
    assert [t.provenance for t in found] == [Provenance.ESTIMATED, Provenance.MEASURED]
    assert notes == ["not timed: 64x128 W8A8: ValueError: no"]
    ask([A, B])
    assert len(child.asked) == 1


def test_experts_and_other_machines_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child()
    monkeypatch.setattr(table, "run_child", child)
    ask([(Shape(64, 128, 8, 2), "W8A8")])
    ask([A], None)
    assert child.asked == []


def test_a_dead_child_costs_the_measurement_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object, **__: object) -> None:
        raise RunFailed("latency: its process exited with 1")

    monkeypatch.setattr(table, "run_child", dies)
    events: list[Event] = []
    found, _ = ask([A], events=events)
    assert found[0].provenance is Provenance.ESTIMATED
    assert [e.level for e in events if isinstance(e, Message)] == ["warning"]

    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("latency was stopped")

    monkeypatch.setattr(table, "run_child", stopped)
    with pytest.raises(Interrupted):
        ask([A])


def test_what_was_timed_on_a_busy_machine_is_timed_again_on_a_quiet_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = Child(notes=("the machine was busy",))
    monkeypatch.setattr(table, "run_child", child)
    monkeypatch.setattr(table, "busy", lambda: ["busy"])
    assert "the machine was busy" in ask([A])[1]
    ask([A])
    assert len(child.asked) == 1
    monkeypatch.setattr(table, "busy", list)
    child.notes = ()
    assert ask([A])[1] == []
    ask([A])
    assert len(child.asked) == 2


def test_a_damaged_file_is_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child()
    monkeypatch.setattr(table, "run_child", child)
    ask([A])
    cache_path(PLACE).write_text("{")
    ask([A])
    assert len(child.asked) == 2


def test_only_this_machine_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "engine_version", lambda: "0.32.0")
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: object())
    here = cpu()
    assert place_of(planned("h100"), "bfloat16", 10**9) is None
    found = place_of(here, "bfloat16", 10**9)
    assert found is not None
    assert found.device.startswith("CPU, ")
    assert found[1:3] == ("0.32.0", "bfloat16")
    monkeypatch.setattr(table, "engine_version", lambda: None)
    assert place_of(HardwareProfile.model_validate(here.model_dump()), "bfloat16", 1) is None


@pytest.mark.parametrize(
    ("model", "cache", "swept"),
    [(270 << 20, 480 << 20, 256 << 20), (16 << 30, 32 << 20, 64 << 20), (10, 32 << 20, 1 << 20)],
)
def test_as_much_passes_through_the_caches_as_in_a_step(
    monkeypatch: pytest.MonkeyPatch, model: int, cache: int, swept: int
) -> None:
    monkeypatch.setattr(table, "last_level_cache_bytes", lambda: cache)
    assert swept_bytes(model) == swept


def unit(role: str, linears: list[tuple[int, int]], copies: int = 1) -> Unit:
    return Unit(
        name=f"model.layers.0.{role}",
        role=role,
        block=0,
        linears=tuple(
            UnitLinear(name=f"x.experts.0.{i}", in_features=a, out_features=b, copies=copies)
            for i, (a, b) in enumerate(linears)
        ),
        options=("W8A8", "BF16"),
    )


def test_fused_layers_are_one_matmul_on_a_rank() -> None:
    assert shapes_of(unit("qkv", [(64, 64), (64, 32), (64, 32)])) == (Shape(64, 128),)
    assert shapes_of(unit("qkv", [(64, 64), (64, 32), (64, 32)]), tp=2) == (Shape(64, 64),)
    assert shapes_of(unit("down", [(128, 64)]), tp=2) == (Shape(64, 64),)
    assert shapes_of(unit("qkv", [(64, 32), (32, 64)])) == (Shape(64, 32), Shape(32, 64))
    assert shapes_of(unit("expert_down", [(128, 64)], copies=8), 1, 2) == (Shape(128, 64, 8, 2),)
    same = [unit("down", [(128, 64)]), unit("down", [(128, 64)])]
    assert distinct(same) == [(Shape(128, 64), "BF16"), (Shape(128, 64), "W8A8")]


def test_the_roofline_reads_weights_once_and_computes_every_row() -> None:
    device = cpu().device
    few, many = Shape(4096, 4096), Shape(4096, 4096, 64, 4)
    bf16, int8 = layer_time(few, "BF16", device), layer_time(few, "W8A8", device)
    assert bf16 is not None
    assert int8 is not None
    for spread in (*bf16.ms, *int8.ms):
        assert spread.low <= spread.value <= spread.high
    assert 1.8 < bf16.ms[0].value / int8.ms[0].value < 2.2  # decoding reads half the bytes
    assert bf16.ms[3].value / bf16.ms[2].value == pytest.approx(TOKENS[3] / TOKENS[2], rel=0.1)
    one, _ = work(many, get_format("BF16"), 1)
    all_, _ = work(many, get_format("BF16"), 2048)
    assert one == pytest.approx(4 * 4096 * 4096 * 2, rel=0.01)
    assert all_ > 63 * 4096 * 4096 * 2
    unknown = device.model_copy(update={"bandwidth_bytes_s": None})
    assert layer_time(few, "BF16", unknown) is None
