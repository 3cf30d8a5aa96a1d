"""Checked-by-hand construction of many small frozen objects (a large model has thousands of them)."""

from __future__ import annotations

from typing import Any

from profiles.models.schema import LinearInfo, TensorInfo

_TENSOR_FIELDS = frozenset(TensorInfo.model_fields)
_LINEAR_FIELDS = frozenset(LinearInfo.model_fields)
_set = object.__setattr__


def make_tensor(name: str, shape: tuple[int, ...], dtype: str, file: str | None = None) -> TensorInfo:
    """A `TensorInfo` without validation: callers have checked name, shape and dtype."""
    made = TensorInfo.__new__(TensorInfo)
    _fill(made, {"name": name, "shape": shape, "dtype": dtype, "file": file}, _TENSOR_FIELDS)
    return made


def make_linear(
    name: str, in_features: int, out_features: int, fused: str, role: str, block: int | None, copies: int
) -> LinearInfo:
    """A `LinearInfo` without validation."""
    made = LinearInfo.__new__(LinearInfo)
    values = {
        "name": name,
        "in_features": in_features,
        "out_features": out_features,
        "fused": fused,
        "role": role,
        "block": block,
        "copies": copies,
    }
    _fill(made, values, _LINEAR_FIELDS)
    return made


def _fill(made: Any, values: dict[str, Any], names: frozenset[str]) -> None:
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", names)
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
