"""Safetensors headers of a local folder, read and checked without touching the weights.

Layout (safetensors format specification): 8 bytes little-endian header length, a JSON object
`name -> {dtype, shape, data_offsets}`, then the data without gaps or overlaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from profiles.errors import UsageError
from profiles.models.construct import make_tensor
from profiles.models.schema import DTYPE_BITS, TensorInfo

MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors reference reader takes (`MAX_HEADER_SIZE`)."""

MAX_ELEMENTS = 1 << 50
"""Elements of one tensor beyond which a shape is refused: a petabyte of weights is not a model."""

INDEX_NAME = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


def broken(what: str, where: object, got: str | None = None, allowed: str | None = None) -> UsageError:
    """A checkpoint that cannot be trusted: the file and what is wrong with it."""
    return UsageError(
        what,
        where=str(where),
        got=got,
        allowed=allowed,
        next_step="download or save the checkpoint again",
    )


def parse_json(text: str | bytes, where: object) -> Any:
    """JSON with duplicate keys and NaN refused, as an error that names the file."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [k for k, _ in pairs]
            twice = next(n for i, n in enumerate(names) if n in names[:i])
            raise broken("the same key appears twice", where, got=repr(twice)[:120])
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise broken("this file is not valid JSON", where, got=str(error)[:200]) from error


def read_header(path: Path) -> list[TensorInfo]:
    """Tensors of one file, from its header alone; truncated or inconsistent files are refused."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise broken("safetensors file is truncated", path, got=f"{size} bytes", allowed="8 or more")
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES:
                raise broken(
                    "safetensors header is too long",
                    path,
                    got=f"{length} bytes",
                    allowed=f"at most {MAX_HEADER_BYTES}",
                )
            if 8 + length > size:
                raise broken(
                    "safetensors file is truncated: its header is longer than the file",
                    path,
                    got=f"header {length} bytes, file {size} bytes",
                )
            text = file.read(length)
    except OSError as error:
        raise UsageError("cannot read the checkpoint file", where=str(path), got=str(error)) from error
    return check_header(parse_json(text, path), path, size - 8 - length)


def check_header(header: Any, where: Path, data_bytes: int | None) -> list[TensorInfo]:
    """The tensors of a decoded header; `data_bytes` is the length of the data part when it is known."""
    if not isinstance(header, dict):
        raise broken("safetensors header is not a JSON object", where, got=type(header).__name__)
    spans: list[tuple[int, int, str]] = []
    tensors: list[TensorInfo] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        tensor, begin, end = _entry(name, entry, where)
        spans.append((begin, end, name))
        tensors.append(tensor)
    if not tensors:
        raise broken("safetensors file holds no tensors", where)
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise broken(
                "safetensors data has a gap or an overlap", where, got=f"{name} starts at {begin}, not {at}"
            )
        at = end
    if data_bytes is not None and at != data_bytes:
        what = (
            "safetensors file is truncated" if at > data_bytes else "safetensors file has unknown extra bytes"
        )
        raise broken(
            what, where, got=f"{data_bytes} bytes of data", allowed=f"{at} bytes, as its header says"
        )
    return tensors


def _entry(name: str, entry: Any, where: Path) -> tuple[TensorInfo, int, int]:
    shown = f"tensor {name[:200]!r}"
    if not isinstance(entry, dict):
        raise broken(f"{shown} has no description", where)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise broken(
            f"{shown} has an unknown dtype", where, got=str(dtype)[:80], allowed=", ".join(DTYPE_BITS)
        )
    if not isinstance(shape, list) or not _naturals(shape):
        raise broken(f"{shown} has a bad shape", where, got=str(shape)[:80], allowed="integers of 0 or more")
    if (
        not isinstance(offsets, list)
        or not _naturals(offsets)
        or len(offsets) != 2
        or offsets[0] > offsets[1]
    ):
        raise broken(f"{shown} has bad data_offsets", where, got=str(offsets)[:80], allowed="[begin, end]")
    numel = math.prod(shape)
    if numel > MAX_ELEMENTS:
        raise broken(f"{shown} is absurdly large", where, got=str(shape)[:80])
    tensor = make_tensor(name, tuple(shape), dtype, where.name)
    if (bits := numel * DTYPE_BITS[dtype]) % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise broken(
            f"{shown} does not fill its bytes",
            where,
            got=f"{offsets[1] - offsets[0]} bytes",
            allowed=f"{bits / 8:g} bytes for {dtype} {list(shape)}",
        )
    return tensor, offsets[0], offsets[1]


def _naturals(value: list[Any]) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(type(v) is int and 0 <= v < 1 << 63 for v in value)
    )


def shard_names(weight_map: Any, where: object) -> list[str]:
    """File names of an index, each a plain name inside the folder."""
    table = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise broken("index has no weight_map of tensor names to file names", where)
    names = sorted(set(table.values()))
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise broken("index names a file outside the checkpoint", where, got=name[:120])
    return names


def read_tensors(folder: Path) -> list[TensorInfo]:
    """Every tensor of a checkpoint folder; the index decides the files when there is one."""
    index = folder / INDEX_NAME
    if index.is_file():
        table = parse_json(index.read_bytes(), index)
        names = shard_names(table, index)
        missing = [n for n in names if not (folder / n).is_file()]
        if missing:
            raise broken(
                f"{len(missing)} of {len(names)} files of the checkpoint are missing",
                folder,
                got=", ".join(missing[:4]) + (" ..." if len(missing) > 4 else ""),
            )
        tensors = merge(names, lambda n: read_header(folder / n), folder)
        absent = set(table["weight_map"]) - {t.name for t in tensors}
        if absent:
            raise broken(
                f"{len(absent)} tensors of the index are in no file", index, got=", ".join(sorted(absent)[:3])
            )
        return tensors
    files = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("consolidated"))
    if not files:
        raise no_weights(folder, [p.name for p in folder.iterdir()])
    return merge(files, lambda n: read_header(folder / n), folder)


def no_weights(where: object, names: Iterable[str]) -> UsageError:
    """Why a checkpoint without safetensors is refused: pickles only, or nothing at all."""
    pickles = sorted(n for n in names if n.endswith(PICKLE_SUFFIXES) and n != "training_args.bin")
    if pickles:
        return UsageError(
            "only pickle checkpoints here: loading them runs code, so they are refused",
            where=str(where),
            got=", ".join(pickles[:3]),
            allowed="*.safetensors",
            next_step="convert to safetensors (save_pretrained with safe_serialization) and try again",
        )
    return UsageError(
        "config.json is there, but no weights",
        where=str(where),
        allowed="*.safetensors",
        next_step="finish the download, or give the model's Hub id",
    )


def merge(files: list[str], read: Callable[[str], list[TensorInfo]], where: object) -> list[TensorInfo]:
    """Tensors of several files; a name that two files hold is refused."""
    seen: dict[str, str] = {}
    tensors: list[TensorInfo] = []
    for file in files:
        for tensor in read(file):
            if tensor.name in seen:
                raise broken(
                    "two files hold the same tensor",
                    where,
                    got=f"{tensor.name} in {seen[tensor.name]} and {file}",
                )
            seen[tensor.name] = file
            tensors.append(tensor)
    return tensors
