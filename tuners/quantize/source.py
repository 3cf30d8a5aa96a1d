"""The checkpoint that is quantized: where it lies, what it stores, what is copied from it unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from profiles.errors import UsageError
from profiles.models.headers import read_tensors
from profiles.models.schema import TensorInfo
from profiles.provenance import Contract
from tuners.plan import Unit
from tuners.quantize.groups import module_names

_COPIED_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
_COPIED_NAMES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_WRITTEN = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")


class Source(Contract):
    """A local checkpoint. `dtype` (BF16 or F16) is that of scales and of 16-bit weights to be written;
    `widened` says that the source is float32, which engines serve in 16 bits: it is stored as BF16."""

    path: str
    tensors: tuple[TensorInfo, ...]
    dtype: str
    widened: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(t.nbytes for t in self.tensors)

    def target_dtype(self, stored: str) -> str:
        """The dtype to write for a tensor stored as `stored`."""
        return self.dtype if self.widened and stored == "F32" else stored


def read_source(model_path: str, units: Iterable[Unit]) -> Source:
    """Read the headers and check that every weight of the units is there, unquantized, in its shape.

    Raises:
        UsageError: not a local checkpoint, or not the one that the units were made from.
    """
    folder = Path(model_path)
    if not (folder / "config.json").is_file():
        raise UsageError(
            "not a local checkpoint",
            where=model_path,
            allowed="a folder with config.json, *.safetensors and a tokenizer",
            next_step="download the model first: hf download MODEL --local-dir DIR",
        )
    tensors = {t.name: t for t in read_tensors(folder)}
    dtypes: list[str] = []
    for unit in units:
        for linear in unit.linears:
            for name in module_names(linear):
                tensor = tensors.get(f"{name}.weight")
                if tensor is None and linear.copies > 1:
                    continue  # stored as one tensor for all experts
                wanted = (linear.out_features, linear.in_features)
                if tensor is None or tensor.shape != wanted or tensor.dtype not in ("BF16", "F16", "F32"):
                    found = "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
                    raise UsageError(
                        f"{unit.name} does not match the checkpoint",
                        where=f"{model_path}: {name}.weight",
                        got=found,
                        allowed=f"BF16, F16 or F32 {list(wanted)}",
                        next_step="make the plan from this checkpoint, and start from one that is "
                        "not quantized yet",
                    )
                dtypes.append(tensor.dtype)
    stored = max(set(dtypes), key=dtypes.count) if dtypes else "BF16"
    return Source(
        path=model_path,
        tensors=tuple(tensors.values()),
        dtype="BF16" if stored == "F32" else stored,
        widened=stored == "F32",
    )


def copy_companions(source: Path, target: Path) -> list[str]:
    """Copy tokenizer, chat template, generation config and licence byte for byte; return their names."""
    copied = []
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.name in _WRITTEN or path.name.endswith(".index.json"):
            continue
        if path.suffix in _COPIED_SUFFIXES or path.name.upper().startswith(_COPIED_NAMES):
            shutil.copyfile(path, target / path.name)
            copied.append(path.name)
    return copied
