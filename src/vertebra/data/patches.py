"""Patches along the boundaries of coarse masks, as samples that are cut out when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vertebra.data.catalogue import Sample
from vertebra.data.degrade import Cropped, degrade
from vertebra.data.segments import crop
from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage, read_image
from vertebra.ops.patches import boundary_patches, cut
from vertebra.ops.rle import RunLengths
from vertebra.structures import Masks, Target


@dataclass(frozen=True)
class CoarseObject:
    """An object of an image with its ground truth mask and its coarse one."""

    image: Sample
    where: str
    """Names the object in messages."""
    mask: RunLengths
    coarse: RunLengths | None = None
    """None if it is the ground truth mask, degraded anew each time it is read."""

    def masks(self, size: tuple[int, int]) -> tuple[Cropped, Cropped]:
        """Both masks, ground truth first, for an image of (height, width) `size`."""
        mask = crop(self.mask, size, self.where)
        return mask, degrade(*mask, size) if self.coarse is None else crop(self.coarse, size, self.where)


@dataclass
class Patches:
    """Cuts patches of objects out of their images."""

    objects: Sequence[CoarseObject]
    channels: int
    """Of the images."""
    size: int
    """Side of a patch in pixels."""
    padding: int
    """Pixels of context on each side."""
    nms_threshold: float
    last: tuple[int, Tensor, Target] | None = None
    """The sample that was read last, by its number."""

    @property
    def side(self) -> int:
        """Of a patch with its context, in pixels."""
        return self.size + 2 * self.padding

    def boxes(self, coarse: Cropped, size: tuple[int, int]) -> Tensor:
        """The boxes [N, 4] int64 of all patches along a coarse mask of an image of (height, width) `size`."""
        x, y, mask = coarse
        return boundary_patches(mask, self.size, self.nms_threshold, corner=(x, y), image_size=size)

    def read(self, index: int, box: tuple[int, ...] | None) -> tuple[Tensor, Target]:
        """A patch of object `index`, at `box` or, if it is None, at one drawn with torch's random numbers.

        Returns:
            The image with the coarse mask as last channel, 0 and 255: [C + 1, side, side] uint8; and a target whose
            `semantic` is 1 in the ground truth mask, and whose only mask is the coarse one.

        Raises:
            UnreadableImage: if the image cannot be read or is of another size than its masks.
        """
        item = self.objects[index]
        image = read_image(item.image.image, self.channels)
        size = (image.shape[1], image.shape[2])
        try:
            mask, coarse = item.masks(size)
        except VertebraError as error:
            raise UnreadableImage(str(error)) from None
        if box is None:
            boxes = self.boxes(coarse, size)
            chosen = boxes[int(torch.randint(len(boxes), ()))]
        else:
            chosen = torch.tensor(box)
        pixels = cut(image, chosen[None], self.padding)[0]
        true_map, coarse_map = (
            cut(part.to(torch.uint8)[None], chosen[None] - torch.tensor([x, y, x, y]), self.padding)[0]
            for x, y, part in (mask, coarse)
        )
        target = item.image.target
        return torch.cat((pixels, 255 * coarse_map)), Target(
            semantic=true_map[0],
            masks=Masks.from_dense(coarse_map > 0),
            size=(self.side, self.side),
            id=target.id,
            path=target.path,
        )


class PatchSample(Sample):
    """A patch of an object. Each access to `image` reads it anew; `target` is the one read with it."""

    _patches: Patches
    _index: int
    _box: tuple[int, ...] | None

    def __new__(cls, *fields: Any, **named: Any) -> Sample:  # type: ignore[misc]
        """An ordinary Sample, so that `dataclasses.replace` works; `of` makes those of patches."""
        return Sample(*fields, **named)

    @classmethod
    def of(cls, patches: Patches, index: int, box: tuple[int, ...] | None = None) -> PatchSample:
        """A sample of object `index`: the patch at `box`, or at random another one each time it is read."""
        sample: PatchSample = object.__new__(cls)
        sample.__dict__.update(_patches=patches, _index=index, _box=box, segments=(), annotation_ids=())
        return sample

    @property
    def image(self) -> Tensor:
        return self._read()[0]

    @property
    def target(self) -> Target:
        last = self._patches.last
        return last[2] if last is not None and last[0] == id(self) else self._read()[1]

    @property
    def size(self) -> tuple[int, int]:
        return self._patches.side, self._patches.side

    def _read(self) -> tuple[Tensor, Target]:
        self._patches.last = (id(self), *self._patches.read(self._index, self._box))
        return self._patches.last[1:]

    def __repr__(self) -> str:
        return f"Sample(patch of {self._patches.objects[self._index].where})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PatchSample.of, (self._patches, self._index, self._box)
