"""One device of the catalogue as numbers, and the `Device` that it stands for."""

from __future__ import annotations

import re

from profiles.hardware.schema import Device, DeviceKind
from profiles.provenance import Contract, Figure, Provenance

GIB = 1024**3
SUSTAINED_BANDWIDTH = 0.8
"""Share of the data sheet's bandwidth that streaming kernels reach at least: 0.80-0.93 in published
BabelStream runs on HBM and GDDR devices. The figure's value stays the data sheet's."""

_NOISE = frozenset(
    (
        "nvidia",
        "geforce",
        "tesla",
        "amd",
        "radeon",
        "instinct",
        "intel",
        "apple",
        "corporation",
        "gpu",
        "cpu",
        "processor",
        "graphics",
        "with",
        "w",
    )
)


def normalised(name: str) -> str:
    """A device name without case, separators, vendor words and marks: equal or not, never "contains".

    "NVIDIA GeForce RTX 4090 Laptop GPU" is `rtx4090laptop`, "RTX-4090" is `rtx4090`.
    """
    text = re.sub(r"\((r|tm|c)\)|[®™]", " ", name.lower())
    text = re.sub(r"@.*$", " ", text)  # "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz"
    text = re.sub(r"\b\d+-cores?( processor)?\s*$", " ", text)  # "AMD EPYC 7763 64-Core Processor"
    text = re.sub(r"\bmobile\b", "laptop", text).replace("+", "plus")
    return "".join(w for w in re.split(r"[^a-z0-9.]+", text) if w not in _NOISE)


class CatalogueEntry(Contract):
    """What is known of a device without seeing it.

    `memory_*_gib` is the total that the driver reports to programs; `memory_seen` says whether it was
    read off real machines or derived from the size on the box. `peaks_tops` are dense tera-operations
    per second by type, only types that run natively. `driver_names` may be shared by entries that
    differ in memory; keys, names and aliases are unique.
    """

    key: str
    name: str
    aliases: tuple[str, ...] = ()
    driver_names: tuple[str, ...] = ()
    family: str
    kind: DeviceKind
    laptop: bool = False
    memory_gib: float
    memory_low_gib: float
    memory_high_gib: float
    memory_seen: bool
    memory_source: str
    bandwidth_gbps: float
    peaks_tops: dict[str, float]
    peak_formula: str | None = None
    sustained_peak: float
    compute_capability: tuple[int, int] | None = None
    units: int | None = None  # SMs, CUs or Xe cores; scales a MIG slice
    cores: int | None = None
    isa: tuple[str, ...] = ()
    power_w: float | None = None
    interconnect: str | None = None
    unified_memory: bool = False
    sizes: tuple[str, ...] = ()  # keys of the same chip with other memory
    source: str

    def bandwidth(self) -> Figure:
        """Data-sheet bandwidth as the value, the sustained share of it as the low end."""
        value = self.bandwidth_gbps * 1e9
        return Figure.estimated(value, value * SUSTAINED_BANDWIDTH, value, "B/s", self.source)

    def peaks(self) -> dict[str, Figure]:
        """Dense peaks per type; the low end is what large matmuls keep under the device's power limit."""
        return {
            kind: Figure.estimated(
                tops * 1e12,
                tops * 1e12 * self.sustained_peak,
                tops * 1e12,
                "op/s",
                self.source,
                self.peak_formula,
            )
            for kind, tops in self.peaks_tops.items()
        }

    def memory(self) -> Figure:
        """Total memory in bytes; `calibrated` when real machines answered, else `estimated`."""
        return Figure(
            value=round(self.memory_gib * GIB),
            low=min(round(self.memory_low_gib * GIB), round(self.memory_gib * GIB)),
            high=max(round(self.memory_high_gib * GIB), round(self.memory_gib * GIB)),
            unit="B",
            provenance=Provenance.CALIBRATED if self.memory_seen else Provenance.ESTIMATED,
            source=self.memory_source,
        )

    def device(self, index: int | None = None) -> Device:
        """The device as a plan sees it: nothing free is known, everything else is."""
        power = self.power_w
        return Device(
            kind=self.kind,
            name=self.name,
            index=index,
            total_bytes=self.memory(),
            bandwidth_bytes_s=self.bandwidth(),
            peak_ops=self.peaks(),
            compute_capability=self.compute_capability,
            power_w=None if power is None else Figure.estimated(power, power * 0.7, power, "W", self.source),
            isa=self.isa,
            cores=self.cores,
            unified_memory=self.unified_memory,
            catalogue_key=self.key,
        )
