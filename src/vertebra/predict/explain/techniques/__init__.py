"""Techniques of explanation. A module of this folder is one; nothing is registered.

A module has
- TITLE: its name in captions;
- applies(task) -> bool: whether it can explain the answers of a task's model;
- explain(task, images, score, ...) -> Tensor: [B, H, W] in 0..1, how much each pixel of normalised images [B, C, H, W]
  counts; 1 is the most important pixel of an image, and an image without any important pixel is 0 everywhere. `score`
  is a function of such images, with a gradient: [N, C, H, W] -> [N]. Further keywords are options.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType


@cache
def techniques() -> dict[str, ModuleType]:
    """Every technique by the name of its file."""
    return {info.name: importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)}
