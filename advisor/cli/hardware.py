"""`advisor hardware`: devices, what runs on them, how fast they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advisor.cli.options import Count, Gpu, Json, Quiet

if TYPE_CHECKING:
    from profiles.hardware.schema import HardwareProfile


def hardware(
    *,
    gpu: Gpu = None,
    count: Count = 1,
    formats: Annotated[
        bool, Parameter(name="--formats", negative="", help="Which kernel runs each format, or why none.")
    ] = False,
    bench: Annotated[
        bool, Parameter(name="--bench", negative="", help="Measure bandwidth and matmul rates (about 5 s).")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """What this machine is, or what a planned device would be; every figure with how it is known."""
    from advisor.cli.output import print_json
    from advisor.machine import read_hardware
    from profiles.errors import UsageError
    from profiles.formats.kernels import supported_formats

    if bench and gpu is not None:
        raise UsageError("--bench measures this machine", next_step="leave --gpu or --bench out")
    found = read_hardware(gpu, count)
    if bench:
        found = benchmarked(found, quiet=quiet)
    if json:
        answer = found.model_dump(mode="json")
        if formats:
            answer["formats"] = {
                name: support.model_dump(mode="json")
                for name, support in supported_formats(found.device).items()
            }
        print_json(answer)
        return 0
    show(found)
    if formats:
        show_formats(found)
    return 0


def benchmarked(found: HardwareProfile, *, quiet: bool) -> HardwareProfile:
    """The profile with this machine's own rates, measured now."""
    from advisor.cli.progress import renderer
    from profiles.hardware.schema import DeviceKind
    from tuners import microbench, microbench_cuda

    shown = renderer(quiet=quiet)
    try:
        if found.device.kind is DeviceKind.CUDA:
            return microbench_cuda.apply(found, microbench_cuda.measure(found, emit=shown))
        return microbench.apply(found, microbench.measure(emit=shown, refresh=True))
    finally:
        shown.close()


def show(found: HardwareProfile) -> None:
    """The devices as text."""
    from advisor.cli.output import console, provenance, shown, table

    out = console()
    device = found.device
    many = f"{len(found.devices)} x " if len(found.devices) > 1 else ""
    out.print(f"{many}{device.name} ({device.kind.value}, {found.origin})", markup=False)
    rows = table(None, ["", "", "known from"])
    for name, figure in (
        ("memory", device.total_bytes),
        ("free now", device.free_bytes),
        ("bandwidth", device.bandwidth_bytes_s),
        ("power", device.power_w),
        ("host memory", found.host_ram_bytes),
    ):
        if figure is not None:
            rows.add_row(name, shown(figure), provenance(figure))
    for kind, rate in device.peak_ops.items():
        rows.add_row(f"peak {kind}", shown(rate), provenance(rate))
    if device.sm is not None:
        rows.add_row("compute capability", f"{device.sm / 10}", "")
    if device.cores is not None:
        rows.add_row("cores", str(device.cores), "")
    if device.isa:
        rows.add_row("kernels' CPU flags", " ".join(device.isa), "")
    for name, text in (
        ("driver", found.driver),
        ("runtime", found.runtime),
        ("interconnect", found.interconnect),
        ("MIG profile", device.mig_profile),
    ):
        if text:
            rows.add_row(name, text, "")
    out.print(rows)
    for note in found.notes:
        out.print(f"note: {note}", markup=False)


def show_formats(found: HardwareProfile) -> None:
    """Every format of the menu with its kernel or the reason why there is none."""
    from advisor.cli.output import console, table
    from profiles.formats import MENU
    from profiles.formats.kernels import supported_formats

    rows = table("\nformats", ["format", "runs", "kernel", "why"])
    for name, support in supported_formats(found.device).items():
        how = "no" if not support.runs else "slow" if support.slow else "native" if support.native else "yes"
        cost = f"; cost: {support.cost}" if support.cost else ""
        rows.add_row(name, how, support.kernel or "-", f"{support.reason}{cost} ({MENU[name].summary})")
    console().print(rows)
