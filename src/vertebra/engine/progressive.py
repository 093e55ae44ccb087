"""Progressive learning: small images and little regularisation first, larger images and more of it stage by stage.

Source: EfficientNetV2, arXiv:2104.00298, section 4, algorithm 1 and table 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn

from vertebra.data.loader import Batch, EndlessLoader
from vertebra.engine.settings import Settings
from vertebra.errors import VertebraError
from vertebra.structures import Preprocess
from vertebra.tasks import Task

FIRST_SIZE = 128 / 300
"""Of the first stage, as a share of the final image size: that of EfficientNetV2-S."""
FIRST_DROPOUT = 0.1
MULTIPLE = 8
"""Of which the image sizes before the final one are."""


def share(settings: Settings, epoch: int) -> float:
    """How far an epoch, counted from 0, is on the way from the first stage, 0, to the last, 1. All stages are equally
    long, but for rounding."""
    if not settings.progressive:
        return 1.0
    return epoch * settings.progressive // settings.epochs / (settings.progressive - 1)


def check(task: Task, settings: Settings) -> None:
    """Raises VertebraError if the task cannot be trained on images that grow to the size of its input."""
    if not settings.progressive:
        return
    side = task.preprocess.size[0]
    if not task.any_size:
        name = getattr(task.config, "backbone", task.method)
        raise VertebraError(f"{name} takes one input size, so its images cannot grow: leave progressive out.")
    if settings.progressive_size > side:
        raise VertebraError(
            f"progressive_size is {settings.progressive_size}, and images grow to {side} pixels: choose less, or a "
            "larger data.image_size."
        )


def preprocess(final: Preprocess, settings: Settings, share: float) -> Preprocess:
    """The preprocessing `final`, with the image size at a share of the way to it, in 0..1."""
    if share == 1:
        return final
    first = settings.progressive_size / final.size[0] or FIRST_SIZE
    height, width = (round(side * (first + (1 - first) * share) / MULTIPLE) * MULTIPLE for side in final.size)
    return replace(final, size=(max(MULTIPLE, height), max(MULTIPLE, width)))


class GrowingDropout:
    """Dropout rates that rise from FIRST_DROPOUT to those of the model; rates that are no higher stay as they are."""

    def __init__(self, task: Task) -> None:
        self.layers = [(m, m.p) for m in task.modules() if isinstance(m, nn.Dropout) and m.p > FIRST_DROPOUT]

    def start(self, share: float) -> None:
        """Sets the rates for a share of the way, in 0..1."""
        for layer, final in self.layers:
            layer.p = FIRST_DROPOUT + (final - FIRST_DROPOUT) * share


class GrowingLoader:
    """The training batches of each epoch, from a loader that is made anew for every stage.

    Args:
        make: makes the loader for a share of the way, in 0..1.
        share: the share in an epoch, counted from 0.
    """

    def __init__(self, make: Callable[[float], EndlessLoader], share: Callable[[int], float]) -> None:
        self.make, self.share = make, share
        self.epoch = 0
        self.stage = share(0)
        self.loader = make(self.stage)

    @property
    def sampler(self) -> GrowingLoader:
        """Where Lightning looks for set_epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        stage = self.share(self.epoch)
        if stage != self.stage:
            self.loader.close()
            self.stage, self.loader = stage, self.make(stage)
        self.loader.set_epoch(self.epoch)
        yield from self.loader
        self.epoch += 1

    def close(self) -> None:
        self.loader.close()
