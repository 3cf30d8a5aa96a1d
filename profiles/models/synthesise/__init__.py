"""Tensors of a model from its config alone, named and shaped as in the published checkpoint."""

from profiles.models.synthesise.decoder import synthesise

__all__ = ["synthesise"]
