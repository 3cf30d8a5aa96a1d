"""Attempts side by side: plan, verdict and checkpoint of each are kept (hard links), the best is put back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from advisor.workspace import Workspace, disk_errors

FILES = (
    "plan.yaml",
    "quantize.json",
    "validation.json",
    "validation/quantized.json",
    "validation/quantized.stamp",
    "stages/quantize.json",
    "stages/validate.json",
)
"""What says which plan the run holds and what was measured of it; stage records keep it fresh."""


def folder(workspace: Workspace, number: int) -> Path:
    """Where an attempt is kept."""
    return workspace.path("attempts", str(number))


def keep(workspace: Workspace, number: int) -> None:
    """Copy the state of the run into attempts/<number>, whole or not at all."""
    target = folder(workspace, number)
    partial = target.with_name(target.name + ".partial")
    with disk_errors(target):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in FILES:
            if workspace.path(name).exists():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(workspace.path(name), partial / name)
        if workspace.path("checkpoint").is_dir():
            shutil.copytree(workspace.path("checkpoint"), partial / "checkpoint", copy_function=_link)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)


def restore(workspace: Workspace, number: int) -> bool:
    """Put an attempt back into the run; False when it was not kept."""
    source = folder(workspace, number)
    if not source.is_dir():
        return False
    with disk_errors(workspace.root):
        old, new = workspace.path("checkpoint"), workspace.path("checkpoint.restored")
        shutil.rmtree(new, ignore_errors=True)
        # first what makes the stages fresh, and last again: killed halfway, they are run anew, not believed
        for name in reversed(FILES):
            workspace.path(name).unlink(missing_ok=True)
        if (source / "checkpoint").is_dir():
            shutil.copytree(source / "checkpoint", new, copy_function=_link)
            shutil.rmtree(old, ignore_errors=True)
            os.replace(new, old)
        for name in FILES:
            if (source / name).exists():
                target = workspace.path(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(target.name + ".partial")
                shutil.copy2(source / name, partial)
                os.replace(partial, target)
    return True


def forget_checkpoints(workspace: Workspace, *, but: int | None) -> None:
    """Free the disk: of the attempts' checkpoints only `but` stays; plans and verdicts all stay."""
    for path in workspace.path("attempts").glob("*/checkpoint"):
        if path.parent.name != str(but):
            shutil.rmtree(path, ignore_errors=True)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
