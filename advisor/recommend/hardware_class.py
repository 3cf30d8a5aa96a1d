"""A hardware profile in the framework's words."""

from __future__ import annotations

import re

from advisor.recommend.schema import HardwareClass
from profiles.hardware.schema import Device, DeviceKind, HardwareProfile

GIB = 2**30

CONSUMER_NAME = re.compile(r"\b(GeForce|TITAN|GTX|RTX\W?[2-5]0[5-9]0)", re.IGNORECASE)
"""NVIDIA's consumer cards by name; RTX A6000, RTX 6000 Ada and RTX PRO are workstation cards."""

DATACENTRE_NAME = re.compile(
    r"\b(A10|A16|A30|A40|A100|A800|B100|B200|B300|GB200|GB300|GH200|H20|H100|H200|H800|L4|L20|L40S?|P100|T4|V100)\b",
    re.IGNORECASE,
)
"""NVIDIA's datacentre cards by the model number in the driver's name."""

CLASS_24GB = (22 * GIB, 26 * GIB)
"""Cards sold as 24 GB report 23.5-24 GiB."""

CLASS_12GB_MAX = 13 * GIB
"""Cards sold as 12 GB or less."""


def hardware_classes(profile: HardwareProfile) -> tuple[HardwareClass, ...]:
    """Every class of the framework that the machine belongs to (none for hardware it does not name)."""
    device = profile.device
    if device.kind is DeviceKind.CPU:
        return (HardwareClass.CPU,)
    if device.kind is DeviceKind.METAL:
        return (HardwareClass.APPLE,)
    found: list[HardwareClass] = []
    several = len(profile.devices) > 1
    if several:
        found.append(HardwareClass.MULTI_GPU)
    if device.kind is not DeviceKind.CUDA:
        return tuple(found)
    if device.sm is not None and device.sm >= 90:
        found.append(HardwareClass.HOPPER_BLACKWELL)
    if device.sm == 80:
        found.append(HardwareClass.A100)
    if CONSUMER_NAME.search(device.name):
        found.append(HardwareClass.CONSUMER_RTX)
        found.extend(_memory_class(device))
    elif DATACENTRE_NAME.search(device.name) and not several:
        found.append(HardwareClass.SINGLE_DATACENTRE)
    return tuple(found)


def _memory_class(device: Device) -> tuple[HardwareClass, ...]:
    total = device.total_bytes.value
    if total <= CLASS_12GB_MAX:
        return (HardwareClass.CONSUMER_12GB,)
    if CLASS_24GB[0] <= total <= CLASS_24GB[1]:
        return (HardwareClass.CONSUMER_24GB,)
    return ()
