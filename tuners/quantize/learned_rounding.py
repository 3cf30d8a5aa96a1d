"""llm-compressor's AutoRoundModifier on plans whose blocks mix methods.

Version 0.14 looks for its targets by their names within the block, so exact names of the whole model never
match, and it tunes every linear of the block that has no format of its own. Here targets are found by their
full names and all others are left out of the tuning. It also hands the last tuned block's output to the next
tuned one, as if no other block lay between.
"""

from __future__ import annotations

from typing import Any

import torch
from llmcompressor.modifiers import autoround


class AutoRoundModifier(autoround.AutoRoundModifier):  # type: ignore[misc]
    """Learned rounding of exactly the targets. The pipeline knows the modifier by this class name."""

    def _match_autoround_targets(self, model: torch.nn.Module) -> set[torch.nn.Module]:
        wanted = self.resolved_targets
        return {m for m in model.modules() if getattr(m, "_tmp_name", None) in wanted}

    def get_unquantized_layer_names(self, wrapped_model: torch.nn.Module) -> list[str]:
        """Names within the block of the linears that are not tuned."""
        targets = self._match_autoround_targets(wrapped_model)
        return [
            name
            for name, module in wrapped_model.named_modules()
            if isinstance(module, torch.nn.Linear) and module not in targets
        ]

    def apply_autoround(self, state: Any, modules: list[torch.nn.Module]) -> None:
        """Nothing is done for a block without a target; the next one is tuned on its own captured inputs."""
        blocks = [m for m in modules or [] if self._is_decoding_layer(m)]
        if any(self._match_autoround_targets(block) for block in blocks):
            super().apply_autoround(state, modules)
        else:
            self._q_input = None
