"""vLLM plugin: INT4 on x86 CPUs whose vLLM build has no INT4 kernel.

vLLM's AVX2 build registers no `cpu_gemm_wna16`, yet `CPUWNA16LinearKernel` says that it can serve the
layer and fails at the first forward. There, and only there, this plugin puts a kernel in front of it.

Entry point `vllm.general_plugins: advisor_cpu_int4`; every vLLM process calls `register` once.
"""

from __future__ import annotations

import logging
import platform

_LOG = logging.getLogger("vllm.advisor")
_X86 = {"x86_64", "amd64", "i686", "i386"}


def register() -> None:
    """Register the kernel where it is needed; a no-op elsewhere, and never an error at engine start."""
    try:
        if platform.machine().lower() in _X86 and _is_cpu_platform() and not _has_native_kernel():
            _put_first()
    except Exception:
        # an engine that serves something else must not die of a plugin
        _LOG.warning("Advisor's INT4 kernel was not registered", exc_info=True)


def _is_cpu_platform() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _has_native_kernel() -> bool:
    """Whether this vLLM build has its own INT4 matmul (AVX-512 builds do)."""
    import torch
    import vllm._custom_ops  # noqa: F401  loads the compiled operators

    return hasattr(torch.ops._C, "cpu_gemm_wna16")


def _put_first() -> None:
    """Insert ahead of CPUWNA16: `register_linear_kernel` only appends, and CPUWNA16 claims the layer."""
    import vllm.model_executor.kernels.linear as linear
    from vllm.platforms import PlatformEnum

    from tuners.engine.int4_kernel import AdvisorTorchInt4LinearKernel

    kernels = linear._POSSIBLE_KERNELS[PlatformEnum.CPU]
    if AdvisorTorchInt4LinearKernel not in kernels:
        kernels.insert(0, AdvisorTorchInt4LinearKernel)
        _LOG.info("AdvisorTorchInt4LinearKernel serves INT4 here: this vLLM build has no kernel of its own")
