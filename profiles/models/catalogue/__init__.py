"""Popular open models as architecture facts; each expands to a full profile when asked for.

One JSON object per line of `*.jsonl`: `id`, `params` (computed from the synthesised tensors, checked by
the tests), `license`, `tags`, `source` (how the config is known) and `config`, fields as in config.json.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

from profiles.errors import UsageError, nearest
from profiles.models.catalogue.variants import Variant, resolve
from profiles.models.config import Config
from profiles.models.profile import build_profile, require_architecture
from profiles.models.schema import ModelProfile
from profiles.models.stored import stored_quantization
from profiles.models.synthesise import synthesise
from profiles.provenance import Contract


class CatalogueEntry(Contract):
    """One light row: enough to list and filter models without expanding their tensors."""

    id: str
    params: int
    license: str
    tags: tuple[str, ...]
    source: str


@functools.cache
def _rows() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for file in sorted(resources.files("profiles.models.catalogue").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".jsonl"):
            for line in file.read_text(encoding="utf-8").splitlines():
                if line.strip():
                    row = json.loads(line)
                    rows[row["id"]] = row
    return rows


@functools.cache
def _index() -> tuple[CatalogueEntry, ...]:
    return tuple(
        CatalogueEntry.model_construct(
            id=row["id"],
            params=row["params"],
            license=row["license"],
            tags=tuple(row["tags"]),
            source=row["source"],
        )
        for row in _rows().values()
    )


def catalogue_index() -> list[CatalogueEntry]:
    """Every model of the catalogue, lightly."""
    return list(_index())


def catalogue_configs() -> dict[str, dict[str, Any]]:
    """The config of every row, by id."""
    return {name: row["config"] for name, row in _rows().items()}


@functools.cache
def _by_lower() -> dict[str, str]:
    return {name.lower(): name for name in _rows()}


@functools.lru_cache(maxsize=512)
def catalogue_model(model_id: str) -> ModelProfile:
    """The full profile of one entry, tensors synthesised from its config."""
    name, quantization, notes = _resolved(model_id)
    row = _rows()[name]
    raw = {**row["config"], "quantization_config": quantization} if quantization else row["config"]
    config = Config(raw, f"catalogue:{name}")
    note = f"catalogue entry, config known from: {row['source']}"
    architecture = require_architecture(config, trust_remote_code=True)
    return build_profile(
        config,
        synthesise(config),
        architecture,
        model_id=model_id if notes else name,
        source="catalogue",
        quantization=stored_quantization(config),
        license_name=row["license"],
        tags=tuple(row["tags"]),
        assumptions=(note, *notes),
    )


def _resolved(model_id: str) -> Variant:
    """The row of that id, or the one that its name leads to.

    Raises:
        UsageError: neither; or the row's experts are stored in a way that has no such quantized layout.
    """
    name = _by_lower().get(model_id.lower())
    if name is not None:
        return Variant(name, None, ())
    found = resolve(model_id, _rows()) if "/" in model_id else None
    if found is None or (found.quantization and "quantization_config" in _rows()[found.row_id]["config"]):
        raise UsageError("not in the catalogue", got=model_id[:120], allowed=nearest(model_id, _rows()))
    if found.quantization and _rows()[found.row_id]["config"].get("model_type") in STACKED_EXPERTS:
        raise UsageError(
            "no published layout of this quantized model is known",
            got=model_id[:120],
            allowed=found.row_id,
            next_step="give the checkpoint's folder, or ask with network",
        )
    return found


STACKED_EXPERTS = frozenset({"qwen3_5_moe", "qwen3_vl_moe", "gemma4", "llama4", "gpt_oss", "granitemoe"})
"""Model types whose experts are one tensor per layer: quantized releases split them, each in its own way."""


def _variant(name: str) -> Variant | None:
    try:
        return _resolved(name)
    except UsageError:
        return None


def find_model(name: str) -> CatalogueEntry:
    """The entry meant by `name`: the id, or the part after the slash; nearest names on a miss."""
    wanted = name.strip().lower()
    index = {entry.id.lower(): entry for entry in _index()}
    if wanted in index:
        return index[wanted]
    tails = [entry for key, entry in index.items() if key.split("/")[-1] == wanted]
    if len(tails) == 1:
        return tails[0]
    if not tails and (variant := _variant(name.strip())) is not None:
        return index[variant.row_id.lower()].model_copy(update={"id": name.strip()})
    short = {entry.id.split("/")[-1]: entry.id for entry in _index()}
    raise UsageError(
        "no such model in the catalogue" if not tails else "several models have this name",
        got=name[:120],
        allowed=", ".join(t.id for t in tails) if tails else nearest(wanted.split("/")[-1], short),
        next_step="list the catalogue, or give a folder or a Hub id",
    )
