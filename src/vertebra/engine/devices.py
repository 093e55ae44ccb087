"""Which devices and processes of this machine take part in a run."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import torch

from vertebra.errors import VertebraError, shown

if TYPE_CHECKING:
    from vertebra.engine.settings import Settings


def is_first_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0


def available() -> list[str]:
    """The devices of this machine by their names in torch, those that `auto` prefers first."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    apple = ["mps"] if torch.backends.mps.is_available() else []
    return [*(f"cuda:{index}" for index in range(gpus)), "cpu", *apple]


def find(name: str) -> list[torch.device]:
    """The devices that a name stands for, one at least.

    Args:
        name: `cpu`, `mps`, `cuda` (every GPU), one GPU (`cuda:1` or `1`), several (`cuda:0,1` or `0,1`), or `auto`:
            every GPU, or else the CPU.

    Raises:
        VertebraError: if this machine has no such device.
    """
    known = available()
    kind = known[0].partition(":")[0] if name == "auto" else name
    if numbers := re.fullmatch(r"(?:cuda:)?(\d{1,4}(?:,\d{1,4})*)", name):
        names = [f"cuda:{int(number)}" for number in numbers[1].split(",")]
    else:
        names = [device for device in known if kind in (device, device.partition(":")[0])]
    if not names or not set(names) <= set(known) or len(set(names)) < len(names):
        there = (
            "this machine has" if torch.version.cuda or torch.version.hip else "torch is installed without CUDA: use"
        )
        raise VertebraError(f"device is {shown(name)}; {there} {', '.join(known)}.")
    return [torch.device(device) for device in names]


def find_one(device: torch.device | str | None) -> torch.device:
    """The device that a name stands for; the first GPU for `cuda`, and for `auto` and None if there is one.

    Raises:
        VertebraError: if this machine has no such device, or the name is that of several.
    """
    if isinstance(device, torch.device):
        return device
    if device is not None and "," in device:
        raise VertebraError(f"device is {shown(device)}; one model runs on one device, such as {device.split(',')[0]}.")
    return find(device or "auto")[0]


def run_devices(settings: Settings) -> list[torch.device]:
    """The device of each process of a run on this machine; several processes may share a CPU.

    Processes are as many as torchrun started, else as the settings say, else one per device.

    Raises:
        VertebraError: if this machine has no such device, or too few of them.
    """
    devices = find(settings.device)
    count = int(os.environ.get("LOCAL_WORLD_SIZE", settings.processes)) or len(devices)
    if devices[0].type == "cpu":
        devices *= max(1, os.cpu_count() or 1)
    if count > len(devices):
        there = ", ".join(dict.fromkeys(map(str, devices)))
        raise VertebraError(f"processes is {count}; device {settings.device} ({there}) is for {len(devices)} at most.")
    return devices[:count]
