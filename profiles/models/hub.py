"""Models on the Hub: config download and remote safetensors headers, the cache, or the catalogue."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from profiles.errors import EnvironmentProblem, UsageError
from profiles.models.config import Config
from profiles.models.construct import make_tensor
from profiles.models.headers import MAX_ELEMENTS, broken, no_weights, parse_json
from profiles.models.profile import build_profile, require_architecture
from profiles.models.schema import DTYPE_BITS, ModelProfile, TensorInfo
from profiles.models.stored import stored_quantization

T = TypeVar("T")

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[\w.-]{1,96})?")


class NotReachable(EnvironmentProblem):
    """The Hub does not answer and nothing about the model is stored here."""


def is_hub_id(source: str) -> bool:
    """Whether the text has the form of a Hub id (`org/name`, or a bare name of old)."""
    return bool(HUB_ID.fullmatch(source)) and ".." not in source and not source.endswith((".git", ".", "-"))


def read_hub(
    model_id: str, *, revision: str | None = None, offline: bool = False, trust_remote_code: bool = False
) -> ModelProfile:
    """The profile of a Hub model; without network from the cache, else from the catalogue."""
    from huggingface_hub import constants

    reason = "offline was asked for"
    if constants.HF_HUB_OFFLINE:
        offline, reason = True, "HF_HUB_OFFLINE is set"
    if not offline:
        try:
            return _online(model_id, revision, trust_remote_code)
        except NotReachable as error:
            reason = error.got or error.what
    cached = _cached_folder(model_id, revision)
    if cached is not None:
        from profiles.models.reader import read_folder

        profile = read_folder(cached, trust_remote_code=trust_remote_code, model_id=model_id)
        note = f"read from the local cache ({reason}); the Hub may have a newer revision"
        return profile.model_copy(
            update={"revision": cached.name, "assumptions": (note, *profile.assumptions)}
        )
    return _from_catalogue(model_id, revision, reason)


def _from_catalogue(model_id: str, revision: str | None, reason: str) -> ModelProfile:
    from profiles.models.catalogue import catalogue_model, find_model

    try:
        profile = catalogue_model(model_id)
    except UsageError:
        try:
            hint: str | None = find_model(model_id).id
        except UsageError as error:
            hint = error.allowed
        raise NotReachable(
            "the Hub does not answer, and this model is neither in the local cache nor in the catalogue",
            where=model_id,
            got=reason,
            allowed=hint,
            next_step="connect, or give a local folder, or choose a model of the catalogue",
        ) from None
    note = (
        f"no network ({reason}): tensors synthesised from the bundled catalogue, not read from the checkpoint"
    )
    if revision is not None:
        note += f"; revision {revision} not considered"
    return profile.model_copy(update={"assumptions": (note, *profile.assumptions)})


def _cached_folder(model_id: str, revision: str | None) -> Path | None:
    """A complete snapshot in the cache: config and at least one safetensors file."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model_id, "config.json", revision=revision)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return folder if any(folder.glob("*.safetensors")) else None


def _online(model_id: str, revision: str | None, trust_remote_code: bool) -> ModelProfile:
    import huggingface_hub as hub

    info = _asked(model_id, lambda: hub.HfApi().model_info(model_id, revision=revision))
    names = [s.rfilename for s in (info.siblings or [])]
    if "config.json" not in names:
        gguf = any(n.endswith(".gguf") for n in names)
        raise UsageError(
            "this repository has no config.json",
            where=model_id,
            got="GGUF files only" if gguf else f"{len(names)} files",
            next_step="give the original model's id"
            if gguf
            else "give a repository with a Transformers model",
        )
    sha = info.sha

    def load(name: str) -> Any:
        path = _asked(model_id, lambda: hub.hf_hub_download(model_id, name, revision=sha))
        return parse_json(Path(path).read_bytes(), f"{model_id}/{name}")

    config = Config(load("config.json"), f"{model_id}/config.json")
    architecture = require_architecture(config, trust_remote_code=trust_remote_code)
    modelopt = load("hf_quant_config.json") if "hf_quant_config.json" in names else None
    if not any(n.endswith(".safetensors") for n in names):
        raise no_weights(model_id, names)
    meta = _asked(model_id, lambda: hub.get_safetensors_metadata(model_id, revision=sha))
    tensors = [
        _tensor(name, entry.shape, entry.dtype, file, model_id)
        for file, part in meta.files_metadata.items()
        for name, entry in part.tensors.items()
    ]
    card = getattr(info, "card_data", None)
    return build_profile(
        config,
        tensors,
        architecture,
        model_id=model_id,
        source="hub",
        revision=sha,
        quantization=stored_quantization(config, modelopt if isinstance(modelopt, dict) else None),
        license_name=getattr(card, "license", None) if card is not None else None,
        tags=tuple(info.tags or ())[:32],
    )


def _tensor(name: str, shape: Any, dtype: Any, file: str, where: str) -> TensorInfo:
    if dtype not in DTYPE_BITS or not all(type(v) is int and 0 <= v <= MAX_ELEMENTS for v in shape):
        raise broken(f"tensor {name[:200]!r} has a bad header", where, got=f"{dtype} {list(shape)}"[:120])
    return make_tensor(name, tuple(shape), dtype, file)


def _asked(model_id: str, call: Callable[[], T]) -> T:
    """Run one request; what the Hub may answer becomes an error that says what to do."""
    import httpx
    from huggingface_hub import errors

    try:
        return call()
    except errors.GatedRepoError as error:
        raise UsageError(
            "this model is gated",
            where=model_id,
            got="the Hub refuses its files to this account",
            next_step="accept its licence on its page, then set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError("no such revision", where=model_id, next_step="leave the revision out") from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            "no such model on the Hub, or it is private",
            where=model_id,
            next_step="check the spelling; for a private one set HF_TOKEN",
        ) from error
    except errors.NotASafetensorsRepoError as error:
        raise no_weights(model_id, ()) from error
    except (errors.SafetensorsParsingError, errors.HFValidationError) as error:
        raise broken("the Hub's headers cannot be read", model_id, got=str(error)[:200]) from error
    except (
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        errors.EntryNotFoundError,
        errors.HfHubHTTPError,
        httpx.HTTPError,
        OSError,
    ) as error:
        raise NotReachable(
            "the Hub does not answer", where=model_id, got=f"{type(error).__name__}: {error}"[:160]
        ) from error
