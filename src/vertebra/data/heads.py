"""One loader for several heads: every step has a batch for each head that takes part in it.

As in `loader`, nothing is carried over: which heads take part in a step, and which of their images it has, depend on
the number of the step alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import Dataset

from vertebra.data.loader import Batch, BatchSampler, EndlessLoader, Item, read_ahead
from vertebra.structures import Target


@dataclass
class HeadBatches:
    """A batch for each head that takes part in a step, by its name."""

    parts: dict[str, Batch]
    unlabelled: int = 0
    """As of Batch; there are none."""

    @property
    def targets(self) -> list[Target]:
        """Of all heads."""
        return [target for part in self.parts.values() for target in part.targets]

    @property
    def unreadable(self) -> list[str]:
        """Of all heads."""
        return [sentence for part in self.parts.values() for sentence in part.unreadable]

    def pin_memory(self) -> HeadBatches:
        return self._mapped(Batch.pin_memory)

    def to(self, device: torch.device, **options: Any) -> HeadBatches:
        return self._mapped(lambda part: part.to(device, **options))

    def images_to(self, device: torch.device) -> HeadBatches:
        return self._mapped(lambda part: part.images_to(device))

    def channels_last(self) -> HeadBatches:
        return self._mapped(Batch.channels_last)

    def _mapped(self, function: Callable[[Batch], Batch]) -> HeadBatches:
        return replace(self, parts={name: function(part) for name, part in self.parts.items()})


class HeadSampler(BatchSampler):
    """For every step the indices and seeds of each head that takes part in it: lists of (head, index, seed).

    A head of share 1 takes part in every step, one of share 0.5 in every second one, evenly. An epoch has as many steps
    as the longest one of those heads with share 1 has batches; the others go on from epoch to epoch, as their number
    is counted.

    Args:
        heads: endless batches of each head.
        shares: of the steps in which it takes part, above 0 and up to 1; the largest is 1.
    """

    def __init__(self, heads: Mapping[str, BatchSampler], shares: Mapping[str, float]) -> None:
        self.heads, self.shares = heads, shares
        self.training, self.epoch = True, 0

    def __len__(self) -> int:
        return max(len(batches) for name, batches in self.heads.items() if self.shares[name] == 1)

    def _epoch(self, epoch: int) -> Iterator[list[Any]]:
        start = epoch * len(self)
        sources = {name: self._batches(name, self.batches_before(name, start)) for name in self.heads}
        for step in range(start, start + len(self)):
            yield [
                (name, index, seed)
                for name in self.heads
                if self.batches_before(name, step + 1) > self.batches_before(name, step)
                for index, seed in next(sources[name])
            ]

    def batches_before(self, name: str, step: int) -> int:
        """How many batches a head has had before a step, counted from 0 over all epochs."""
        return math.floor(step * self.shares[name] + 1e-9)

    def _batches(self, name: str, used: int) -> Iterator[list[tuple[int, int]]]:
        batches = self.heads[name]
        first, used = divmod(used, len(batches))
        passes = itertools.chain.from_iterable(map(batches._epoch, itertools.count(first)))
        return itertools.islice(passes, used, None)


class HeadDataset(Dataset):
    """The datasets of all heads, by (head, index, seed)."""

    def __init__(self, heads: Mapping[str, Dataset]) -> None:
        self.heads = heads

    def __getitem__(self, key: tuple[str, int, int]) -> tuple[str, Item]:
        name, index, seed = key
        return name, self.heads[name][index, seed]


class HeadCollate:
    """Items of HeadDataset to HeadBatches, each as that head's own function does it."""

    def __init__(self, heads: Mapping[str, Callable[[list[Item]], Batch]]) -> None:
        self.heads = heads

    def __call__(self, items: Sequence[tuple[str, Item]]) -> HeadBatches:
        of_head: dict[str, list[Item]] = {}
        for name, item in items:
            of_head.setdefault(name, []).append(item)
        return HeadBatches({name: self.heads[name](part) for name, part in of_head.items()})


def together(heads: Mapping[str, EndlessLoader], shares: Mapping[str, float], workers: int | None) -> EndlessLoader:
    """The training loaders of several heads as one, whose batches are HeadBatches.

    Args:
        heads: made by `loader`, without worker processes.
        shares: relative to the largest, see HeadSampler.
        workers: processes that read images; None chooses by the number of cores.
    """
    largest = max(shares.values())
    batches = HeadSampler(
        {name: part.batches for name, part in heads.items()}, {name: s / largest for name, s in shares.items()}
    )
    dataset = HeadDataset({name: part.loader.dataset for name, part in heads.items()})
    collate = HeadCollate({name: part.loader.collate_fn for name, part in heads.items()})
    return EndlessLoader(read_ahead(dataset, batches, collate, workers), batches)


class InTurn:
    """The validation batches of all heads, one head after the other, as HeadBatches of one head."""

    def __init__(self, heads: Mapping[str, Iterable[Batch]]) -> None:
        self.heads = heads

    def __len__(self) -> int:
        return sum(map(len, self.heads.values()))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[HeadBatches]:
        for name, batches in self.heads.items():
            for batch in batches:
                yield HeadBatches({name: batch})
