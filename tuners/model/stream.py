"""Weights that are in memory only while they are used: blocks of a model larger than memory.

The model is built without weights (Accelerate's `init_empty_weights`); the tensors of a decoder block, or of
any other large module, are read from the safetensors files when it is entered and dropped when it is left.
Reading is by memory map, opened for one group of tensors at a time: what is mapped is given back with it.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from profiles.errors import UsageError
from profiles.models.headers import read_tensors
from profiles.models.schema import TensorInfo
from tuners.model.limits import SMALL_BYTES

MMAP_THRESHOLD_BYTES = 2**20
"""Allocations from this size on are mapped, so that freeing them returns them to the system. glibc raises its
own threshold to 32 MiB as large blocks are freed, and the heap then keeps what a block has left."""


class WeightFiles:
    """The tensors of a local checkpoint, read by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, TensorInfo] = {t.name: t for t in read_tensors(folder)}

    def read(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A copy of one tensor; integers keep their type."""
        with self._opened(name) as file:
            found = file.get_tensor(name)
            kind = dtype if found.is_floating_point() else found.dtype
            return found.to(device=device, dtype=kind, copy=True)

    def rows(self, name: str, index: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Some rows of a matrix: only their pages are read."""
        with self._opened(name) as file:
            return file.get_tensor(name)[index.cpu()].to(device=device, dtype=dtype)

    def _opened(self, name: str) -> Any:
        from safetensors import safe_open

        file = self.tensors[name].file
        assert file is not None
        return safe_open(self.folder / file, "pt")


class WeightStream:
    """Groups of parameters, each in memory while at least one `loaded` of its key is open."""

    def __init__(self, files: WeightFiles, dtype: torch.dtype, device: torch.device) -> None:
        self.files, self.dtype, self.device = files, dtype, device
        self._groups: dict[Hashable, dict[str, nn.Parameter]] = {}
        self._held: Counter[Hashable] = Counter()
        self.loads: Counter[Hashable] = Counter()

    def add(self, key: Hashable, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put parameters, by their names in the checkpoint, under the care of the stream."""
        self._groups[key] = dict(parameters)

    def group(self, key: Hashable) -> Mapping[str, nn.Parameter]:
        """The parameters of a group by their names in the checkpoint."""
        return self._groups[key]

    def holds(self, key: Hashable) -> bool:
        """Whether the group is in memory now."""
        return self._held[key] > 0

    def knows(self, key: Hashable) -> bool:
        """Whether there is such a group."""
        return key in self._groups

    @contextmanager
    def loaded(self, key: Hashable, skip: Collection[str] = ()) -> Iterator[None]:
        """Have a group in memory, without the tensors of `skip`, which the caller brings himself."""
        self._held[key] += 1
        try:
            if self._held[key] == 1:
                self.loads[key] += 1
                for name, parameter in self._groups[key].items():
                    if name not in skip:
                        parameter.data = self.files.read(name, self.dtype, self.device)
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                for parameter in self._groups[key].values():
                    parameter.data = self._nothing()
                _libc("malloc_trim", 0)

    def _nothing(self) -> Tensor:
        return torch.empty(0, dtype=self.dtype, device=self.device)


class Originals(Mapping[str, Tensor]):
    """The original weights by module name: as loaded where the block is in memory, else from the files."""

    def __init__(self, stream: WeightStream, blocks: Mapping[str, Hashable]) -> None:
        self._stream, self._blocks = stream, blocks
        self._kept: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._kept:
            return self._kept[name]
        found = self._stream.files.read(f"{name}.weight", self._stream.dtype, self._stream.device)
        if self._stream.holds(self._blocks[name]):
            self._kept[name] = found
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what was just loaded, so that it can be put back after a variant."""
        self._kept.update(tensors)

    def drop(self, names: Collection[str]) -> None:
        """Forget the weights of a block that is left."""
        for name in names:
            self._kept.pop(name, None)


def empty_model(path: Path, dtype: torch.dtype, *, trust_remote_code: bool) -> nn.Module:
    """The model of a configuration with parameters on the meta device and real buffers."""
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    assert isinstance(model, nn.Module)
    return model


def attach(model: nn.Module, blocks: Mapping[str, int], files: WeightFiles, stream: WeightStream) -> None:
    """Give every parameter of `model` to the stream, or load it when it is small.

    `blocks` maps the module name of each decoder block to its number, which is its key. Other large modules
    are loaded around their own forward; a plain embedding reads the rows that it is asked for.

    Raises:
        UsageError: the checkpoint stores a tensor under another name than the module's.
    """
    _libc("mallopt", -3, MMAP_THRESHOLD_BYTES)  # M_MMAP_THRESHOLD, mallopt(3)
    names = _stored_names(model, files)
    for prefix, number in blocks.items():
        block = model.get_submodule(prefix)
        _placeholders(block, stream)
        stream.add(number, {names[f"{prefix}.{n}"]: p for n, p in block.named_parameters()})
    inside = tuple(f"{prefix}." for prefix in blocks)
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own or f"{prefix}.".startswith(inside):
            continue
        stored = {names[f"{prefix}.{n}"]: n for n in own}
        _placeholders(module, stream, recurse=False)
        size = sum(files.tensors[n].numel for n in stored) * stream.dtype.itemsize
        if size <= SMALL_BYTES:
            for name, leaf in stored.items():
                getattr(module, leaf).data = files.read(name, stream.dtype, stream.device)
        elif type(module) is nn.Embedding:
            module.__dict__["forward"] = _row_lookup(module, next(iter(stored)), files, stream)
        else:
            stream.add(prefix, {n: getattr(module, leaf) for n, leaf in stored.items()})
            module.__dict__["forward"] = around(module, prefix, stream)
    for name, buffer in model.named_buffers():
        if name in files.tensors:
            buffer.data = files.read(name, buffer.dtype, buffer.device)
    if stream.device.type != "cpu":
        for module in model.modules():
            for leaf, value in module.named_buffers(recurse=False):
                setattr(module, leaf, value.to(stream.device))


def around(module: nn.Module, key: Hashable, stream: WeightStream) -> Callable[..., Any]:
    """The module's own forward with its weights loaded for the call."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        with stream.loaded(key):
            return type(module).forward(module, *args, **kwargs)

    return forward


def _row_lookup(
    module: nn.Embedding, name: str, files: WeightFiles, stream: WeightStream
) -> Callable[[Tensor], Tensor]:
    def forward(ids: Tensor) -> Tensor:
        used, place = torch.unique(ids, return_inverse=True)
        rows = files.rows(name, used, stream.dtype, stream.device)
        return F.embedding(place.to(stream.device), rows)

    return forward


def _placeholders(module: nn.Module, stream: WeightStream, *, recurse: bool = True) -> None:
    """Empty parameters in place of those on the meta device, whose data cannot be set later."""
    for part in module.modules() if recurse else (module,):
        for leaf in list(part._parameters):
            if part._parameters[leaf] is not None:
                empty = torch.empty(0, dtype=stream.dtype, device=stream.device)
                part._parameters[leaf] = nn.Parameter(empty, requires_grad=False)


def _stored_names(model: nn.Module, files: WeightFiles) -> dict[str, str]:
    """Parameter name to the name of its tensor in the files; a tied one has the name of its source."""
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    out, missing = {}, []
    for name, _ in model.named_parameters(remove_duplicate=False):
        stored = name if name in files.tensors else tied.get(name, name)
        out[name] = stored
        if stored not in files.tensors:
            missing.append(name)
    if missing:
        raise UsageError(
            "this model cannot be read block by block: its files name tensors otherwise than its modules",
            where=str(files.folder),
            got=f"no tensor {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            next_step="run on a machine whose memory holds the whole model",
        )
    return out


def _libc(name: str, *args: int) -> None:
    """A call of glibc's allocator: freed memory goes back to the system, and is not kept in fragments (twelve
    blocks of 17 MB left 135 MB behind). Without glibc nothing happens."""
    with suppress(OSError, AttributeError):
        getattr(ctypes.CDLL("libc.so.6"), name)(*args)
