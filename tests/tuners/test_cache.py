"""The cache stays within its bound and never drops the folder in use."""

from __future__ import annotations

import os
from pathlib import Path

from tuners.model.cache import trim


def folder(root: Path, name: str, size: int, age: float) -> Path:
    path = root / name
    path.mkdir()
    (path / "x.safetensors").write_bytes(b"0" * size)
    os.utime(path, (age, age))
    return path


def test_the_oldest_leave_first_and_the_one_in_use_stays(tmp_path: Path) -> None:
    oldest = folder(tmp_path, "a", 100, 1)
    older = folder(tmp_path, "b", 100, 2)
    newest = folder(tmp_path, "c", 100, 3)

    removed = trim(tmp_path, keep=oldest, limit=250)

    assert removed == [older]
    assert oldest.exists()
    assert newest.exists()


def test_nothing_leaves_a_cache_within_its_bound(tmp_path: Path) -> None:
    folder(tmp_path, "a", 100, 1)
    assert trim(tmp_path, keep=tmp_path / "a", limit=100) == []
