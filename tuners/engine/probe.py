"""Worker extension: what the engine chose and loaded, asked by `LLM.collective_rpc`.

vLLM imports this module in each worker before the model is loaded, which is also what registers the
probing loader. Method names start with `advisor_`: vLLM refuses names that its worker has already.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from tuners.engine.loader import LOAD_FORMAT, RECORD

__all__ = ["EXTENSION", "LOAD_FORMAT", "WorkerProbe"]

EXTENSION = "tuners.engine.probe.WorkerProbe"
_KERNEL_ATTRIBUTES = ("kernel", "fp8_linear", "linear_kernel", "moe_kernel")
"""Where vLLM 0.32's schemes and methods keep the kernel they chose (quantization/*.py)."""


class WorkerProbe:
    """Mixed into vLLM's worker class."""

    model_runner: Any

    def advisor_modules(self) -> dict[str, tuple[str, str]]:
        """Module -> (kernel, scheme) of every linear layer, expert block, embedding and head."""
        out: dict[str, tuple[str, str]] = {}
        for name, module in self.model_runner.get_model().named_modules():
            method = getattr(module, "quant_method", None)
            if method is None or type(method).__name__.endswith("KVCacheMethod"):
                continue
            scheme = getattr(module, "scheme", None)
            out[name] = (
                kernel_of(scheme, method),
                type(scheme if scheme is not None else method).__name__,
            )
        return out

    def advisor_bytes(self) -> dict[str, int]:
        """Module -> bytes of its parameters before kernels repacked them (loader.RECORD)."""
        return dict(getattr(self.model_runner.get_model(), RECORD, {}))

    def advisor_watch(self, modules: dict[str, str]) -> None:
        """Keep inputs and outputs of the modules (unit name -> module name) from now on."""
        import torch

        self._watched: dict[str, tuple[list[Any], list[Any]]] = {name: ([], []) for name in modules}
        model = self.model_runner.get_model()

        def keep(name: str, args: Any, out: Any) -> None:
            # copied in any case: the engine rotates queries and keys, and adds residuals, in place
            both = args[0], out[0] if isinstance(out, tuple) else out
            for kept, value in zip(self._watched[name], both, strict=True):
                kept.append(value.detach().to("cpu", torch.float32, copy=True))

        self._handles = [
            model.get_submodule(module).register_forward_hook(
                lambda _m, args, out, name=name: keep(name, args, out)
            )
            for name, module in modules.items()
        ]

    def advisor_watched(self, folder: str) -> None:
        """Write what was kept as `<unit>.in.npy` and `<unit>.out.npy` (rows, features), and stop keeping."""
        import numpy as np
        import torch

        for handle in self._handles:
            handle.remove()
        for name, sides in self._watched.items():
            for side, rows in zip(("in", "out"), sides, strict=True):
                np.save(Path(folder, f"{name}.{side}.npy"), torch.cat(rows).numpy())
        self._watched.clear()

    def advisor_memory(self) -> dict[str, int]:
        """Bytes of the KV cache tensors, and the peak resident memory of this worker."""
        seen: dict[int, int] = {}
        for tensor in _tensors(getattr(self.model_runner, "kv_caches", [])):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"kv_cache_bytes": sum(seen.values()), "peak_rss_bytes": peak}


def kernel_of(scheme: Any, method: Any) -> str:
    """Class name of the kernel that a layer's scheme or method chose."""
    for holder in (scheme, method):
        for attribute in _KERNEL_ATTRIBUTES:
            kernel = getattr(holder, attribute, None)
            if kernel is not None:
                return type(kernel).__name__
    return type(method).__name__


def _tensors(caches: Any) -> list[Any]:
    if hasattr(caches, "untyped_storage"):
        return [caches]
    items = caches.values() if isinstance(caches, dict) else caches
    return [t for item in items for t in _tensors(item)]
