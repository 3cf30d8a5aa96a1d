"""The original checkpoint without torch: tensors of safetensors files as float32."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from profiles.errors import UsageError

_DTYPES = {"F32": np.float32, "F16": np.float16}


class Checkpoint:
    """Reads one tensor at a time from memory-mapped files."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, tuple[Path, str, tuple[int, ...], int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    start = 8 + length + entry["data_offsets"][0]
                    self._where[name] = (path, entry["dtype"], tuple(entry["shape"]), start)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the header."""
        return self._where[name][2]

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor as float32.

        Raises:
            UsageError: a dtype that is no 16- or 32-bit float: the checkpoint is quantized already.
        """
        path, dtype, shape, start = self._where[name]
        count = int(np.prod(shape, dtype=np.int64))
        if dtype == "BF16":
            raw = np.memmap(path, dtype=np.uint16, mode="r", offset=start, shape=(count,))
            return (raw.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        if dtype not in _DTYPES:
            raise UsageError(
                "this checkpoint is quantized already",
                where=f"{path.name}: {name}",
                got=dtype,
                allowed="BF16, F16, F32",
                next_step="give the original model",
            )
        found = np.memmap(path, dtype=_DTYPES[dtype], mode="r", offset=start, shape=(count,))
        return found.astype(np.float32).reshape(shape)
