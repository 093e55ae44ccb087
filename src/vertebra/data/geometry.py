"""An image and its target, moved together: the geometry of augmentation, without its randomness.

Every function moves all that the target holds: boxes, masks, keypoints, areas, label map and size; fields that are None
stay None. A mask is moved as its crop, and as a view of it where that is possible: moving a stack [N, H, W] of some
hundred nuclei takes longer than everything else together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.data.catalogue import Sample
from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage, read_image, resample
from vertebra.structures import IGNORED, KeypointSchema, Masks, Preprocess, Region, Target

ROWS = ("boxes", "labels", "keypoints", "crowd", "areas")
"""Fields of Target that have one row per instance, besides masks."""
ALWAYS = ("boxes", "labels", "crowd", "areas")
"""Fields of Target that are read whenever one of `masks` or ROWS is needed."""
LOCATED = (*ROWS, "masks", "semantic")
"""Fields of Target that refer to pixels of the image."""


@dataclass
class Example:
    """An image and its target, in pixels of the image."""

    image: Tensor
    """[C, H, W] uint8."""
    target: Target
    region: Region | None = None
    """The object that the sample is of, where each object of an image is one."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def boxes(self) -> Tensor:
        """[N, 4] float32, from the masks if the target has no boxes; N is 0 if it has neither."""
        if self.target.boxes is not None:
            return self.target.boxes
        return torch.zeros(0, 4) if self.target.masks is None else self.target.masks.boxes()

    @property
    def crowd(self) -> Tensor:
        """[N] bool, all False if the target does not say."""
        return torch.zeros(len(self.boxes), dtype=torch.bool) if self.target.crowd is None else self.target.crowd

    def take(self, chosen: Tensor) -> Example:
        """The instances where `chosen`, [N] bool, is True."""
        if bool(chosen.all()):
            return self
        rows: dict[str, Any] = {
            name: value[chosen] for name in ROWS if (value := getattr(self.target, name)) is not None
        }
        if self.target.masks is not None:
            rows["masks"] = self.target.masks.take(chosen.nonzero().flatten().tolist())
        return replace(self, target=replace(self.target, **rows))


def read_example(sample: Sample, channels: int, fields: Collection[str]) -> Example:
    """Reads the image of a sample and those fields of its target that are needed.

    Args:
        channels: of the image, as for `images.read_image`.
        fields: fields of Target. Any field of instances brings boxes, labels, crowd and areas along; masks are decoded
            only if they are among `fields`, or if the boxes have to be computed from them.

    Raises:
        UnreadableImage: if the image cannot be read, is of another size than its annotations, or has a mask that cannot
            be decoded.
    """
    image = read_image(sample.image, channels)
    size = (image.shape[-2], image.shape[-1])
    target = sample.target
    kept = set(fields)
    if kept & {"masks", *ROWS}:
        kept |= set(ALWAYS)
    if kept - {"label"}:
        masked = "masks" in kept or ("boxes" in kept and target.boxes is None)
        try:
            segments = sample.segments if masked or sample.painted else ()
            target = replace(sample, image=image, segments=segments).load_target(size)
        except VertebraError as error:
            raise UnreadableImage(str(error)) from None
    dropped: dict[str, Any] = dict.fromkeys({"label", *LOCATED} - kept)
    target = replace(target, size=size, **dropped)
    if "masks" in kept and target.boxes is not None:
        count = -1 if target.masks is None else len(target.masks)
        assert count == len(target.boxes), f"{target.path}: a mask for each box is needed"
    return Example(image, target, sample.region)


def alone(example: Example) -> Example:
    """The example with the object of its region alone."""
    region = example.region
    assert region is not None
    assert region.index is not None
    chosen = torch.zeros(len(example.boxes), dtype=torch.bool)
    chosen[region.index] = True
    taken = example.take(chosen)
    return replace(taken, region=replace(region, index=0))


def in_region(changed: Example, before: Example) -> Example:
    """An example of one object after a user's transforms, with its new box; as it was before if they removed it."""
    assert before.region is not None
    if not len(changed.boxes):
        return before
    x1, y1, x2, y2 = changed.boxes[0].tolist()
    return replace(changed, region=replace(before.region, box=(x1, y1, x2, y2)))


def crop(example: Example, top: int, left: int, height: int, width: int) -> Example:
    """A window of the image; it may reach beyond the border, where the image is black and the label map IGNORED.

    Objects are dropped if their centre lies outside, or if none of their mask is left. A crowd stays while any of it is
    left, because its region must not be learned as background. A box that is cut becomes the bounding box of what is
    left of its mask, or without masks is clipped. Keypoints outside become absent.
    """
    target = _cropped(example, top, left, height, width)
    if target.semantic is not None:
        target.semantic = _window(target.semantic, top, left, height, width, IGNORED)
    return Example(_window(example.image, top, left, height, width, 0), target)


def flip_horizontal(example: Example, keypoints: KeypointSchema | None = None) -> Example:
    """The left-right mirror image; keypoints swap as `keypoints.flip_indices` says."""
    target, width = example.target, example.size[1]
    boxes = None
    if target.boxes is not None:
        x1, y1, x2, y2 = target.boxes.unbind(1)
        boxes = torch.stack([width - x2, y1, width - x1, y2], 1)
    positions = None
    if target.keypoints is not None:
        x, y, visible = target.keypoints.unbind(-1)
        positions = _swapped(_present(width - 1 - x, y, visible), keypoints)
    masks = None
    if target.masks is not None:
        crops = [mask.flip(1) for mask in target.masks.crops]
        corners = [(width - x - mask.shape[1], y) for (x, y), mask in zip(target.masks.corners, crops, strict=True)]
        masks = Masks(example.size, corners, crops)
    semantic = None if target.semantic is None else target.semantic.flip(-1)
    moved = replace(target, boxes=boxes, keypoints=positions, masks=masks, semantic=semantic, size=example.size)
    return Example(example.image.flip(-1), moved)


def flip_vertical(example: Example, keypoints: KeypointSchema | None = None) -> Example:
    """The top-bottom mirror image; here too keypoints swap, so that after both flips they are as before."""
    target, height = example.target, example.size[0]
    boxes = None
    if target.boxes is not None:
        x1, y1, x2, y2 = target.boxes.unbind(1)
        boxes = torch.stack([x1, height - y2, x2, height - y1], 1)
    positions = None
    if target.keypoints is not None:
        x, y, visible = target.keypoints.unbind(-1)
        positions = _swapped(_present(x, height - 1 - y, visible), keypoints)
    masks = None
    if target.masks is not None:
        crops = [mask.flip(0) for mask in target.masks.crops]
        corners = [(x, height - y - mask.shape[0]) for (x, y), mask in zip(target.masks.corners, crops, strict=True)]
        masks = Masks(example.size, corners, crops)
    semantic = None if target.semantic is None else target.semantic.flip(-2)
    moved = replace(target, boxes=boxes, keypoints=positions, masks=masks, semantic=semantic, size=example.size)
    return Example(example.image.flip(-2), moved)


def rotate90(example: Example, turns: int) -> Example:
    """Rotated anticlockwise by `turns` right angles."""
    for _ in range(turns % 4):
        example = flip_vertical(_transposed(example))
    return example


def resize(example: Example, size: tuple[int, int], preprocess: Preprocess) -> Example:
    """Resized to (height, width) `size`; masks and label map take the pixel that each new pixel's centre falls into."""
    target, (height, width) = example.target, size
    image = resample(example.image, size, preprocess)
    scale_y, scale_x = height / example.size[0], width / example.size[1]
    boxes = None
    if target.boxes is not None:
        boxes = target.boxes * torch.tensor([scale_x, scale_y, scale_x, scale_y])
    positions = None
    if target.keypoints is not None:
        x, y, visible = target.keypoints.unbind(-1)
        positions = _present(x * scale_x, y * scale_y, visible)
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, example.size))
    moved = replace(
        target,
        boxes=boxes,
        keypoints=positions,
        masks=None if target.masks is None else _resized(target.masks, rows, columns),
        semantic=None if target.semantic is None else target.semantic[rows][:, columns],
        areas=None if target.areas is None else target.areas * (scale_y * scale_x),
        size=size,
    )
    result = Example(image, moved)
    return result.take((result.boxes[:, 2:] > result.boxes[:, :2]).all(1)) if boxes is not None else result


def join(tiles: Sequence[tuple[int, int, Example]], size: tuple[int, int]) -> Example:
    """Examples side by side on a canvas of (height, width) `size`, each from its (top, left); they do not overlap.

    Label, id and path are those of the first. Where a tile has no label map but the first does, it is IGNORED.
    """
    first = tiles[0][2]
    image = first.image.new_zeros(len(first.image), *size)
    semantic = None if first.target.semantic is None else first.target.semantic.new_full(size, IGNORED)
    for top, left, tile in tiles:
        rows, columns = slice(top, top + tile.size[0]), slice(left, left + tile.size[1])
        image[:, rows, columns] = tile.image
        if semantic is not None and tile.target.semantic is not None:
            semantic[rows, columns] = tile.target.semantic
    targets = [_cropped(tile, -top, -left, *size) for top, left, tile in tiles]
    return Example(image, replace(_concatenated(targets, size), semantic=semantic))


def paste(example: Example, donor: Example) -> Example:
    """The donor's objects cut out by their masks and pasted onto an example of the same size; both need masks.

    Masks and boxes below shrink to what remains visible, and objects of which nothing remains are dropped. The label
    map under the pasted pixels is the donor's, or IGNORED if the donor has none. Source: Simple Copy-Paste,
    arXiv:2012.07177, section 3.
    """
    assert example.target.masks is not None
    assert donor.target.masks is not None
    pasted = np.zeros(example.size, bool)
    for (x, y), mask in zip(donor.target.masks.corners, donor.target.masks.crops, strict=True):
        pasted[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask.numpy()
    masks, cut = Masks(example.size), []
    for (x, y), mask in zip(example.target.masks.corners, example.target.masks.crops, strict=True):
        above = pasted[y : y + mask.shape[0], x : x + mask.shape[1]]
        pixels = mask.numpy()
        cut.append(bool((above & pixels).any()))
        if cut[-1]:
            masks.append(x, y, torch.from_numpy(pixels & ~above))
        else:
            masks.corners.append((x, y))
            masks.crops.append(mask)
    below = _with_cut_boxes(example, replace(example.target, masks=masks), example.boxes, cut)
    over = torch.from_numpy(pasted)
    semantic = example.target.semantic
    if semantic is not None:
        above_map = donor.target.semantic
        semantic = torch.where(over, semantic.new_tensor(IGNORED) if above_map is None else above_map, semantic)
    target = replace(_concatenated([below, donor.target], example.size), semantic=semantic)
    return Example(torch.where(over, donor.image, example.image), target)


def clean_target(example: Example) -> Target:
    """The target to learn from: boxes clipped to the image, and without objects that are less than a pixel wide or high
    or have no pixel in their mask."""
    target, (height, width) = example.target, example.size
    kept = torch.ones(len(example.boxes), dtype=torch.bool)
    if target.boxes is not None:
        limits = torch.tensor([width, height, width, height], dtype=target.boxes.dtype)
        target = replace(target, boxes=target.boxes.clamp(min=0).minimum(limits))
        assert target.boxes is not None
        kept &= (target.boxes[:, 2:] - target.boxes[:, :2] >= 1).all(1)
    if target.masks is not None:
        kept &= torch.tensor([bool(mask.numpy().any()) for mask in target.masks.crops], dtype=torch.bool)
    return Example(example.image, target).take(kept).target


def _cropped(example: Example, top: int, left: int, height: int, width: int) -> Target:
    """The target of `crop`, with the label map as it was."""
    corner = torch.tensor([left, top])
    centres = (example.boxes[:, :2] + example.boxes[:, 2:]) / 2
    inside = ((centres >= corner) & (centres < corner + torch.tensor([width, height]))).all(1)
    example = example.take(inside | example.crowd)
    target, size = example.target, (height, width)
    positions = None
    if target.keypoints is not None:
        x, y, visible = target.keypoints.unbind(-1)
        x, y = x - left, y - top
        positions = _present(x, y, visible * ((x >= 0) & (x < width) & (y >= 0) & (y < height)))
    masks, cut = None, [False] * len(example.boxes)
    if target.masks is not None:
        masks = Masks(size)
        for i, ((x0, y0), mask) in enumerate(zip(target.masks.corners, target.masks.crops, strict=True)):
            x1, y1 = x0 - left, y0 - top
            seen = mask[max(0, -y1) : max(0, height - y1), max(0, -x1) : max(0, width - x1)]
            cut[i] = seen.shape != mask.shape
            if cut[i]:
                masks.append(max(0, x1), max(0, y1), seen)
            else:
                masks.corners.append((x1, y1))
                masks.crops.append(mask)
    offset = torch.tensor([left, top, left, top])
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    boxes = (example.boxes - offset).clamp(min=0).minimum(limits)
    return _with_cut_boxes(example, replace(target, masks=masks, keypoints=positions, size=size), boxes, cut)


def _with_cut_boxes(before: Example, target: Target, boxes: Tensor, cut: Sequence[bool]) -> Target:
    """The target with `boxes`, or the bounding boxes of the masks that were `cut`; areas shrink as the boxes did.

    Objects whose box is empty are dropped.
    """
    if target.masks is not None:
        boxes = torch.where(torch.tensor(cut, dtype=torch.bool)[:, None], target.masks.boxes(), boxes)
    if target.areas is not None and len(boxes):
        target = replace(target, areas=target.areas * (_area(boxes) / _area(before.boxes).clamp(min=1e-9)))
    if target.boxes is not None:
        target = replace(target, boxes=boxes)
    return Example(before.image, target).take((boxes[:, 2:] > boxes[:, :2]).all(1)).target


def _concatenated(targets: Sequence[Target], size: tuple[int, int]) -> Target:
    """The instances of all targets, which lie on one image of (height, width) `size`; other fields are the first's."""
    rows: dict[str, Any] = {}
    for name in ROWS:
        values = [getattr(target, name) for target in targets]
        if name == "crowd" and all(target.boxes is not None for target in targets):
            values = [Example(torch.empty(0), target).crowd for target in targets]
        rows[name] = None if any(value is None for value in values) else torch.cat(values)
    masks = None
    if all(target.masks is not None for target in targets):
        parts = [target.masks for target in targets if target.masks is not None]
        corners = [corner for part in parts for corner in part.corners]
        masks = Masks(size, corners, [mask for part in parts for mask in part.crops])
    return replace(targets[0], **rows, masks=masks, size=size)


def _transposed(example: Example) -> Example:
    target, (height, width) = example.target, example.size
    masks = None
    if target.masks is not None:
        corners = [(y, x) for x, y in target.masks.corners]
        masks = Masks((width, height), corners, [mask.T for mask in target.masks.crops])
    moved = replace(
        target,
        boxes=None if target.boxes is None else target.boxes[:, [1, 0, 3, 2]],
        keypoints=None if target.keypoints is None else target.keypoints[..., [1, 0, 2]],
        masks=masks,
        semantic=None if target.semantic is None else target.semantic.T,
        size=(width, height),
    )
    return Example(example.image.transpose(-1, -2), moved)


def _window(pixels: Tensor, top: int, left: int, height: int, width: int, fill: int) -> Tensor:
    """A window of pixels [..., H, W], a view where it lies inside; `fill` beyond the border."""
    seen = pixels[..., max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
    if seen.shape[-2:] == (height, width):
        return seen
    canvas = pixels.new_full((*pixels.shape[:-2], height, width), fill)
    y, x = max(0, -top), max(0, -left)
    canvas[..., y : y + seen.shape[-2], x : x + seen.shape[-1]] = seen
    return canvas


def _resized(masks: Masks, rows: np.ndarray, columns: np.ndarray) -> Masks:
    """Masks of an image whose pixel rows and columns become these of the present ones, which ascend."""
    result = Masks((len(rows), len(columns)))
    for (x, y), mask in zip(masks.corners, masks.crops, strict=True):
        top, bottom = np.searchsorted(rows, (y, y + mask.shape[0]))
        left, right = np.searchsorted(columns, (x, x + mask.shape[1]))
        result.corners.append((int(left), int(top)))
        result.crops.append(torch.from_numpy(mask.numpy()[rows[top:bottom] - y][:, columns[left:right] - x]))
    return result


def _present(x: Tensor, y: Tensor, visible: Tensor) -> Tensor:
    """Keypoints [N, K, 3]; absent ones are 0, 0, 0."""
    return torch.stack([x, y, visible], -1) * (visible > 0)[..., None]


def _swapped(positions: Tensor, keypoints: KeypointSchema | None) -> Tensor:
    """Keypoints [N, K, 3] in the order of the mirror image."""
    return positions[:, list(keypoints.flip_indices)] if keypoints is not None and keypoints.flip_indices else positions


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
