"""Which architectures the engine knows, and which modules it merges (`architectures.json`)."""

from __future__ import annotations

import functools
import json
from importlib import resources

from profiles.provenance import Contract

ENGINE_VERSION = "0.32.0"
"""The vLLM whose registry and `packed_modules_mapping` the table restates."""

STANDARD: dict[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Fusions of every Llama-like class (vLLM 0.32, `LlamaForCausalLM.packed_modules_mapping`)."""


class Architecture(Contract):
    """An architecture as the engine sees it; `known` is False for one that its registry lacks."""

    name: str
    known: bool
    fusions: dict[str, tuple[str, ...]]
    multimodal: bool = False
    encoder: bool = False


@functools.cache
def architecture_table() -> dict[str, Architecture]:
    """Every architecture of the engine's registry."""
    data = json.loads(resources.files("profiles.models").joinpath("architectures.json").read_text("utf-8"))
    multimodal, encoders = set(data["multimodal"]), set(data["encoders"])
    return {
        name: Architecture(
            name=name,
            known=True,
            fusions={k: tuple(v) for k, v in data["fusions"][group].items()},
            multimodal=name in multimodal,
            encoder=name in encoders,
        )
        for group, names in data["architectures"].items()
        for name in names
    }


def find_architecture(name: str) -> Architecture:
    """The engine's entry for `name`, or one marked unknown with Llama's fusions."""
    found = architecture_table().get(name)
    return found or Architecture(name=name, known=False, fusions=STANDARD)
