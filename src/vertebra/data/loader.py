"""From samples to batches, the same on every run, on any number of processes and workers.

Randomness is counted, not carried: each image's augmentation is seeded by (seed, epoch, index), each batch's by its
first image. So a resumed run needs no generator's state, and the number of workers changes nothing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vertebra.data.augment import BatchTransform, Transform
from vertebra.data.augment.custom import CustomTransform, Transforms
from vertebra.data.catalogue import Sample
from vertebra.data.geometry import Example
from vertebra.data.inputs import Inputs
from vertebra.data.workers import WorkerLoader, pack, unpack
from vertebra.errors import in_range
from vertebra.images import UnreadableImage
from vertebra.structures import Frame, KeypointSchema, Masks, Preprocess, Target

Augment = TypeVar("Augment", contravariant=True)


class Kind(Protocol[Augment]):
    """What the loader asks of a kind of answer; Augment is its dataclass of augmentation options."""

    def inputs(self, preprocess: Preprocess) -> Inputs:
        """How samples enter the network."""

    def check(self, preprocess: Preprocess, augment: Augment | None) -> None:
        """Raises VertebraError if the preprocessing or the augmentation does not suit the kind."""

    def transform(self, augment: Augment, preprocess: Preprocess, keypoints: KeypointSchema | None) -> Transform:
        """The augmentation of single images."""

    def batch_transform(self, augment: Augment, num_classes: int) -> BatchTransform | None:
        """The augmentation of whole batches, if there is any."""

    def pad(self, target: Target, size: tuple[int, int]) -> Target:
        """The target of an image that is padded at the bottom and the right to (height, width) `size`."""


@dataclass
class Batch:
    """Images ready for a network, their targets, and which others of this batch could not be read."""

    images: Tensor
    """[B, C, H, W] float32, normalised."""
    targets: list[Target]
    """In training in pixels of the input, in evaluation in those of the original images."""
    unreadable: list[str]
    """One sentence per unreadable image, beginning with its path."""
    frames: list[Frame]
    """How each image lies in its input."""
    indices: list[int]
    """Which of the loader's samples each image is; in training the sample it was drawn as, even if another stands in
    for it."""
    unlabelled: int = 0
    """How many of the images, the last ones, have no ground truth: their targets have a path alone."""

    def pin_memory(self) -> Batch:
        self.images = self.images.pin_memory()
        return self

    def to(self, device: torch.device, **options: Any) -> Batch:
        """The batch with its tensors on `device`, where masks stay on the CPU; options are those of Tensor.to."""

        def moved(target: Target) -> Target:
            fields: dict[str, Any] = {k: v for k, v in vars(target).items() if isinstance(v, Tensor)}
            return replace(target, **{name: tensor.to(device, **options) for name, tensor in fields.items()})

        return replace(self, images=self.images.to(device, **options), targets=[moved(t) for t in self.targets])

    def images_to(self, device: torch.device) -> Batch:
        """The batch with its images on `device`."""
        return replace(self, images=self.images.to(device))

    def channels_last(self) -> Batch:
        """The batch with its images in the memory format that convolutions compute fastest in."""
        if self.images.ndim != 4:
            return self
        return replace(self, images=self.images.contiguous(memory_format=torch.channels_last))


_PackedMasks = tuple[tuple[int, int], Any, Any]
"""Masks for another process: (height, width), their rectangles [N, 4] x, y, height, width, and the pixels of all crops,
[pixels] bool: of a thousand tensors, each would take a file of its own in shared memory."""


def _reduce_batch(batch: Batch) -> tuple[Callable, tuple]:
    """Pickles a batch for another process, its masks as a few large tensors."""
    masks = [None if target.masks is None else _pack_masks(target.masks) for target in batch.targets]
    targets = []
    for target in batch.targets:
        fields: dict[str, Any] = {k: pack(v) for k, v in vars(target).items() if isinstance(v, Tensor)}
        targets.append(replace(target, masks=None, **fields))
    return _rebuild_batch, (vars(batch) | {"images": pack(batch.images), "targets": targets}, masks)


def _pack_masks(masks: Masks) -> _PackedMasks:
    rectangles = [(x, y, *mask.shape) for (x, y), mask in zip(masks.corners, masks.crops, strict=True)]
    pixels = [mask.numpy().reshape(-1) for mask in masks.crops]
    return (
        masks.size,
        pack(torch.tensor(rectangles, dtype=torch.int64).reshape(-1, 4)),
        pack(torch.from_numpy(np.concatenate([np.zeros(0, bool), *pixels]))),
    )


def _rebuild_batch(fields: dict[str, Any], packed: list[_PackedMasks | None]) -> Batch:
    batch = Batch(**fields | {"images": unpack(fields["images"])})
    for target, parts in zip(batch.targets, packed, strict=True):
        for name, value in vars(target).items():
            if isinstance(value, np.ndarray):
                setattr(target, name, unpack(value))
        if parts is not None:
            size, rectangles, pixels = parts[0], unpack(parts[1]), unpack(parts[2])
            crops = pixels.split(rectangles[:, 2:].prod(1).tolist()) if len(rectangles) else ()
            target.masks = Masks(size)
            for (x, y, height, width), crop in zip(rectangles.tolist(), crops, strict=True):
                target.masks.corners.append((x, y))
                target.masks.crops.append(crop.view(height, width))
    return batch


ForkingPickler.register(Batch, _reduce_batch)


def counted_seed(*numbers: int) -> int:
    """A seed that depends on every number and on nothing else."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


@dataclass
class Item:
    """One image of a batch."""

    index: int
    """Of its sample."""
    image: Tensor | None
    """[C, h, w] float32, normalised, without padding; None if no image could be read."""
    target: Target
    frame: Frame
    unreadable: list[str]
    """One sentence per image that could not be read before this one was."""
    seed: int


class ImageDataset(Dataset):
    """Samples by (index, seed): augmented by `transform`, or whole as in evaluation if it is None.

    In training, the next readable sample stands in for an unreadable one.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        inputs: Inputs,
        transform: Transform | None,
    ) -> None:
        self.samples = samples
        self.inputs = inputs
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, seed = key
        unreadable: list[str] = []

        def another() -> Example:
            drawn = self._first_readable(int(torch.randint(len(self.samples), ())), unreadable)
            assert drawn is not None, "the first example was readable"
            return drawn

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
            example = self._first_readable(index, unreadable)
            if example is None:
                return Item(index, None, Target(), Frame((0, 0), (0, 0)), unreadable, seed)
            if self.transform is None:
                image, frame = self.inputs.prepare(example)
                return Item(index, image, example.target, frame, unreadable, seed)
            image, target = self.transform(example, another)
        size = (1, *image.shape)[-2:]
        return Item(index, image, target, Frame(size, size), unreadable, seed)

    def _first_readable(self, index: int, unreadable: list[str]) -> Example | None:
        for step in range(1 if self.transform is None else len(self.samples)):
            try:
                return self.inputs.read(self.samples[(index + step) % len(self.samples)])
            except UnreadableImage as error:
                unreadable.append(str(error))
        return None


class WithUnlabelled(Dataset):
    """A dataset and one of unlabelled images behind it; in neither does an image of the other stand in for one."""

    def __init__(self, labelled: ImageDataset, unlabelled: ImageDataset) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled

    def __getitem__(self, key: tuple[int, int]) -> Item:
        index, seed = key
        if index < len(self.labelled):
            return self.labelled[key]
        return replace(self.unlabelled[index - len(self.labelled), seed], index=index)


class Collate:
    """Items of ImageDataset to a Batch; in training, targets are padded with `pad`, and the batch changed by `mix`.

    Items from index `labelled` on have no ground truth; they are not mixed.
    """

    def __init__(
        self,
        inputs: Inputs,
        pad: Callable[[Target, tuple[int, int]], Target] | None = None,
        mix: BatchTransform | None = None,
        labelled: int | None = None,
    ) -> None:
        self.inputs = inputs
        self.pad = pad
        self.mix = mix
        self.labelled = labelled

    def __call__(self, items: list[Item]) -> Batch:
        unreadable = [sentence for item in items for sentence in item.unreadable]
        items_read = [item for item in items if item.image is not None]
        prepared = [item.image for item in items if item.image is not None]
        images = self.inputs.stack(prepared) if prepared else torch.empty(0)
        targets = [item.target for item in items_read]
        if self.pad is not None:
            targets = [self.pad(target, (images.shape[-2], images.shape[-1])) for target in targets]
        count = len(targets)
        if self.labelled is not None:
            count = sum(item.index < self.labelled for item in items_read)
        if self.mix is not None and count > 1:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(counted_seed(items[0].seed))
                mixed, mixed_targets = self.mix(images[:count], targets[:count])
                images = torch.cat((mixed, images[count:])) if count < len(targets) else mixed
                targets = [*mixed_targets, *targets[count:]]
        frames, indices = [item.frame for item in items_read], [item.index for item in items_read]
        return Batch(images, targets, unreadable, frames, indices, len(targets) - count)


class BatchSampler(Sampler):
    """Batches of (index, seed): every process takes its share of each batch, so `size` is the total over processes.

    Training continues from epoch to epoch without end; its order is shuffled by (seed, epoch), and a last batch that
    is not full is left out unless it is the only one. With `repeats`, each image comes so many times in a row, with
    other seeds, and an epoch ends after as many batches all the same, so that it shows fewer images (repeated
    augmentation, arXiv:1901.09335, as in DeiT, arXiv:2012.12877). Evaluation goes through every sample once, and no two
    processes get the same. The length is that of one epoch.

    With `groups`, one per sample, training fills each batch from one group as long as any group has enough left; what
    then remains of all groups is put together. Evaluation never mixes groups in a batch, and samples of the group None
    are each alone in the batch of a process.
    """

    def __init__(
        self,
        count: int,
        size: int,
        *,
        seed: int,
        training: bool,
        groups: Sequence[Hashable] | None = None,
        repeats: int = 1,
    ) -> None:
        self.count, self.size, self.seed, self.training = count, size, seed, training
        self.repeats = repeats if training else 1
        # Number n stands for sample n modulo `count`, so that each repetition has a seed of its own.
        self.groups: Sequence[Hashable] = [*([0] * count if groups is None else groups)] * self.repeats
        self.epoch = 0

    def __len__(self) -> int:
        if self.training:
            return max(1, self.count // self.size)
        return sum(1 for _ in self._evaluation_batches())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        yield from self._epoch(self.epoch)
        while self.training:
            self.epoch += 1
            yield from self._epoch(self.epoch)

    def _epoch(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        rank, world = _process()
        batches = self._training_batches(epoch) if self.training else self._evaluation_batches()
        for number, batch in enumerate(batches):
            # The first process is another in each batch, so that small batches do not all fall to one.
            share = batch[(rank - number) % world :: world]
            yield [(n % self.count, counted_seed(self.seed, epoch, n)) for n in share]

    def _training_batches(self, epoch: int) -> Iterator[list[int]]:
        order = np.arange(self.count)
        np.random.default_rng([self.seed, epoch]).shuffle(order)
        incomplete: dict[Hashable, list[int]] = {group: [] for group in sorted(set(self.groups), key=repr)}
        numbers = [index + self.count * i for index in order.tolist() for i in range(self.repeats)]
        full = self._fill(numbers, incomplete)
        rest = (index for group in incomplete.values() for index in group)  # evaluated after `full`
        mixed = iter(lambda: list(itertools.islice(rest, self.size)), [])
        for batch in itertools.islice(itertools.chain(full, mixed), len(self)):
            # The repetitions of an image apart: mixup blends neighbours, and processes take turns.
            yield sorted(batch, key=lambda n: n // self.count)

    def _evaluation_batches(self) -> Iterator[list[int]]:
        alone = [index for index, group in enumerate(self.groups) if group is None]
        known = [index for index, group in enumerate(self.groups) if group is not None]
        incomplete: dict[Hashable, list[int]] = {self.groups[index]: [] for index in known}
        yield from self._fill(known, incomplete)
        yield from (batch for batch in incomplete.values() if batch)
        world = _process()[1]
        yield from (alone[i : i + world] for i in range(0, len(alone), world))

    def _fill(self, order: list[int], incomplete: dict[Hashable, list[int]]) -> Iterator[list[int]]:
        """Full batches of one group each, in the order in which they fill; what remains stays in `incomplete`."""
        for index in order:
            batch = incomplete[self.groups[index]]
            batch.append(index)
            if len(batch) == self.size:
                yield batch
                incomplete[self.groups[index]] = []


class MixedSampler(BatchSampler):
    """Training batches of labelled samples, each followed by a batch of unlabelled ones, whose indices go on from those
    of the labelled.

    An epoch is one of the labelled samples. The unlabelled batches go on from epoch to epoch, and from pass to pass,
    as their number is counted.
    """

    def __init__(self, labelled: BatchSampler, unlabelled: BatchSampler) -> None:
        super().__init__(labelled.count, labelled.size, seed=labelled.seed, training=True)
        self.labelled, self.unlabelled = labelled, unlabelled

    def __len__(self) -> int:
        return len(self.labelled)

    def _epoch(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        first, used = divmod(epoch * len(self), len(self.unlabelled))  # pass, and its batches in the epochs before
        passes = itertools.chain.from_iterable(map(self.unlabelled._epoch, itertools.count(first)))
        for batch, more in zip(self.labelled._epoch(epoch), itertools.islice(passes, used, None), strict=False):
            yield [*batch, *((self.labelled.count + index, seed) for index, seed in more)]


def _process() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class EndlessLoader:
    """A training loader that reads on across the border between epochs, so that no epoch begins with a wait."""

    def __init__(self, loader: WorkerLoader, batches: BatchSampler) -> None:
        self.loader = loader
        self.batches = batches
        self.next_epoch = 0  # of the next pass
        self.open_epoch = -1  # that the open iterator comes to next
        self.iterator: Iterator[Batch] = iter(())

    @property
    def sampler(self) -> EndlessLoader:
        """Where Lightning looks for set_epoch; a stored reference would be a cycle, and workers in one end slowly."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.next_epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if self.open_epoch != self.next_epoch:
            self.batches.epoch = self.next_epoch
            self.iterator = iter(self.loader)
        self.open_epoch = -1  # a pass that is broken off leaves the iterator in the middle of an epoch
        for _ in range(len(self)):
            yield next(self.iterator)
        self.next_epoch += 1
        self.open_epoch = self.next_epoch

    def close(self) -> None:
        """Ends the workers now; left to the garbage collector, each can take five seconds."""
        workers = self.loader._iterator  # None without persistent workers
        self.open_epoch, self.iterator = -1, iter(())
        if workers is not None:
            workers._shutdown_workers()  # type: ignore[attr-defined]
            self.loader._iterator = None


def loader(
    samples: Sequence[Sample],
    preprocess: Preprocess,
    kind: Kind[Augment],
    *,
    num_classes: int,
    batch_size: int,
    repeats: int = 1,
    workers: int | None = None,
    seed: int = 0,
    augment: Augment | None = None,
    transforms: Transforms | None = None,
    keypoints: KeypointSchema | None = None,
    unlabelled: Sequence[Sample] = (),
    unlabelled_batch_size: int | None = None,
) -> WorkerLoader | EndlessLoader:
    """Batches of the samples: augmented and shuffled if `augment` is given, else for evaluation.

    In evaluation, the images of a batch have one size in the input, so that a result does not depend on the batch; the
    order of the images can therefore differ from that of the samples, see `Batch.indices`.

    Args:
        kind: the kind of answer to learn; it says which fields of Target are read and how they are augmented.
        batch_size: images per step, over all processes together.
        repeats: times that an image comes in a training batch, each time augmented anew.
        workers: processes that read images; None chooses by the number of cores.
        transforms: a user's, before the augmentation.
        keypoints: the dataset's keypoints, so that those with sides swap in a mirror image.
        unlabelled: samples without ground truth, in training; their images stand at the end of each batch.
        unlabelled_batch_size: how many of them per step, over all processes together; `batch_size` if None.

    Raises:
        VertebraError: if the batch size is not positive, or the preprocessing or the augmentation does not suit the
            kind.
    """
    in_range("batch_size", batch_size, 1)
    kind.check(preprocess, augment)
    training = augment is not None
    inputs = kind.inputs(preprocess)
    transform, collate = None, Collate(inputs)
    if augment is not None:
        transform = kind.transform(augment, preprocess, keypoints)
        if transforms is not None:
            transform = CustomTransform(transforms, transform, preprocess.channels)
        mix = kind.batch_transform(augment, num_classes)
        collate = Collate(inputs, kind.pad, mix, len(samples) if unlabelled else None)
    groups = inputs.groups(samples, training=training)
    batches = BatchSampler(len(samples), batch_size, seed=seed, training=training, groups=groups, repeats=repeats)
    images = ImageDataset(samples, inputs, transform)
    dataset: Dataset = images
    if unlabelled:
        dataset = WithUnlabelled(images, ImageDataset(unlabelled, inputs, transform))
        size = min(unlabelled_batch_size or batch_size, len(unlabelled))
        batches = MixedSampler(batches, BatchSampler(len(unlabelled), size, seed=counted_seed(seed, 1), training=True))
    batch_loader = read_ahead(dataset, batches, collate, workers)
    return EndlessLoader(batch_loader, batches) if training else batch_loader


def read_ahead(
    dataset: Dataset, batches: BatchSampler, collate: Callable[[list[Any]], Any], workers: int | None
) -> WorkerLoader:
    """A loader whose batches are read ahead by `workers` processes; None chooses by the number of cores."""
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    return WorkerLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
