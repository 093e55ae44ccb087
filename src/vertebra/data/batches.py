"""From samples to batches, the same on every run, on any number of processes and workers.

Randomness is counted, not carried: each picture's augmentation is seeded by (seed, epoch, index), each batch's by its
first picture. So a resumed run needs no generator's state, and the number of workers changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vertebra import pictures
from vertebra.data.catalogue import Sample
from vertebra.data.transforms import Augment, TrainTransform, batch_transform
from vertebra.errors import VertebraError
from vertebra.structures import Frame, Preprocess, Target


@dataclass
class Batch:
    """Pictures ready for a network, what is true of them, and which others of this batch could not be read."""

    images: Tensor
    """[B, C, H, W] float32, normalised."""
    targets: list[Target]
    """In pixels of the images when they are to be learned from, in those of the pictures themselves when evaluated."""
    broken: list[str]
    """One sentence per unreadable picture, beginning with its path."""
    frames: list[Frame]
    """How each picture lies in its image."""

    def pin_memory(self) -> Batch:
        self.images = self.images.pin_memory()
        return self


def counted_seed(*numbers: int) -> int:
    """A seed that depends on every number and on nothing else."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


Item = tuple[Tensor | None, Target, list[str], int]


class Pictures(Dataset):
    """Samples by (index, seed); an item is (image, target, sentences on unreadable pictures, seed).

    A training set (one with a random transform) gives the next readable sample in a broken one's place.
    """

    def __init__(
        self, samples: Sequence[Sample], transform: Callable[[Tensor], Tensor], channels: int, *, training: bool
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.channels = channels
        self.training = training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, seed = key
        broken: list[str] = []
        for step in range(len(self.samples) if self.training else 1):
            sample = self.samples[(index + step) % len(self.samples)]
            try:
                picture = pictures.read(sample.picture, self.channels)
            except pictures.BrokenPicture as error:
                broken.append(str(error))
                continue
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self.transform(picture), sample.target, broken, seed
        return None, Target(), broken, seed


class Collate:
    """Items of Pictures to a Batch, mixed by the batch transform if there is one; None if no picture was readable."""

    def __init__(self, classes: int, augment: Augment | None = None) -> None:
        self.mix = batch_transform(augment, classes) if augment else None

    def __call__(self, items: list[Item]) -> Batch:
        broken = [sentence for _, _, sentences, _ in items for sentence in sentences]
        good = [(image, target) for image, target, _, _ in items if image is not None]
        images = torch.stack([image for image, _ in good]) if good else torch.empty(0)
        targets = [target for _, target in good]
        if self.mix is not None and len(good) > 1:
            labels = torch.stack([t.label for t in targets if t.label is not None])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(counted_seed(items[0][3]))
                images, labels = self.mix(images, labels)
            targets = [Target(label=label, path=t.path) for label, t in zip(labels, targets, strict=True)]
        size = (images.shape[-2], images.shape[-1]) if good else (0, 0)
        return Batch(images, targets, broken, [Frame(size, size) for _ in targets])


class Batches(Sampler):
    """Batches of (index, seed): every process takes its share of each batch, so `size` is the total over processes.

    Training goes on from epoch to epoch without end; its order is shuffled by (seed, epoch) and leaves out a last
    batch that is not full, unless it is the only one. Evaluation goes through every sample once, with no process
    given one twice. The length is that of one epoch.
    """

    def __init__(self, count: int, size: int, *, seed: int, training: bool) -> None:
        self.count, self.size, self.seed, self.training = count, size, seed, training
        self.epoch = 0

    def __len__(self) -> int:
        full = self.count // self.size if self.training else -(-self.count // self.size)
        return max(1, full)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        yield from self._epoch(self.epoch)
        while self.training:
            self.epoch += 1
            yield from self._epoch(self.epoch)

    def _epoch(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        alive = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if alive else (0, 1)
        order = np.arange(self.count)
        if self.training:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        for i in range(len(self)):
            mine = order[i * self.size : (i + 1) * self.size][rank::world]
            yield [(int(index), counted_seed(self.seed, epoch, int(index))) for index in mine]


class Endless:
    """A training loader that reads on across the border between epochs, so that no epoch begins with a wait."""

    def __init__(self, loader: DataLoader, batches: Batches) -> None:
        self.loader = loader
        self.batches = batches
        self.wanted = 0  # the epoch that the next pass is to be
        self.coming = -1  # the epoch that the open iterator comes to next
        self.iterator: Iterator[Batch] = iter(())

    @property
    def sampler(self) -> Endless:
        """Where Lightning looks for set_epoch; a stored reference would be a cycle, and workers in one end slowly."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.wanted = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if self.coming != self.wanted:
            self.batches.epoch = self.wanted
            self.iterator = iter(self.loader)
        self.coming = -1  # a pass that is broken off leaves the iterator in the middle of an epoch
        for _ in range(len(self)):
            yield next(self.iterator)
        self.wanted += 1
        self.coming = self.wanted

    def close(self) -> None:
        """Ends the workers now; left to the garbage collector, each can take five seconds."""
        workers = self.loader._iterator  # None without persistent workers
        self.coming, self.iterator = -1, iter(())
        if workers is not None:
            workers._shutdown_workers()  # type: ignore[attr-defined]
            self.loader._iterator = None


def loader(
    samples: Sequence[Sample],
    preprocess: Preprocess,
    *,
    classes: int,
    batch_size: int,
    workers: int | None = None,
    seed: int = 0,
    augment: Augment | None = None,
) -> DataLoader | Endless:
    """Batches of the samples: augmented and shuffled if `augment` is given, else as evaluation wants them.

    Args:
        batch_size: pictures per step, over all processes together.
        workers: processes that read pictures; None chooses by the number of cores.
    """
    if batch_size < 1:
        raise VertebraError(f"batch_size is {batch_size}; it must be 1 or more.")
    training = augment is not None
    transform = TrainTransform(augment, preprocess) if augment else _Prepare(preprocess)
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    batches = Batches(len(samples), batch_size, seed=seed, training=training)
    made = DataLoader(
        Pictures(samples, transform, preprocess.channels, training=training),
        batch_sampler=batches,
        collate_fn=Collate(classes, augment),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return Endless(made, batches) if training else made


class _Prepare:
    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, picture: Tensor) -> Tensor:
        return pictures.prepare(picture, self.preprocess)
