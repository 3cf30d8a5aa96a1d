"""`read_model`: a folder or a Hub id to a `ModelProfile`, from config and headers alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from profiles.errors import UsageError
from profiles.models.config import Config
from profiles.models.headers import no_weights, parse_json, read_tensors
from profiles.models.hub import is_hub_id, read_hub
from profiles.models.profile import build_profile, require_architecture
from profiles.models.schema import ModelProfile, TensorInfo
from profiles.models.stored import stored_quantization

MAX_CONFIG_BYTES = 16_000_000
"""A config.json beyond this is refused: real ones stay under 100 kB, quantized ones under 2 MB."""


def read_model(
    source: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
) -> ModelProfile:
    """What a checkpoint is, without downloading or loading its weights.

    `source` is a folder or a Hub id. Without network the cache is read, then the bundled
    catalogue, which `source="catalogue"` and `assumptions` of the answer then say.
    """
    if not source or "\0" in source:
        raise UsageError("no model named", got=repr(source), allowed="a folder or a Hub id like org/name")
    path = Path(source).expanduser()
    try:
        exists, folder = path.exists(), path.is_dir()
    except OSError as error:
        raise UsageError("cannot read the model's path", where=source[:200], got=str(error)[:200]) from error
    if folder and (gguf := only_gguf(path)) is not None:
        from profiles.models.gguf import read_gguf

        return read_gguf(gguf)
    if folder:
        return read_folder(path, trust_remote_code=trust_remote_code)
    if exists:
        if path.suffix == ".gguf":
            from profiles.models.gguf import read_gguf

            return read_gguf(path)
        raise UsageError(
            "a model is a folder, not a file",
            where=str(path),
            next_step=f"give the folder: {path.parent}",
        )
    if not is_hub_id(source):
        raise UsageError(
            "no such model",
            where=source[:200],
            allowed="an existing folder, or a Hub id like org/name",
            next_step="check the path",
        )
    return read_hub(source, revision=revision, offline=offline, trust_remote_code=trust_remote_code)


def only_gguf(folder: Path) -> Path | None:
    """The GGUF file (or first part) of a folder that holds one and no other checkpoint."""
    if (folder / "config.json").is_file():
        return None
    found = sorted(p for p in folder.glob("*.gguf"))
    whole = [p for p in found if not re.search(r"-\d{5}-of-\d{5}\.gguf$", p.name)]
    first = [p for p in found if p.name.endswith(".gguf") and "-00001-of-" in p.name]
    one = [*whole, *first]
    return one[0] if len(one) == 1 else None


def read_folder(
    folder: Path, *, trust_remote_code: bool = False, model_id: str | None = None
) -> ModelProfile:
    """The profile of a local checkpoint folder."""
    config = Config(read_json_file(folder / "config.json", folder), str(folder / "config.json"))
    architecture = require_architecture(config, trust_remote_code=trust_remote_code)
    modelopt_path = folder / "hf_quant_config.json"
    modelopt: Any = read_json_file(modelopt_path, folder) if modelopt_path.is_file() else None
    quantization = stored_quantization(config, modelopt if isinstance(modelopt, dict) else None)
    tensors: list[TensorInfo] = read_tensors(folder)
    return build_profile(
        config,
        tensors,
        architecture,
        model_id=model_id or str(config.raw.get("_name_or_path") or folder.resolve().name),
        source="local",
        path=str(folder.resolve()),
        quantization=quantization,
    )


def read_json_file(path: Path, folder: Path) -> Any:
    """A JSON file of the checkpoint; a folder without config.json is explained."""
    if not path.is_file():
        names = [p.name for p in folder.iterdir()]
        if not names:
            raise UsageError(
                "this folder is empty", where=str(folder), allowed="config.json and *.safetensors"
            )
        gguf = next((n for n in names if n.endswith(".gguf")), None)
        if gguf is not None:
            raise UsageError(
                "this folder holds several GGUF files",
                where=str(folder),
                got=gguf,
                next_step=f"name one: {folder / gguf}; or the model that they were made from (safetensors)",
            )
        if not any(n.endswith(".safetensors") for n in names):
            problem = no_weights(folder, names)
            if problem.got is not None:
                raise problem
        raise UsageError(
            f"no {path.name} here",
            where=str(folder),
            got=", ".join(sorted(names)[:6]),
            next_step="give the folder that holds config.json and *.safetensors",
        )
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UsageError(
            f"{path.name} is absurdly large",
            where=str(path),
            got=f"{path.stat().st_size} bytes",
            allowed=f"at most {MAX_CONFIG_BYTES}",
        )
    return parse_json(path.read_bytes(), path)
