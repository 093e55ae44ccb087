"""Anchors over a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vertebra.errors import VertebraError, in_range, shown
from vertebra.ops.anchors import anchor_grid


@dataclass(frozen=True)
class Anchors:
    """Sizes, shapes and positions of the anchors."""

    scale: float = 8.0
    """Side of the anchors in cells of their level: 8 is 32 pixels at stride 4. Lower it for small objects."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    offset: float = 0.5
    """Position of the anchor centre in its cell; checkpoints of torchvision, Detectron2 and MMDetection use 0."""
    rounded: bool = False
    """Round the sides of the anchors to whole pixels, as torchvision does."""
    inferred_strides: bool = False
    """Take strides from the sizes of the input and the map, as torchvision does."""

    def __post_init__(self) -> None:
        in_range("anchors.scale", self.scale, 0.01, 1000)
        in_range("anchors.offset", self.offset, 0, 1)
        if not self.ratios or not all(0.001 <= ratio <= 1000 for ratio in self.ratios):
            values = shown(list(self.ratios))
            raise VertebraError(
                f"anchors.ratios is {values}; it must hold numbers in 0.001..1000, such as [0.5, 1, 2]."
            )

    def grids(
        self,
        maps: Sequence[Tensor],
        strides: Sequence[int],
        sides: Sequence[Sequence[float]],
        input_size: tuple[int, int],
    ) -> list[Tensor]:
        """Anchors of every level.

        Args:
            maps: [B, C, h, w] of each level, of which the sizes are used.
            strides: input pixels per cell of each level.
            sides: square roots of the anchor areas of each level, in input pixels.
            input_size: (height, width) of the input, for `inferred_strides`.

        Returns:
            [h w A, 4] of each level, as `anchor_grid` returns them.
        """
        grids = []
        for x, level_stride, level_sides in zip(maps, strides, sides, strict=True):
            cells = (x.shape[2], x.shape[3])
            stride = (input_size[0] // cells[0], input_size[1] // cells[1]) if self.inferred_strides else level_stride
            lengths = [float(int(side)) for side in level_sides] if self.rounded else level_sides
            grids.append(
                anchor_grid(
                    cells, stride, lengths, self.ratios, offset=self.offset, rounded=self.rounded, device=x.device
                )
            )
        return grids


def flatten_anchors(x: Tensor, values: int) -> Tensor:
    """Predictions [B, A values, h, w] in the order of the anchors: [B, h w A, values]."""
    return x.unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def ratio_major(x: Tensor, num_sides: int, values: int) -> Tensor:
    """Rows [sides ratios values, ...] of a layer in Detectron2's order of three-ratio anchors, in our order."""
    return x if num_sides == 1 else x.unflatten(0, (num_sides, 3, values)).transpose(0, 1).flatten(0, 2)
