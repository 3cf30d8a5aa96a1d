"""Turns the hand-written YAML families into `devices.json`, which is what programs read.

YAML is for people (one line per device, a rate per SM and clock per family), JSON for start-up time.
`python -m profiles.hardware.catalogue build` writes it; a test holds the two equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from ruamel.yaml import YAML

from profiles.errors import UsageError
from profiles.hardware.catalogue.entry import CatalogueEntry
from profiles.hardware.schema import DeviceKind
from profiles.provenance import Contract

FOLDER = Path(__file__).parent
COMPILED = FOLDER / "devices.json"
SEEN_SPREAD = (0.994, 1.004)
"""Driver totals of one device differ by this much between driver versions (H100: 79.11-79.32 GiB)."""
APPLE_SHARE = {True: 0.75, False: 2 / 3}
"""Metal's recommendedMaxWorkingSetSize over RAM: 3/4 from 36 GB on, 2/3 below (llama.cpp Metal logs)."""


class _Line(Contract):
    """One device as written in YAML."""

    key: str
    name: str
    aliases: tuple[str, ...] = ()
    driver_names: tuple[str, ...] = ()
    sold_gib: float | None = None
    seen_gib: float | None = None
    seen_low_gib: float | None = None
    options_gb: tuple[int, ...] = ()
    memory_source: str | None = None
    gbps: float | None = None
    channels: int | None = None
    mts: int | None = None
    units: int | None = None
    mhz: float | None = None
    core_ghz: float | None = None
    cores: int | None = None
    ghz: float | None = None
    tops: dict[str, float] = {}
    cc: str | None = None
    power_w: float | None = None
    interconnect: str | None = None
    unified: bool | None = None
    isa: tuple[str, ...] | None = None
    rates: dict[str, float] | None = None
    source: str | None = None


class _Family(Contract):
    """One YAML document: what its devices share, then the devices."""

    family: str
    kind: DeviceKind
    laptop: bool = False
    source: str
    rates: dict[str, float] = {}  # dense operations per unit (SM, CU, core) and clock
    rates_source: str = ""
    memory_ratio: tuple[float, float, float] = (0.95, 0.975, 0.995)  # low, value, high of the sold size
    memory_rule: Literal["ratio", "apple", "dimm"] = "ratio"
    dimm_gib: tuple[int, int, int] = (16, 64, 256)
    sustained_peak: float = Field(default=0.6, gt=0, le=1)
    cc: str | None = None
    isa: tuple[str, ...] = ()
    interconnect: str | None = None
    unified: bool = False
    devices: tuple[_Line, ...]


def build() -> list[CatalogueEntry]:
    """Every entry of every YAML file, in file order.

    Raises:
        UsageError: a file is not a family, with the file's name.
    """
    entries: list[CatalogueEntry] = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for document in YAML(typ="safe").load_all(path):
            try:
                family = _Family.model_validate(document)
                for line in family.devices:
                    entries.extend(_entries(family, line))
            except (ValidationError, ValueError) as exc:
                raise UsageError("not a catalogue family", where=str(path), got=str(exc)) from exc
    return entries


def compiled_text() -> str:
    """The JSON text that belongs into `devices.json`: one line per device."""
    lines = [
        json.dumps(e.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False) for e in build()
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _entries(family: _Family, line: _Line) -> list[CatalogueEntry]:
    if not line.options_gb:
        return [_entry(family, line, line.key, line.name, line.aliases, ())]
    # one chip sold with several memory sizes: the plain key is the largest, and says so
    sizes = tuple(f"{line.key}-{gb}gb" for gb in line.options_gb)
    made = []
    for gb, key in zip(line.options_gb, sizes, strict=True):
        sized = line.model_copy(update={"sold_gib": float(gb)})
        largest = gb == max(line.options_gb)
        aliases = (line.key, line.name, *line.aliases) if largest else ()
        made.append(_entry(family, sized, key, f"{line.name} ({gb} GB)", aliases, sizes))
    return made


def _entry(
    family: _Family, line: _Line, key: str, name: str, aliases: tuple[str, ...], sizes: tuple[str, ...]
) -> CatalogueEntry:
    peaks, formula = _peaks(family, line)
    bandwidth = line.gbps
    if bandwidth is None:
        if line.channels is None or line.mts is None:
            raise ValueError(f"{key}: neither gbps nor channels and mts")
        bandwidth = line.channels * line.mts * 8 / 1000  # 64-bit channels, MT/s
    low, value, high, seen, memory_source = _memory(family, line, key)
    cc = line.cc or family.cc
    source = (line.source or family.source).format(name=name)
    if formula and family.rates_source:
        source += f"; rates per unit and clock: {family.rates_source}"
    return CatalogueEntry(
        key=key,
        name=name,
        aliases=aliases,
        driver_names=line.driver_names or (line.name,),
        family=family.family,
        kind=family.kind,
        laptop=family.laptop,
        memory_gib=round(value, 3),
        memory_low_gib=round(low, 3),
        memory_high_gib=round(high, 3),
        memory_seen=seen,
        memory_source=memory_source,
        bandwidth_gbps=round(bandwidth, 2),
        peaks_tops=peaks,
        peak_formula=formula,
        sustained_peak=family.sustained_peak,
        compute_capability=None if cc is None else (int(cc.split(".")[0]), int(cc.split(".")[1])),
        units=line.units,
        cores=line.cores,
        isa=family.isa if line.isa is None else line.isa,
        power_w=line.power_w,
        interconnect=line.interconnect or family.interconnect,
        unified_memory=family.unified if line.unified is None else line.unified,
        sizes=sizes,
        source=source,
    )


def _peaks(family: _Family, line: _Line) -> tuple[dict[str, float], str | None]:
    """Peaks written out, else units x clock x dense operations per unit and clock."""
    rates = family.rates if line.rates is None else line.rates
    if line.tops:
        return dict(line.tops), None
    if line.core_ghz is not None:
        ghz, words = line.core_ghz, f"{line.core_ghz:g} core GHz in all"
    elif line.cores is not None and line.ghz is not None:
        ghz, words = line.cores * line.ghz, f"{line.cores} cores x {line.ghz:g} GHz"
    elif line.units is not None and line.mhz is not None:
        ghz, words = line.units * line.mhz / 1000, f"{line.units} units x {line.mhz:g} MHz"
    else:
        raise ValueError(f"{line.key}: neither tops nor units and clock")
    formula = f"{words} x operations per clock ({', '.join(f'{t} {r:g}' for t, r in rates.items())})"
    return {t: round(ghz * r / 1000, 2) for t, r in rates.items()}, formula


CONFIRMED_TOTALS = frozenset(
    {"h100-sxm", "a100-80-sxm", "a100-80-pcie", "rtx-5090", "rtx-3090", "rtx-4090", "h20-3e"}
)
"""Devices whose total is backed by a named log; every other total is shown as an estimate."""


def _memory(family: _Family, line: _Line, key: str) -> tuple[float, float, float, bool, str]:
    if family.memory_rule == "dimm":
        if line.channels is None:
            raise ValueError(f"{key}: a CPU needs its memory channels")
        low, value, high = (line.channels * gib for gib in family.dimm_gib)
        words = f"not a property of the CPU: {line.channels} channels with {family.dimm_gib[1]} GiB each"
        return float(low), float(value), float(high), False, line.memory_source or words
    if line.seen_gib is not None:
        confirmed = key in CONFIRMED_TOTALS
        words = (
            "total that the driver reports, read off public engine logs of this device"
            if confirmed
            else "total that drivers of such cards are known to report; no log of this device was looked up"
        )
        return (
            line.seen_low_gib or line.seen_gib * SEEN_SPREAD[0],
            line.seen_gib,
            line.seen_gib * SEEN_SPREAD[1],
            confirmed,
            line.memory_source or words,
        )
    if line.sold_gib is None:
        raise ValueError(f"{key}: neither seen_gib nor sold_gib")
    if family.memory_rule == "apple":
        share = APPLE_SHARE[line.sold_gib >= 36]
        words = f"{share:.0%} of {line.sold_gib:g} GB RAM: what Metal recommends for the GPU by default"
        return line.sold_gib * 0.6, line.sold_gib * share, line.sold_gib, False, words
    ratio = family.memory_ratio
    words = f"sold as {line.sold_gib:g} GB; drivers of this family report {ratio[0]:.0%}-{ratio[2]:.1%} of it"
    return (
        line.sold_gib * ratio[0],
        line.sold_gib * ratio[1],
        line.sold_gib * ratio[2],
        False,
        line.memory_source or words,
    )
