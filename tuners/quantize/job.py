"""Child process: one checkpoint, written under a temporary name, verified, then renamed.

`run_child("tuners.quantize.job", spec, stage="quantize", ...)` runs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path

from pydantic import ValidationError

from profiles.errors import AdvisorError, EnvironmentProblem, RunFailed, UsageError
from tuners.child import child_main, peak_rss_bytes
from tuners.events import Emit, Message, StageFinished, StageStarted
from tuners.quantize.groups import quantization_config
from tuners.quantize.llmcompressor_backend import STAGE, Written, write_checkpoint
from tuners.quantize.preflight import check
from tuners.quantize.schema import QuantizeResult, QuantizeSpec, RecoverResult
from tuners.quantize.source import Source, read_source
from tuners.quantize.verify import verify_checkpoint

MARKER = "advisor_quantize.json"
"""Written last into a checkpoint: the request's fingerprint and the result."""

SLACK_BYTES = 64 * 1024**2
"""Tokenizer, configuration, headers: free space asked for above the tensors."""

TITLE = "Quantize"


def run(spec: QuantizeSpec, emit: Emit) -> QuantizeResult:
    """Write and verify the checkpoint, or find that the same one is already there.

    Raises:
        UsageError: the plan, the model or `out_dir` is wrong.
        EnvironmentProblem: disk or memory is too small.
        RunFailed: quantization failed, or its files are not what was planned.
    """
    start = time.monotonic()
    check(quantization_config(spec.units, spec.plan), spec.units, spec.plan, where=spec.plan.label or None)
    source = read_source(spec.model_path, spec.units)
    blocks = {u.block for u in spec.units}
    emit(StageStarted(stage=STAGE, title=TITLE, total=len(blocks), unit="layers"))
    out, partial = Path(spec.out_dir), spec.partial_dir
    key = fingerprint(spec, source)
    done = None if spec.anew else finished(out, key)
    if done is not None and _sound(out, spec, source, emit):
        _forget(out)
        emit(StageFinished(stage=STAGE, title=TITLE, seconds=0, skipped=True, summary=f"{out} is up to date"))
        return done.model_copy(update={"skipped": True})
    unrecovered = _unrecovered(out, spec, source, emit)
    _check_target(out, spec)
    _check_disk(out, spec, source)
    if partial.exists():
        emit(Message(stage=STAGE, text=f"removing {partial}, left by a run that did not finish"))
        shutil.rmtree(partial)
    recovery: RecoverResult | None = None
    try:
        if unrecovered is None:
            partial.mkdir(parents=True)
            written = write_checkpoint(spec, source, partial, emit)
        else:
            emit(
                Message(stage=STAGE, text=f"{out} is of this plan: its weights are recovered, not made again")
            )
            shutil.copytree(out, partial, ignore=shutil.ignore_patterns(MARKER))
            written = Written.model_validate(unrecovered.model_dump(include=set(Written.model_fields)))
        if spec.recover_steps:
            recovery = _recover(spec, partial, emit)
    except (AdvisorError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as exc:  # whatever the library raises is one failed stage
        raise RunFailed(
            "the model could not be quantized",
            where=spec.model_path,
            got=f"{type(exc).__name__}: {exc}"[:500],
            next_step="the log of this stage has the details",
        ) from exc
    verified = verify_checkpoint(partial, spec.units, spec.plan, source)
    seconds = time.monotonic() - start
    result = QuantizeResult(
        checkpoint=str(out),
        files=(*verified.files, MARKER),
        weight_bytes=verified.weight_bytes,
        unit_bytes=verified.unit_bytes,
        seconds=seconds,
        peak_rss_bytes=peak_rss_bytes(),
        recipe=str(out / "recipe.yaml"),
        plan_key=spec.plan.key,
        recovery=recovery,
        **written.model_dump(),
    )
    (partial / MARKER).write_text(f"{key}\n{result.model_dump_json()}\n", encoding="utf-8")
    _publish(partial, out)
    emit(
        StageFinished(
            stage=STAGE,
            title=TITLE,
            seconds=seconds,
            peak_rss_bytes=result.peak_rss_bytes,
            summary=f"{verified.weight_bytes / 1e6:.1f} MB of weights in {out}",
        )
    )
    return result


def _recover(spec: QuantizeSpec, folder: Path, emit: Emit) -> RecoverResult:
    from tuners.quantize.recover import RecoverSpec, recover_checkpoint

    return recover_checkpoint(
        folder,
        RecoverSpec(
            model_path=spec.model_path,
            units=spec.units,
            plan=spec.plan,
            texts=spec.calibration_texts,
            held_out=spec.held_out,
            steps=spec.recover_steps,
            seed=spec.seed,
            trust_remote_code=spec.trust_remote_code,
        ),
        emit,
    )


def fingerprint(spec: QuantizeSpec, source: Source) -> str:
    """Hash of everything that decides the checkpoint: the request and the source's files."""
    how = {"out_dir", "overwrite", "anew", "input_scales", "held_out", "memory", "memory_bytes"}
    text = spec.model_dump_json(exclude=how)
    for path in sorted(Path(source.path).iterdir()):
        stat = path.stat()
        text += f"\n{path.name} {stat.st_size} {stat.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()


def finished(out: Path, key: str) -> QuantizeResult | None:
    """The result of an earlier run with the same fingerprint, if `out` holds one."""
    with contextlib.suppress(OSError, ValueError, ValidationError):
        old_key, _, result = (out / MARKER).read_text(encoding="utf-8").partition("\n")
        if old_key == key:
            return QuantizeResult.model_validate_json(result)
    return None


def _sound(out: Path, spec: QuantizeSpec, source: Source, emit: Emit) -> bool:
    """Whether a finished checkpoint still is what it was; one that is not is written again."""
    try:
        verify_checkpoint(out, spec.units, spec.plan, source)
    except (AdvisorError, OSError, ValueError) as exc:
        emit(Message(stage=STAGE, level="warning", text=f"{out} was damaged and is written again: {exc}"))
        return False
    return True


def _unrecovered(out: Path, spec: QuantizeSpec, source: Source, emit: Emit) -> QuantizeResult | None:
    """A sound checkpoint of the same request before recovery, where recovery is what is asked."""
    if not spec.recover_steps or spec.anew:
        return None
    found = finished(out, fingerprint(spec.model_copy(update={"recover_steps": 0}), source))
    return found if found is not None and _sound(out, spec, source, emit) else None


def _forget(out: Path) -> None:
    """Remove what a run leaves that is killed between publishing and tidying up."""
    for ending in (".old", ".partial"):
        shutil.rmtree(out.with_name(out.name + ending), ignore_errors=True)


def _check_target(out: Path, spec: QuantizeSpec) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = (out / MARKER).is_file()
    if ours and spec.overwrite:
        return
    raise UsageError(
        "the output folder already holds something else",
        where=str(out),
        got="a checkpoint of another plan or model" if ours else "files that this program did not write",
        allowed="an empty or new folder" + (", or overwrite" if ours else ""),
        next_step="choose another output folder, or move this one away",
    )


def _check_disk(out: Path, spec: QuantizeSpec, source: Source) -> None:
    original = sum(u.numel for u in spec.units) * 2
    needed = spec.plan.bytes_of(spec.units) + max(0, source.nbytes - original) + SLACK_BYTES
    place = out.parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise EnvironmentProblem(
            "not enough disk space for the checkpoint",
            where=str(place),
            got=f"{free} bytes free",
            allowed=f"{needed} bytes",
            next_step="free space or choose another output folder",
        )


def _publish(partial: Path, out: Path) -> None:
    """Flush every file, then give the folder its final name: a reader sees all of it or nothing."""
    for path in (*partial.iterdir(), partial):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    old = out.with_name(out.name + ".old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    child_main(QuantizeSpec, run)
