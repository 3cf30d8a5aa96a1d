"""What this CPU's INT8 matmuls lose beside INT8's own rounding: layers of a real model, vLLM's kernel.

    python benchmarks/saturation.py MODEL

Without VNNI, oneDNN multiplies with `vpmaddubsw`, whose sums of two products saturate at 16 bits (oneDNN's
developer guide, "Nuances of int8 computations"). Error of the format: its output against the exact one. Error
of the kernel: its output against the format's, multiplied in float64. Both relative (Frobenius norm); inputs
are 16 rows of N(0, 1), |N(0, 1)|, and N(0, 1) with one channel 20 times as large. Prints a row a layer and
kind.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from safetensors import safe_open
from torch import Tensor

SHARES = (0.0, 0.33, 0.66)
"""Which blocks' layers are taken, as shares of the depth."""


def errors(weight: Tensor, rows: Tensor, *, symmetric: bool) -> tuple[float, float]:
    """(format, kernel): relative errors of the output for `weight` (out, in) and `rows` (tokens, in)."""
    from vllm import _custom_ops as ops

    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round().clamp(-127, 127).to(torch.int8)
    q, s, z = ops.onednn_scaled_int8_quant(rows.to(torch.bfloat16), None, None, symmetric)
    rounded = (q.double() - (0 if z is None else z.double())) * s.double()
    ideal = rounded @ (codes.double() * scale.double()).t()
    exact = rows.double() @ weight.double().t()
    adjust = codes.t().sum(dim=0, keepdim=True, dtype=torch.float32) * scale.squeeze()
    handler = ops.create_onednn_scaled_mm(codes.t(), scale, torch.bfloat16, True, not symmetric, 32)
    out = torch.empty((rows.shape[0], weight.shape[0]), dtype=torch.bfloat16)
    ops.onednn_scaled_mm(handler, q, out, s, z, adjust, None)
    own, kernel = (ideal - exact).norm() / exact.norm(), (out.double() - ideal).norm() / ideal.norm()
    return own.item(), kernel.item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    from vllm.platforms import current_platform

    folder = parser.parse_args().model
    current_platform.import_kernels()
    torch.manual_seed(0)
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    print(f"VNNI: {'yes' if 'vnni' in flags else 'no'}\n")
    print("| layer | inputs | zero point | error of the format | of the kernel | ratio |")
    print("|---|---|---|---|---|---|")
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            names = [n for n in tensors.keys() if n.endswith(("q_proj.weight", "down_proj.weight"))]  # noqa: SIM118
            blocks = sorted({int(n.split(".")[2]) for n in names})
            chosen = {blocks[int(share * len(blocks))] for share in SHARES}
            for name in (n for n in names if int(n.split(".")[2]) in chosen):
                weight = tensors.get_tensor(name).float()
                rows = torch.randn(16, weight.shape[1])
                spiked = rows.clone()
                spiked[:, 3] *= 20
                for kind, x in (("normal", rows), ("positive", rows.abs()), ("one channel x 20", spiked)):
                    for symmetric in (True, False):
                        own, kernel = errors(weight, x, symmetric=symmetric)
                        point = "no" if symmetric else "yes"
                        print(
                            f"| {name} | {kind} | {point} | {own:.4f} | {kernel:.4f} | {kernel / own:.2f} |"
                        )


if __name__ == "__main__":
    main()
