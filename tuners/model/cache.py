"""The search cache on disk: one folder per fingerprint, the least recently used ones leave first."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

LIMIT_BYTES = 20 * 2**30
"""Default bound of the whole cache; ADVISOR_CACHE_LIMIT_GIB changes it."""


def limit_bytes() -> int:
    """The bound in force."""
    text = os.environ.get("ADVISOR_CACHE_LIMIT_GIB", "")
    with contextlib.suppress(ValueError):
        return int(float(text) * 2**30)
    return LIMIT_BYTES


def touch(folder: Path) -> None:
    """Note that the folder is in use now."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder, (time.time(), time.time()))


def trim(root: Path, keep: Path, limit: int) -> list[Path]:
    """Remove the least recently used folders until the cache is within `limit`; `keep` always stays."""
    folders = sorted((f for f in root.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime)
    sizes = {f: sum(p.stat().st_size for p in f.rglob("*") if p.is_file()) for f in folders}
    total, removed = sum(sizes.values()), []
    for folder in folders:
        if total <= limit:
            break
        if folder.resolve() == keep.resolve():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        total -= sizes[folder]
        removed.append(folder)
    return removed
