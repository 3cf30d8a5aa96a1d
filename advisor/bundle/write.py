"""Write a bundle: everything into a `.partial` directory, then one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from advisor.bundle import compose, env_sh, manifest, model_card, provenance, run_sh, serve_yaml
from advisor.bundle.context import BundleContext
from advisor.bundle.targets.registry import FOLDER, render_targets
from profiles.errors import EnvironmentProblem, UsageError
from profiles.footprint.schema import ServingSpec
from profiles.hardware.schema import HardwareProfile
from profiles.models.schema import ModelProfile
from tuners.plan import PrecisionPlan, Unit
from tuners.solver import Scores
from tuners.validate.schema import ValidationReport

ARTIFACTS: dict[str, Callable[[BundleContext], str]] = {
    "serve.yaml": serve_yaml.render,
    "env.sh": env_sh.render,
    "run.sh": run_sh.render,
    "compose.yaml": compose.render,
    "README.md": model_card.render,
    "plan.yaml": lambda context: context.plan.to_yaml(),
    "validation.json": lambda context: context.report.model_dump_json(indent=1) + "\n",
    "provenance.json": provenance.render,
}
"""File name -> what writes its text; a new artifact is one module and one line here."""

RECIPE = "recipe.yaml"


def write_bundle(
    out_dir: Path,
    *,
    checkpoint: Path,
    model: ModelProfile,
    hardware: HardwareProfile,
    plan: PrecisionPlan,
    units: Sequence[Unit],
    report: ValidationReport,
    serving: ServingSpec,
    task_name: str,
    inputs: Mapping[str, str] | None = None,
    documents: Sequence[Path] = (),
    scores: Scores | None = None,
    force: bool = False,
) -> list[Path]:
    """Write the deployable directory `out_dir` and return its files.

    The checkpoint is hard-linked into `model/` (copied across file systems). A bundle whose validation
    failed is written too, for inspection: its card says so and its run.sh refuses to serve. `inputs`: what
    was asked, for provenance.json; `documents` (the report) are copied in; `scores`: the measured KL of
    each unit in each format, for what is mapped to other formats.

    Raises:
        UsageError: the checkpoint is not one, or `out_dir` exists and `force` is not given.
        EnvironmentProblem: the disk is full or not writable; nothing finished was touched.
    """
    _check(out_dir, checkpoint, force)
    context = BundleContext(
        checkpoint, model, hardware, plan, units, report, serving, task_name, dict(inputs or {}), scores or {}
    )
    partial = out_dir.with_name(out_dir.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _link_checkpoint(checkpoint, partial / "model")
        for name, render in ARTIFACTS.items():
            (partial / name).write_text(render(context), encoding="utf-8")
        for name, text in render_targets(context).items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text, encoding="utf-8")
        for script in (partial / "run.sh", *(partial / FOLDER).rglob("*.sh")):
            script.chmod(0o755)
        for document in documents:
            shutil.copyfile(document, partial / document.name)
        if (checkpoint / RECIPE).is_file():
            shutil.copyfile(checkpoint / RECIPE, partial / RECIPE)
        (partial / manifest.MANIFEST).write_text(manifest.build(context, partial), encoding="utf-8")
        _move_into_place(partial, out_dir)
    except OSError as exc:
        shutil.rmtree(partial, ignore_errors=True)
        raise EnvironmentProblem(
            "the bundle could not be written",
            where=str(out_dir),
            got=f"{type(exc).__name__}: {exc.strerror or exc}",
            next_step="free disk space or choose another directory, then run the same command again",
        ) from exc
    return sorted(p for p in out_dir.rglob("*") if p.is_file())


def _check(out_dir: Path, checkpoint: Path, force: bool) -> None:
    if not (checkpoint / "config.json").is_file() or not any(checkpoint.glob("*.safetensors")):
        raise UsageError(
            "not a checkpoint",
            where=str(checkpoint),
            got="no config.json, or no *.safetensors beside it",
            next_step="advisor quantize writes one",
        )
    if out_dir.exists() and not out_dir.is_dir():
        raise UsageError("the bundle's path is a file", where=str(out_dir), next_step="choose another path")
    if not out_dir.is_dir() or not any(out_dir.iterdir()):
        return
    if not (out_dir / manifest.MANIFEST).is_file():
        # also with force: a directory that is not a bundle may hold anything
        raise UsageError(
            "the directory is not empty and not a bundle: it is left alone",
            where=str(out_dir),
            next_step="choose another directory",
        )
    if not force:
        raise UsageError(
            "a finished bundle is there already",
            where=str(out_dir),
            next_step="choose another directory, or replace it with --force",
        )


def _link_checkpoint(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if not path.is_file():
            continue
        here = target / path.relative_to(source)
        here.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), here)
        except OSError:
            shutil.copyfile(path, here)


def _move_into_place(partial: Path, out_dir: Path) -> None:
    """Swap by renames: at every moment a whole bundle is at `out_dir` or beside it."""
    old = out_dir.with_name(out_dir.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out_dir.exists():
        os.replace(out_dir, old)
    os.replace(partial, out_dir)
    shutil.rmtree(old, ignore_errors=True)
