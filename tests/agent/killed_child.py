"""Child of test_killed.py: attempts kept and put back, killed before each file operation in turn."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from advisor.agent import keep
from advisor.workspace import Workspace
from tests.quantize.killed_child import forked, killed_before

WEIGHTS = ("checkpoint", "model.safetensors")
RECORDS = tuple(n for n in keep.FILES if n.startswith("stages/"))


def write(workspace: Workspace, number: int) -> None:
    """The run as attempt `number` leaves it; the quantizer replaces the folder whole."""
    shutil.rmtree(workspace.path("checkpoint"), ignore_errors=True)
    for name in (*keep.FILES, "/".join(WEIGHTS)):
        path = workspace.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f"{number}")


def held(root: Path, *, records: bool) -> set[str]:
    """Which attempts' content the files have; the stage records with them, or without."""
    names = [n for n in (*keep.FILES, "/".join(WEIGHTS)) if records or n not in RECORDS]
    return {(root / n).read_text() if (root / n).exists() else "-" for n in names}


def believed(root: Path) -> bool:
    """Whether the next command would take the stages as done."""
    return all((root / name).exists() for name in RECORDS)


def main(root: Path) -> dict[str, list[list[object]]]:
    """What was found after every kill of `restore` and of `keep`."""
    with Workspace.open(root) as workspace:
        write(workspace, 1)
        keep.keep(workspace, 1)
        restored, kept = [], []
        for number in range(1, 200):
            write(workspace, 2)

            def work(number: int = number) -> None:
                killed_before(number, root, lambda: None)
                keep.restore(workspace, 1)

            code, _ = forked(work)
            wrong = believed(root) and held(root, records=True) not in ({"1"}, {"2"})
            whole = keep.restore(workspace, 1) and held(root, records=True) == {"1"}
            restored.append([code, wrong, whole])
            if code == 0:
                break
        for number in range(1, 200):
            write(workspace, 2)
            shutil.rmtree(keep.folder(workspace, 2), ignore_errors=True)

            def work(number: int = number) -> None:
                killed_before(number, root, lambda: None)
                keep.keep(workspace, 2)

            code, _ = forked(work)
            folder = keep.folder(workspace, 2)
            wrong = folder.exists() and held(folder, records=True) != {"2"}
            keep.keep(workspace, 2)
            kept.append([code, wrong, held(folder, records=True) == {"2"}])
            if code == 0:
                break
    return {"restore": restored, "keep": kept}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
