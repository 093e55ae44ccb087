"""From samples to batches, the same on every run, on any number of processes and workers.

Randomness is counted, not carried: each picture's augmentation is seeded by (seed, epoch, index), each batch's by its
first picture. So a resumed run needs no generator's state, and the number of workers changes nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vertebra import pictures
from vertebra.data import runs, scenes
from vertebra.data.catalogue import Sample
from vertebra.data.scenes import Scene
from vertebra.data.transforms import Augment, InstanceAugment, InstanceTransform, TrainTransform, batch_transform
from vertebra.errors import VertebraError, in_range
from vertebra.structures import Frame, Masks, Points, Preprocess, Target


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

    def to(self, device: torch.device, **options: Any) -> Batch:
        """The batch with every tensor on `device`; options are those of Tensor.to."""

        def there(target: Target) -> Target:
            fields: dict[str, Any] = {k: v for k, v in vars(target).items() if isinstance(v, Tensor)}
            return replace(target, **{name: tensor.to(device, **options) for name, tensor in fields.items()})

        moved = [there(target) for target in self.targets]
        return Batch(self.images.to(device, **options), moved, self.broken, self.frames)


_Cut = tuple[Callable[[Sequence[runs.Piece], tuple[int, int]], Tensor | Masks], tuple[int, int], Tensor, Tensor]
"""How masks are put together again, (height, width), their rectangles [N, 4] x, y, height, width, and what these hold,
[pixels] bool: of a thousand tensors, each would take a file of its own in the shared memory."""


def _sent(batch: Batch) -> tuple[Callable, tuple]:
    """How a batch goes from one process to another: with each mask cut to the rectangle that holds it.

    The masks of a few pictures of cells are a gigabyte, and all that workers send goes through the shared memory, of
    which a container has 64 megabytes if nobody asked for more.
    """
    cuts = [None if target.masks is None else _cut(target.masks) for target in batch.targets]
    targets = [replace(target, masks=None) for target in batch.targets]
    return _arrived, (batch.images, targets, batch.broken, batch.frames, cuts)


def _cut(masks: Tensor | Masks) -> _Cut:
    if isinstance(masks, Masks):
        joined: Any = runs.apart
        size = masks.size
        pieces = [(x, y, crop.numpy()) for (x, y), crop in zip(masks.corners, masks.crops, strict=True)]
    else:
        joined = runs.whole
        size, pieces = (masks.shape[1], masks.shape[2]), [runs.tight(0, 0, mask) for mask in masks.numpy()]
    rectangles = torch.tensor([(x, y, *mask.shape) for x, y, mask in pieces], dtype=torch.int64).reshape(-1, 4)
    pixels = np.concatenate([np.zeros(0, bool), *(mask.reshape(-1) for _, _, mask in pieces)])
    return joined, size, rectangles, torch.from_numpy(pixels)


def _arrived(
    images: Tensor,
    targets: list[Target],
    broken: list[str],
    frames: list[Frame],
    cuts: list[_Cut | None],
) -> Batch:
    for target, cut in zip(targets, cuts, strict=True):
        if cut is not None:
            joined, size, rectangles, pixels = cut
            ends = rectangles[:, 2:].prod(1).cumsum(0)[:-1]
            held = zip(rectangles.tolist(), np.split(pixels.numpy(), ends.numpy()))  # strict fails on no masks
            target.masks = joined([(x, y, each.reshape(h, w)) for (x, y, h, w), each in held], size)
    return Batch(images, targets, broken, frames)


ForkingPickler.register(Batch, _sent)


def counted_seed(*numbers: int) -> int:
    """A seed that depends on every number and on nothing else."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class Item:
    """One picture of a batch."""

    image: Tensor | None
    """[C, h, w] float32, normalised, without padding; None if no picture could be read."""
    target: Target
    frame: Frame
    broken: list[str]
    """One sentence per picture that could not be read on the way to this one."""
    seed: int


View = Callable[[Scene, Callable[[], Scene]], tuple[Tensor, Target, Frame]]
"""Makes of a sample its image, [C, h, w] float32, its target, and how the picture lies in the image; the second
argument draws a further sample with torch's random numbers."""


class Pictures(Dataset):
    """Samples by (index, seed).

    In training the next readable sample stands in for a broken one.
    """

    def __init__(
        self, samples: Sequence[Sample], read: Callable[[Sample], Scene], view: View, *, training: bool
    ) -> None:
        self.samples = samples
        self.read = read
        self.view = view
        self.training = training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, seed = key
        broken: list[str] = []
        scene = self._readable(index, broken)
        if scene is None:
            return Item(None, Target(), Frame((0, 0), (0, 0)), broken, seed)

        def another() -> Scene:
            drawn = self._readable(int(torch.randint(len(self.samples), ())), broken)
            assert drawn is not None, "the first scene was readable"
            return drawn

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
            image, target, frame = self.view(scene, another)
        return Item(image, target, frame, broken, seed)

    def _readable(self, index: int, broken: list[str]) -> Scene | None:
        for step in range(len(self.samples) if self.training else 1):
            try:
                return self.read(self.samples[(index + step) % len(self.samples)])
            except pictures.BrokenPicture as error:
                broken.append(str(error))
        return None


class Collate:
    """Items of Pictures to a Batch, mixed by the batch transform if there is one."""

    def __init__(self, preprocess: Preprocess, mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None) -> None:
        self.preprocess = preprocess
        self.mix = mix

    def __call__(self, items: list[Item]) -> Batch:
        broken = [sentence for item in items for sentence in item.broken]
        good = [item for item in items if item.image is not None]
        found = [item.image for item in good if item.image is not None]
        images = pictures.batched(found, self.preprocess) if found else torch.empty(0)
        targets = [item.target for item in good]
        if self.mix is not None and len(good) > 1:
            labels = torch.stack([t.label for t in targets if t.label is not None])
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(counted_seed(items[0].seed))
                images, labels = self.mix(images, labels)
            targets = [Target(label=label, path=t.path) for label, t in zip(labels, targets, strict=True)]
        return Batch(images, targets, broken, [item.frame for item in good])


class Batches(Sampler):
    """Batches of (index, seed): every process takes its share of each batch, so `size` is the total over processes.

    Training goes on from epoch to epoch without end; its order is shuffled by (seed, epoch) and leaves out a last
    batch that is not full, unless it is the only one. Evaluation goes through every sample once, with no process
    given one twice. The length is that of one epoch.

    With `groups`, one number per sample, training fills each batch from one group as long as any group has enough
    left; what then remains of all groups is put together.
    """

    def __init__(
        self, count: int, size: int, *, seed: int, training: bool, groups: Sequence[int] | None = None
    ) -> None:
        self.count, self.size, self.seed, self.training = count, size, seed, training
        self.groups = groups if training and groups is not None else [0] * count
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
        for batch in itertools.islice(self._batches(order.tolist()), len(self)):
            yield [(index, counted_seed(self.seed, epoch, index)) for index in batch[rank::world]]

    def _batches(self, order: list[int]) -> Iterator[list[int]]:
        waiting: dict[int, list[int]] = {group: [] for group in sorted(set(self.groups))}
        for index in order:
            batch = waiting[self.groups[index]]
            batch.append(index)
            if len(batch) == self.size:
                yield batch
                waiting[self.groups[index]] = []
        rest = [index for group in waiting.values() for index in group]
        yield from (rest[i : i + self.size] for i in range(0, len(rest), self.size))


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
    truth: str = "label",
    classes: int,
    batch_size: int,
    workers: int | None = None,
    seed: int = 0,
    augment: Augment | InstanceAugment | None = None,
    points: Points | None = None,
) -> DataLoader | Endless:
    """Batches of the samples: augmented and shuffled if `augment` is given, else as evaluation wants them.

    Args:
        truth: the field of Target that is learned from: `label`, `boxes`, `masks` or `keypoints`. Masks are decoded for
            `masks` alone.
        batch_size: pictures per step, over all processes together.
        workers: processes that read pictures; None chooses by the number of cores.
        augment: Augment for `label`, else InstanceAugment.
        points: the keypoints, so that those with sides change them in a mirror.

    Raises:
        VertebraError: if the batch size, the preprocessing or the augmentation does not go with the rest.
    """
    in_range("batch_size", batch_size, 1)
    training = augment is not None
    groups, mix = None, None
    view: View = _Whole(preprocess)
    if truth == "label":
        assert not isinstance(augment, InstanceAugment)
        if augment is not None:
            view, mix = _Labelled(TrainTransform(augment, preprocess)), batch_transform(augment, classes)
    else:
        assert not isinstance(augment, Augment)
        _check(preprocess, truth, augment)
        if augment is not None:
            view = _Objects(InstanceTransform(augment, preprocess, points))
            groups = _orientations(samples) if preprocess.resize == "shortest" else None
    read = partial(scenes.read if training else scenes.read_whole, channels=preprocess.channels, field=truth)
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    batches = Batches(len(samples), batch_size, seed=seed, training=training, groups=groups)
    made = DataLoader(
        Pictures(samples, read, view, training=training),
        batch_sampler=batches,
        collate_fn=Collate(preprocess, mix),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return Endless(made, batches) if training else made


def _check(preprocess: Preprocess, truth: str, augment: InstanceAugment | None) -> None:
    if preprocess.resize == "crop":
        raise VertebraError(
            f"resize is 'crop', which would cut objects off; a task that learns from {truth} needs 'shortest', 'fit' "
            "or 'squash'."
        )
    if augment is not None and augment.copy_paste and truth != "masks":
        raise VertebraError(
            f"augment.copy_paste is {augment.copy_paste:g}, but it cuts objects out by their masks, and this task "
            f"learns from {truth}; set it to 0."
        )


def _orientations(samples: Sequence[Sample]) -> list[int]:
    """1 for each picture that is wider than high, else 0; read from its header if the data set does not tell."""
    return [int(width > height) for height, width in map(_size, samples)]


def _size(sample: Sample) -> tuple[int, int]:
    try:
        return sample.size
    except pictures.BrokenPicture:  # told of when it is read
        return 0, 0


class _Whole:
    """A picture as evaluation wants it; the target stays in the picture's own pixels."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, scene: Scene, another: Callable[[], Scene]) -> tuple[Tensor, Target, Frame]:
        image = pictures.prepare(scene.picture, self.preprocess)
        return image, scene.target, pictures.frame(scene.size, self.preprocess)


class _Labelled:
    """A picture to learn its class from, augmented."""

    def __init__(self, transform: TrainTransform) -> None:
        self.transform = transform

    def __call__(self, scene: Scene, another: Callable[[], Scene]) -> tuple[Tensor, Target, Frame]:
        image = self.transform(scene.picture)
        return image, scene.target, _itself(image)


class _Objects:
    """A picture to learn its objects from, augmented together with them; the target is in pixels of the image."""

    def __init__(self, transform: InstanceTransform) -> None:
        self.transform = transform

    def __call__(self, scene: Scene, another: Callable[[], Scene]) -> tuple[Tensor, Target, Frame]:
        image, target = self.transform(scene, another)
        return image, target, _itself(image)


def _itself(image: Tensor) -> Frame:
    size = (image.shape[-2], image.shape[-1])
    return Frame(size, size)
