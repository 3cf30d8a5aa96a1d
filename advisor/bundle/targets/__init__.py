"""The same deployment for other platforms and engines: one module per target, refused where it would lie."""

from advisor.bundle.targets.registry import TARGETS, Refused, Rendered, render_targets

__all__ = ["TARGETS", "Refused", "Rendered", "render_targets"]
