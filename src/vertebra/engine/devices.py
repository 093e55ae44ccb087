"""Which devices and processes of this machine take part in a run."""

from __future__ import annotations

import os

import torch

from vertebra.engine.settings import Settings


def is_first_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0


def on_gpu(settings: Settings) -> bool:
    return torch.cuda.is_available() and settings.accelerator in ("auto", "cuda")


def num_devices(settings: Settings) -> int:
    """How many devices of this machine take part."""
    return settings.devices or (torch.cuda.device_count() if on_gpu(settings) else 1)
