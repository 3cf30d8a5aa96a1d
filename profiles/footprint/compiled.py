"""The catalogue's models reduced to facts and ledgers, so that ranking all of them needs no expansion.

`python -m profiles.footprint.compiled` writes the packaged file; when the catalogue has changed since,
the reduced form is rebuilt once and kept in the user's cache directory.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from profiles.footprint.facts import KvFacts, ModelFacts, facts_of
from profiles.footprint.ledger import Group, Ledger, Line, ledger_of
from profiles.models.schema import KvKind

FORMAT = 3
FILE = "compiled.json"


class Compiled(NamedTuple):
    """One catalogue model, ready to price."""

    facts: ModelFacts
    ledger: Ledger
    params: int
    license: str
    tags: tuple[str, ...]


def fingerprint() -> str:
    """Hash of the catalogue's files and of the code that reduces them."""
    digest = hashlib.sha256(str(FORMAT).encode())
    catalogue = resources.files("profiles.models.catalogue")
    for file in sorted(catalogue.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".jsonl"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:24]


@functools.cache
def compiled_catalogue() -> tuple[Compiled, ...]:
    """Every catalogue model; from the packaged file, the user's cache, or built now."""
    wanted = fingerprint()
    cache = platformdirs.user_cache_path("advisor") / f"footprint-{wanted}.json"
    for path in (Path(__file__).with_name(FILE), cache):
        found = _read(path, wanted)
        if found is not None:
            return found
    built = build()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(".tmp")
        temporary.write_text(dumps(built, wanted), encoding="utf-8")
        temporary.replace(cache)
    except OSError:
        pass  # a cache that cannot be written costs time, not correctness
    return built


def build() -> tuple[Compiled, ...]:
    """Expand every model of the catalogue and reduce it."""
    from profiles.models import catalogue_index, catalogue_model

    out = []
    for entry in catalogue_index():
        model = catalogue_model(entry.id)
        out.append(
            Compiled(facts_of(model), _nameless(ledger_of(model)), entry.params, entry.license, entry.tags)
        )
    return tuple(out)


def _nameless(ledger: Ledger) -> Ledger:
    return Ledger(tuple(Group(g.fused, g.lines, g.blocks, ()) for g in ledger.groups), ledger.stored_bytes)


def dumps(models: Sequence[Compiled], stamp: str) -> str:
    """The compiled file's text."""
    rows = [
        [
            [*c.facts[:-1], _runs(c.facts.kv_layers)],
            [[g.fused, [list(line) for line in g.lines], _ranges(g.blocks)] for g in c.ledger.groups],
            c.ledger.stored_bytes,
            c.params,
            c.license,
            list(c.tags),
        ]
        for c in models
    ]
    return json.dumps({"fingerprint": stamp, "models": rows}, separators=(",", ":")) + "\n"


def _runs(layers: Sequence[KvFacts]) -> list[Any]:
    runs: list[Any] = []
    for layer in layers:
        if runs and runs[-1][0] == list(layer):
            runs[-1][1] += 1
        else:
            runs.append([list(layer), 1])
    return runs


def _ranges(blocks: Sequence[int]) -> list[list[int]]:
    """Blocks as [start, length] runs."""
    out: list[list[int]] = []
    for block in blocks:
        if out and block == out[-1][0] + out[-1][1] and block >= 0:
            out[-1][1] += 1
        else:
            out.append([block, 1])
    return out


def _read(path: Path, wanted: str) -> tuple[Compiled, ...] | None:
    try:
        raw = json.loads(path.read_bytes())
        if raw["fingerprint"] != wanted:
            return None
        return tuple(_row(row) for row in raw["models"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _row(row: list[Any]) -> Compiled:
    facts, groups, stored, params, license_name, tags = row
    layers: list[KvFacts] = []
    for fields, count in facts[-1]:
        layers += [KvFacts(KvKind(fields[0]), *fields[1:])] * count
    return Compiled(
        ModelFacts._make([*facts[:-1], tuple(layers)]),
        Ledger(
            tuple(
                Group(
                    fused,
                    tuple(map(Line._make, lines)),
                    tuple(itertools.chain.from_iterable(range(start, start + n) for start, n in runs)),
                    (),
                )
                for fused, lines, runs in groups
            ),
            stored,
        ),
        params,
        license_name,
        tuple(tags),
    )


def main() -> None:
    """Write the packaged file."""
    target = Path(__file__).with_name(FILE)
    target.write_text(dumps(build(), fingerprint()), encoding="utf-8")
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
