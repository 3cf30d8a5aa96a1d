"""A precision plan: one format for every decision unit, priced, written and read back."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path

from pydantic import Field
from ruamel.yaml import YAML

from profiles.errors import UsageError
from profiles.formats import get_format
from profiles.provenance import Contract

ROW_PARALLEL_ROLES = frozenset({"o", "down", "shared_down", "expert_down"})
"""Tensor parallelism splits the inputs of these, the outputs of the others (Megatron's layout)."""


class UnitLinear(Contract):
    """One linear weight of a unit, as the checkpoint names it."""

    name: str
    in_features: int
    out_features: int
    copies: int = 1


class Unit(Contract):
    """What must share one format because the engine fuses it.

    `name` is the engine's fused module (`model.layers.3.self_attn.qkv_proj`); `options` are the formats
    that may be chosen, `excluded` the others with the reason.
    """

    name: str
    role: str
    block: int | None
    linears: tuple[UnitLinear, ...]
    options: tuple[str, ...]
    excluded: dict[str, str] = {}

    @property
    def numel(self) -> int:
        """Weights of the unit."""
        return sum(m.in_features * m.out_features * m.copies for m in self.linears)

    def bytes_as(self, format_name: str, *, unquantized_bits: int = 16) -> int:
        """Bytes of the unit in that format, scales included (`Format.weight_bytes`)."""
        return sum(
            _weight_bytes(format_name, m.out_features, m.in_features, unquantized_bits) * m.copies
            for m in self.linears
        )


@functools.cache
def _weight_bytes(format_name: str, out_features: int, in_features: int, unquantized_bits: int) -> int:
    """A model has few distinct shapes and a hundred thousand weights to price."""
    fmt = get_format(format_name)
    return fmt.weight_bytes(out_features, in_features, unquantized_bits=unquantized_bits)


class PrecisionPlan(Contract):
    """Unit name to format name; `kv_cache_dtype` when the plan decides it too.

    `methods` names how single units are quantized (`tuners/quantize/methods.py`); the others' formats say it.
    """

    formats: dict[str, str]
    methods: dict[str, str] = {}
    kv_cache_dtype: str = "auto"
    label: str = ""
    model_id: str = ""
    notes: tuple[str, ...] = Field(default=())

    @property
    def key(self) -> str:
        """Stable short hash of the choice (labels and notes aside)."""
        text = "\n".join(f"{u}={f}" for u, f in sorted(self.formats.items())) + self.kv_cache_dtype
        text += "".join(f"\n{u} by {m}" for u, m in sorted(self.methods.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def bytes_of(self, units: Iterable[Unit], *, unquantized_bits: int = 16) -> int:
        """Bytes of all units under this plan; the same price that the search and the footprint use."""
        return sum(u.bytes_as(self.formats[u.name], unquantized_bits=unquantized_bits) for u in units)

    def bits_per_weight(self, units: Iterable[Unit]) -> float:
        """Average bits per weight over the units, scales included."""
        listed = list(units)
        return self.bytes_of(listed) * 8 / sum(u.numel for u in listed)

    def counts(self) -> Counter[str]:
        """How many units have each format."""
        return Counter(self.formats.values())

    def by_linear(self, units: Iterable[Unit]) -> dict[str, str]:
        """Checkpoint module name to format name, for the footprint and the quantizer."""
        return {m.name: self.formats[u.name] for u in units for m in u.linears}

    def diff(self, other: PrecisionPlan) -> dict[str, tuple[str, str]]:
        """Units whose format differs: unit to (this, other)."""
        names = self.formats.keys() | other.formats.keys()
        return {
            n: (self.formats.get(n, "-"), other.formats.get(n, "-"))
            for n in sorted(names)
            if self.formats.get(n) != other.formats.get(n)
        }

    def to_yaml(self) -> str:
        """YAML text that `from_yaml` reads back to an equal plan."""
        out = StringIO()
        yaml = YAML()
        yaml.width = 120
        yaml.dump(self.model_dump(mode="json"), out)
        return out.getvalue()

    @classmethod
    def from_yaml(cls, path: Path) -> PrecisionPlan:
        """Read a plan file.

        Raises:
            UsageError: the file is missing, is not YAML, or is not a plan.
        """
        from pydantic import ValidationError
        from ruamel.yaml.error import YAMLError

        try:
            data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
            plan = cls.model_validate(data)
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError("cannot read the plan file", where=str(path), got=str(exc)) from exc
        except (YAMLError, ValidationError) as exc:
            raise UsageError(
                "not a plan file",
                where=str(path),
                got=str(exc).splitlines()[0],
                allowed="a mapping with `formats: {unit: format}`, as `advisor tune` writes it",
            ) from exc
        for fmt in set(plan.formats.values()):
            get_format(fmt)
        return plan


def uniform(units: Iterable[Unit], family: str, label: str | None = None) -> PrecisionPlan:
    """Every unit in its first option of `family` (int4, int8, fp8, 16-bit); BF16 where it has none, and for
    lm_head, which uniform schemes leave alone."""
    formats: dict[str, str] = {}
    for unit in units:
        head = unit.role == "lm_head"
        of_family = [o for o in unit.options if get_format(o).family == family and not head]
        formats[unit.name] = of_family[0] if of_family else "BF16"
    return PrecisionPlan(formats=formats, label=label or f"uniform {family}")


def merged(base: Mapping[str, str], changes: Mapping[str, str], label: str) -> PrecisionPlan:
    """A plan made of `base` with `changes` applied."""
    return PrecisionPlan(formats={**base, **changes}, label=label)
