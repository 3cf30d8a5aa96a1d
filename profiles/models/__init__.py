"""What a model is: checkpoints read from headers alone, and a catalogue that needs no network."""

from profiles.models.catalogue import CatalogueEntry, catalogue_index, catalogue_model, find_model
from profiles.models.reader import read_model
from profiles.models.schema import (
    KvKind,
    KvLayer,
    LinearInfo,
    ModelProfile,
    MoeFacts,
    StoredQuantization,
    TensorInfo,
)

__all__ = [
    "CatalogueEntry",
    "KvKind",
    "KvLayer",
    "LinearInfo",
    "ModelProfile",
    "MoeFacts",
    "StoredQuantization",
    "TensorInfo",
    "catalogue_index",
    "catalogue_model",
    "find_model",
    "read_model",
]
