"""The tensors of a format and its price are the same arithmetic."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from profiles.formats import MENU
from profiles.models.schema import TensorInfo
from tuners.quantize.layout import stored_tensors


@given(st.sampled_from(sorted(MENU)), st.integers(1, 40), st.integers(1, 80))
def test_stored_tensors_weigh_what_the_format_is_priced_at(name: str, rows: int, eights: int) -> None:
    fmt, out_features, in_features = MENU[name], rows * 8, eights * 8
    assume(fmt.shape_problem(out_features, in_features) is None)
    tensors = stored_tensors(fmt, out_features, in_features)

    total = sum(TensorInfo(name=n, dtype=d, shape=s).nbytes for n, (d, s) in tensors.items())
    assert total == fmt.weight_bytes(out_features, in_features)
