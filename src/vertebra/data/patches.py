"""Patches along the boundaries of coarse masks, as samples that are cut out when they are read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vertebra.data.catalogue import Reader, Sample
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
class Patches(Reader):
    """Cuts patches of objects out of their images."""

    entries: list[tuple[CoarseObject, tuple[int, ...] | None]]
    """An object and the box of a patch; without a box one is drawn each time, with torch's random numbers."""
    channels: int
    """Of the images."""
    side: int
    """Of a patch in pixels."""
    padding: int
    """Pixels of context on each side."""
    nms_threshold: float

    def name(self, index: int) -> str:
        return f"patch of {self.entries[index][0].where}"

    def size(self, index: int) -> tuple[int, int]:
        """That of a patch with its context."""
        return self.side + 2 * self.padding, self.side + 2 * self.padding

    def boxes(self, coarse: Cropped, size: tuple[int, int]) -> Tensor:
        """The boxes [N, 4] int64 of all patches along a coarse mask of an image of (height, width) `size`."""
        x, y, mask = coarse
        return boundary_patches(mask, self.side, self.nms_threshold, corner=(x, y), image_size=size)

    def read(self, index: int) -> tuple[Tensor, Target]:
        """A patch.

        Returns:
            The image with the coarse mask as last channel, 0 and 255: [C + 1, side, side] uint8 with the context; and a
            target whose `semantic` is 1 in the ground truth mask, and whose only mask is the coarse one.

        Raises:
            UnreadableImage: if the image cannot be read or is of another size than its masks.
        """
        item, box = self.entries[index]
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
            size=self.size(index),
            id=target.id,
            path=target.path,
        )
