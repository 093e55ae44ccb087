"""Augmentation: one file per way of augmenting, each with a dataclass of options and the transform that it makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vertebra.data.geometry import Example
from vertebra.structures import Target

Transform = Callable[[Example, Callable[[], Example]], tuple[Tensor, Target]]
"""Makes of an example the network's input [C, h, w] float32, normalised, and the target in pixels of it. The second
argument draws another example of the dataset with torch's random numbers."""
BatchTransform = Callable[[Tensor, list[Target]], tuple[Tensor, list[Target]]]
"""Changes a batch as a whole: images [B, C, H, W] and their targets."""


def happens(probability: float) -> bool:
    """Whether something of a probability in 0..1 happens, by torch's random numbers; 0 takes none of them."""
    return probability > 0 and float(torch.rand(())) < probability


def uniform(low: float, high: float) -> float:
    """A random number in low..high, by torch's random numbers."""
    return low + (high - low) * float(torch.rand(()))
