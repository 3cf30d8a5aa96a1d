"""CUDA_VISIBLE_DEVICES as the CUDA runtime reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from profiles.provenance import Contract

VARIABLE = "CUDA_VISIBLE_DEVICES"


class VisibleOrder(Contract):
    """Positions of the listed devices that a CUDA program sees, in its order; None means all of them."""

    order: tuple[int, ...] | None
    notes: tuple[str, ...] = ()


def visible_devices(
    environ: Mapping[str, str],
    uuids: Sequence[str | None],
    names: Sequence[str],
    numbers: Sequence[int],
) -> VisibleOrder:
    """Apply the variable to devices with those UUIDs and driver numbers.

    CUDA stops at the first entry that names nothing (CUDA programming guide, environment variables).
    """
    text = environ.get(VARIABLE)
    if text is None:
        return VisibleOrder(order=None)
    notes = [f"{VARIABLE}={text!r} limits what this process sees"]
    order: list[int] = []
    for item in (part.strip() for part in text.split(",")):
        chosen = _one(item, uuids, numbers)
        if chosen is None:
            if item not in ("", "-1"):
                notes.append(f"{VARIABLE}: {item!r} names no device; CUDA ignores it and all after it")
            break
        if chosen in order:
            notes.append(f"{VARIABLE}: {item!r} is named twice; CUDA then sees no device")
            return VisibleOrder(order=(), notes=tuple(notes))
        order.append(chosen)
    if len(set(names)) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        notes.append(
            "devices differ and CUDA_DEVICE_ORDER is not PCI_BUS_ID: CUDA may number them "
            "otherwise than the driver"
        )
    return VisibleOrder(order=tuple(order), notes=tuple(notes))


def _one(item: str, uuids: Sequence[str | None], numbers: Sequence[int]) -> int | None:
    if item.isdecimal():
        return numbers.index(int(item)) if int(item) in numbers else None
    if not item.startswith("GPU-"):
        return None
    matches = [i for i, uuid in enumerate(uuids) if uuid is not None and uuid.startswith(item)]
    return matches[0] if len(matches) == 1 else None
