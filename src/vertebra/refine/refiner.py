"""Boundary patch refinement: the masks of a prediction, refined along their boundaries."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vertebra.errors import VertebraError, in_range
from vertebra.images import normalise, resize_image
from vertebra.ops.patches import SIDES, batched_boundary_patches, cut, paste, separation
from vertebra.structures import Masks, Prediction
from vertebra.tasks import Task

LEAST_SIDE = 16
"""Pixels; smallest side of patches whose size is relative to the object."""


@dataclass
class Counts:
    """What a Refiner has processed so far."""

    masks: int = 0
    patches: int = 0
    """Patches that the network has seen."""
    unchanged: int = 0
    """Masks without any patch to refine, such as empty ones."""


@dataclass
class _Instance:
    """A coarse mask on its way through the network."""

    corner: tuple[int, int]
    """(x, y) in the image of the top left pixel of `mask`."""
    mask: Tensor
    """[h, w] bool: all of the mask and of the patches that lies inside the image."""
    boxes: Tensor
    """[N, 4] int64, the patches in pixels of the image."""
    local: Tensor
    """The same in pixels of `mask`."""
    refined: list[Tensor] = field(default_factory=list)
    """Foreground probabilities [n, s, s] of the patches so far, in order."""

    @property
    def side(self) -> int:
        """Of the patches, in pixels."""
        return int(self.boxes[0, 2] - self.boxes[0, 0])

    @property
    def complete(self) -> bool:
        return sum(map(len, self.refined)) == len(self.boxes)


class Refiner:
    """Refines masks: patches along their boundaries go through a network with the coarse mask as a further channel, and
    what it answers is pasted back.

    The patches of all instances of an image share batches, so that memory does not grow with their number.

    Source: arXiv:2104.05239, section 3. The options after `padding` are not in the paper.
    """

    def __init__(
        self,
        task: Task,
        *,
        patch_size: int | None = None,
        nms_threshold: float | None = None,
        padding: int | None = None,
        cover: bool = False,
        relative: float = 0.0,
        uncertain: float = 0.0,
        passes: int = 1,
        batch_size: int = 64,
    ) -> None:
        """
        Args:
            task: a model of `vertebra train refinement`. It runs on the device it is on.
            patch_size: side of a patch in pixels, even; as in training if None.
            nms_threshold: patches of one mask do not overlap by a larger IoU, 0..1; as in training if None.
            padding: pixels around a patch that the network sees but does not change; as in training if None.
            cover: whether patches are added until every boundary pixel lies in one.
            relative: side of a patch as a fraction of the longer side of the object's bounding box, in 0..1, but 16 to
                1,024 pixels; 0 takes `patch_size`.
            uncertain: a patch is refined only if its coarse mask explains less than 1 - `uncertain` of the variance of
                the colours beside its boundary (see `ops.patches.separation`), in 0..1; 0 refines all.
            passes: how often masks are refined, from those of the pass before.
            batch_size: most patches in a forward pass; it does not change the masks.

        Raises:
            VertebraError: if the task does not refine masks, or an option is out of its range.
        """
        config = task.config
        if not hasattr(config, "patch_size"):
            raise VertebraError(
                f"a model for {task.task_name} does not refine masks; take one of `vertebra train refinement`."
            )
        if relative and patch_size is not None:
            raise VertebraError("patch_size and relative exclude each other: both decide the side of a patch.")
        self.task = task
        self.patch_size: int = config.patch_size if patch_size is None else patch_size
        self.nms_threshold: float = config.nms_threshold if nms_threshold is None else nms_threshold
        self.padding: int = config.padding if padding is None else padding
        in_range("patch_size", self.patch_size, *SIDES)
        if self.patch_size % 2:
            raise VertebraError(f"patch_size is {self.patch_size}; it must be even.")
        in_range("nms_threshold", self.nms_threshold, 0, 1)
        in_range("padding", self.padding, 0, SIDES[1])
        in_range("relative", relative, 0, 1)
        in_range("uncertain", uncertain, 0, 1)
        in_range("passes", passes, 1, 100)
        in_range("batch_size", batch_size, 1)
        self.cover, self.relative, self.uncertain = cover, relative, uncertain
        self.passes, self.batch_size = passes, batch_size
        self.counts = Counts()
        """Of all calls."""

    @property
    def channels(self) -> int:
        """Channels of the images, without that of the coarse mask."""
        return self.task.preprocess.channels - 1

    def __call__(self, image: Tensor, prediction: Prediction) -> Prediction:
        """The prediction with refined masks; all other fields, and the order, stay.

        Args:
            image: [C, H, W] uint8 on the CPU, in the size that the masks have.
            prediction: with masks.

        Raises:
            VertebraError: if there are no masks, or image and masks do not fit each other or the network.
        """
        masks = prediction.masks
        if masks is None:
            raise VertebraError("this prediction has no masks to refine.")
        if len(image) != self.channels:
            raise VertebraError(
                f"the image has {len(image)} channels; the refinement network takes {self.channels} and the mask."
            )
        if masks.size != (image.shape[1], image.shape[2]):
            raise VertebraError(
                f"the masks are of an image of {masks.size[1]} x {masks.size[0]} pixels, but this one has "
                f"{image.shape[2]} x {image.shape[1]}."
            )
        self.counts.masks += len(masks)
        for number in range(self.passes):
            refined = Masks(masks.size)
            for instance in self._instances(image, masks):
                if instance.refined:
                    first, *more = instance.refined
                    probabilities = torch.cat((first, *more)) if more else first  # mostly one batch, not copied
                    refined.append(*instance.corner, paste(instance.mask, instance.local, probabilities, self.padding))
                else:
                    refined.append(*instance.corner, instance.mask)
                    self.counts.unchanged += number == 0
            masks = refined
        return replace(prediction, masks=masks)

    def _instances(self, image: Tensor, masks: Masks) -> Iterator[_Instance]:
        """The instances in order, each when all of its patches are refined."""
        waiting: deque[_Instance] = deque()
        batch: list[tuple[_Instance, slice]] = []
        room = self.batch_size
        for corner, crop, boxes in zip(masks.corners, masks.crops, self._boxes(masks), strict=True):
            instance = self._instance(image, corner, crop, boxes)
            waiting.append(instance)
            start, count = 0, len(instance.boxes)
            while start < count:
                part = slice(start, min(count, start + room))
                batch.append((instance, part))
                room -= part.stop - start
                start = part.stop
                if not room:
                    self._run(image, batch)
                    batch, room = [], self.batch_size
            while waiting and waiting[0].complete:
                yield waiting.popleft()
        if batch:
            self._run(image, batch)
        yield from waiting

    def _boxes(self, masks: Masks) -> Iterator[Tensor]:
        """The patches of each mask, [N, 4] int64."""
        for side, same in itertools.groupby(range(len(masks)), lambda index: self._side(masks.crops[index])):
            yield from batched_boundary_patches(masks.take(list(same)), side, self.nms_threshold, cover=self.cover)

    def _instance(self, image: Tensor, corner: tuple[int, int], crop: Tensor, boxes: Tensor) -> _Instance:
        height, width = image.shape[1:]
        if not len(boxes):
            return _Instance(corner, crop, boxes, boxes)
        (x, y), (h, w) = corner, crop.shape
        left, top, right, bottom = zip(*boxes.tolist(), strict=True)
        x1, y1 = max(0, min(x, *left)), max(0, min(y, *top))
        x2, y2 = min(width, max(x + w, *right)), min(height, max(y + h, *bottom))
        mask = Masks((y2 - y1, x2 - x1), [(x - x1, y - y1)], [crop])[0]
        local = boxes - torch.tensor([x1, y1, x1, y1])
        if self.uncertain:
            chosen = separation(cut(image, boxes), cut(mask[None], local)[:, 0]) < 1 - self.uncertain
            boxes, local = boxes[chosen], local[chosen]
        return _Instance((x1, y1), mask, boxes, local)

    def _side(self, crop: Tensor) -> int:
        """The side of patches of a mask [h, w], in pixels."""
        if not self.relative or not crop.any():
            return self.patch_size
        points = crop.nonzero()
        longer = int((points.amax(0) - points.amin(0)).max()) + 1
        return min(max(LEAST_SIDE, 2 * round(self.relative * longer / 2)), SIDES[1])

    def _run(self, image: Tensor, batch: list[tuple[_Instance, slice]]) -> None:
        """Runs the network on parts of the patches of some instances, and hands them the probabilities."""
        groups = [list(group) for _, group in itertools.groupby(batch, lambda item: item[0].side)]
        patches = [self._cut(image, group) for group in groups]
        self.counts.patches += sum(map(len, patches))
        for group, foreground in zip(groups, self.foreground(patches), strict=True):
            lengths = [part.stop - part.start for _, part in group]
            for (instance, _), probabilities in zip(group, foreground.split(lengths), strict=True):
                instance.refined.append(probabilities)

    def _cut(self, image: Tensor, parts: list[tuple[_Instance, slice]]) -> Tensor:
        """The patches of one side of some instances, [n, C + 1, s, s] uint8: image, and coarse mask as 0 or 255."""
        boxes = torch.cat([instance.boxes[part] for instance, part in parts])
        side = parts[0][0].side + 2 * self.padding
        patches = torch.empty(len(boxes), len(image) + 1, side, side, dtype=torch.uint8)
        cut(image, boxes, self.padding, out=patches[:, :-1])
        coarse, start = patches[:, -1:], 0
        for instance, part in parts:
            local = instance.local[part]
            cut(instance.mask[None], local, self.padding, out=coarse[start : start + len(local)])
            start += len(local)
        coarse *= 255
        return patches

    def foreground(self, patches: Sequence[Tensor]) -> list[Tensor]:
        """The network's answer: for patches [n, C + 1, s, s] uint8 of several sides the foreground probabilities
        [n, s, s] float32, on the CPU."""
        preprocess, device = self.task.preprocess, self.task.device
        inputs = []
        for group in patches:
            resized = resize_image(group.to(device).flatten(0, 1), preprocess)
            inputs.append(normalise(resized.unflatten(0, group.shape[:2]), preprocess))
        logits = self.task.evaluated(self.task, torch.cat(inputs))[0].float()
        answers = []
        for group, values in zip(patches, logits.split([len(group) for group in patches]), strict=True):
            size, corners = group.shape[2:], self.task.config.align_corners
            values = interpolate(values, size, mode="bilinear", align_corners=corners)
            answers.append(values.softmax(1)[:, 1].cpu())
        return answers
