"""A picture and its objects, moved together: the geometry of augmentation, without its randomness.

torchvision moves pictures, boxes and keypoints. A mask is kept as the rectangle that holds it, and moved as a view of
it wherever that is possible: moving a stack [N, H, W] of some hundred nuclei takes longer than all else together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from vertebra import pictures
from vertebra.data import runs, segments
from vertebra.data.catalogue import Sample
from vertebra.data.runs import Piece, tight
from vertebra.errors import VertebraError
from vertebra.structures import Points, Preprocess, Target

ROWS = ("boxes", "labels", "keypoints", "crowd", "areas")
"""What a target has one of for each instance, besides masks."""


@dataclass
class Scene:
    """A picture and what is true of its objects, in its pixels."""

    picture: Tensor
    """[C, H, W] uint8."""
    target: Target
    masks: list[Piece] | None = None
    """One per instance, in place of the target's; None where they are not learned from."""

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.shape[-2], self.picture.shape[-1]

    @property
    def boxes(self) -> Tensor:
        assert self.target.boxes is not None
        return self.target.boxes

    @property
    def crowd(self) -> Tensor:
        """[N] bool, also where the data set knows no crowds."""
        return torch.zeros(len(self.boxes), dtype=torch.bool) if self.target.crowd is None else self.target.crowd

    def take(self, chosen: Tensor) -> Scene:
        """The instances where `chosen`, [N] bool, is true."""
        if bool(chosen.all()):
            return self
        rows: dict[str, Any] = {
            name: value[chosen] for name in ROWS if (value := getattr(self.target, name)) is not None
        }
        kept = self.masks and [piece for piece, stays in zip(self.masks, chosen.tolist(), strict=True) if stays]
        return Scene(self.picture, replace(self.target, **rows), kept)


def read(sample: Sample, channels: int, field: str) -> Scene:
    """A sample to learn from, with what of its target `field` names: `label`, `boxes`, `masks` or `keypoints`.

    Raises:
        BrokenPicture: if the picture cannot be read, is of another size than its annotations, or has a mask that cannot
            be decoded.
    """
    scene = Scene(pictures.read(sample.picture, channels), sample.target)
    if field == "label":
        return scene
    alone = sample.target.boxes is None  # the masks are all that the data set tells
    wanted = sample.segments if alone or field == "masks" else ()
    try:
        target = replace(sample, segments=()).truth(scene.size)
        # One by one, so that no more than one lies whole in memory.
        pieces = [segments.cut(each, scene.size, sample.where(i)) for i, each in enumerate(wanted)]
    except VertebraError as error:
        raise pictures.BrokenPicture(str(error)) from None
    scene.target = replace(target, masks=None, keypoints=target.keypoints if field == "keypoints" else None)
    scene.masks = pieces if field == "masks" else None
    if alone:
        boxes = _bounds(pieces, torch.zeros(len(pieces), 4), [True] * len(pieces))
        areas = torch.tensor([float(mask.sum()) for _, _, mask in pieces])
        scene.target = replace(scene.target, boxes=boxes, areas=areas)
        scene = scene.take(areas > 0)
    assert scene.masks is None or len(scene.masks) == len(scene.boxes), f"{target.path}: a mask for each box is needed"
    return scene


def read_whole(sample: Sample, channels: int, field: str) -> Scene:
    """A sample to be evaluated: all of its target, and in it the masks, each in its rectangle, if `field` is `masks`.

    Raises:
        BrokenPicture: as `read` does.
    """
    scene = Scene(pictures.read(sample.picture, channels), sample.target)
    if field == "label":
        return scene
    unmasked = field != "masks" and sample.target.boxes is not None
    try:
        scene.target = (replace(sample, segments=()) if unmasked else sample).truth(scene.size, pieces=True)
    except VertebraError as error:
        raise pictures.BrokenPicture(str(error)) from None
    if field != "masks":
        scene.target.masks = None
    return scene


def crop(scene: Scene, top: int, left: int, height: int, width: int) -> Scene:
    """What a window shows; it may reach beyond the picture, and is black there.

    Objects whose centre lies outside leave, or that show nothing of their mask. Crowds stay while any of them is to be
    seen, for what nobody told apart must not be learned as background. A box that is cut becomes the bounds of what
    its mask still shows, or without masks is clipped. Keypoints outside become absent.
    """
    x, y = ((scene.boxes[:, i] + scene.boxes[:, i + 2]) / 2 for i in (0, 1))
    inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
    scene = scene.take(inside | scene.crowd)
    found = _moved(scene, lambda each: F.crop(each, top, left, height, width), (height, width))
    boxes = found.boxes
    if scene.masks is not None:
        found.masks = [_window(piece, top, left, height, width) for piece in scene.masks]
        cut = [now[2].shape != before[2].shape for now, before in zip(found.masks, scene.masks, strict=True)]
        boxes = _bounds(found.masks, boxes, cut)
    keypoints = found.target.keypoints
    if keypoints is not None:
        px, py = keypoints[..., 0], keypoints[..., 1]
        seen = (px >= 0) & (px < width) & (py >= 0) & (py < height)
        keypoints = keypoints * seen[..., None]
    found.target = replace(found.target, keypoints=keypoints)
    return _reshaped(found, boxes, _area(boxes) / _area(scene.boxes).clamp(min=1e-9))


def flip(scene: Scene, points: Points | None = None) -> Scene:
    """Left to right; keypoints with sides change them, as `points` says."""
    width = scene.size[1]
    found = _moved(scene, F.horizontal_flip, scene.size)
    found.masks = scene.masks and [(width - x - mask.shape[1], y, mask[:, ::-1]) for x, y, mask in scene.masks]
    return _mirrored(found, points)


def flip_vertical(scene: Scene, points: Points | None = None) -> Scene:
    """Top to bottom: a mirror too, so here also keypoints change sides. With both flips they keep them."""
    height = scene.size[0]
    found = _moved(scene, F.vertical_flip, scene.size)
    found.masks = scene.masks and [(x, height - y - mask.shape[0], mask[::-1]) for x, y, mask in scene.masks]
    return _mirrored(found, points)


def turn(scene: Scene, quarters: int) -> Scene:
    """Turned against the clock by so many right angles."""
    for _ in range(quarters % 4):
        scene = flip_vertical(_transposed(scene))
    return scene


def resize(scene: Scene, size: tuple[int, int], preprocess: Preprocess) -> Scene:
    """Stretched to (height, width) `size`; each pixel of a mask takes the pixel that its centre falls into."""
    interpolation = F.InterpolationMode(preprocess.interpolation)

    def stretched(each: Tensor) -> Tensor:
        if each is scene.picture and size == (1, 1):  # torch's smoothing of eight bits fails on a single pixel
            return each.float().mean((-2, -1), keepdim=True).to(each.dtype)
        return F.resize(each, list(size), interpolation, antialias=preprocess.antialias)

    found = _moved(scene, stretched, size)
    if scene.masks is not None:
        rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, scene.size))
        found.masks = [_stretched(piece, rows, columns) for piece in scene.masks]
    share = size[0] * size[1] / (scene.size[0] * scene.size[1])
    return _reshaped(found, found.boxes, torch.full((len(found.boxes),), share))


def join(tiles: Sequence[tuple[int, int, Scene]], size: tuple[int, int]) -> Scene:
    """Scenes side by side on a canvas of (height, width) `size`, each from its (top, left); they do not overlap."""
    first = tiles[0][2]
    canvas = first.picture.new_zeros(len(first.picture), *size)
    moved = []
    for top, left, tile in tiles:
        height, width = tile.size
        canvas[:, top : top + height, left : left + width] = tile.picture
        moved.append(crop(tile, -top, -left, *size))
    return _together(canvas, moved)


def paste(scene: Scene, donor: Scene) -> Scene:
    """The donor's objects cut out by their masks and laid over the scene, which is of the same size.

    Masks and boxes shrink to what is still to be seen, and objects of which nothing is leave. Source: Simple
    Copy-Paste, arXiv:2012.07177, section 3.
    """
    assert scene.masks is not None
    assert donor.masks is not None
    over = np.zeros(scene.size, bool)
    for x, y, mask in donor.masks:
        over[y : y + mask.shape[0], x : x + mask.shape[1]] |= mask
    pieces, cut = [], []
    for x, y, mask in scene.masks:
        above = over[y : y + mask.shape[0], x : x + mask.shape[1]]
        cut.append(bool((above & mask).any()))
        pieces.append(tight(x, y, mask & ~above) if cut[-1] else (x, y, mask))
    boxes = _bounds(pieces, scene.boxes, cut)
    below = Scene(scene.picture, scene.target, pieces)
    below = _reshaped(below, boxes, _area(boxes) / _area(scene.boxes).clamp(min=1e-9))
    return _together(torch.where(torch.from_numpy(over), donor.picture, scene.picture), [below, donor])


def settle(scene: Scene) -> Target:
    """The target to learn from: boxes clipped, masks as [N, H, W], and without objects less than a pixel wide or high
    or of whose mask no pixel is left."""
    boxes = tv_tensors.BoundingBoxes(scene.boxes, format="XYXY", canvas_size=scene.size)
    boxes = F.clamp_bounding_boxes(boxes).as_subclass(Tensor)
    stays = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
    if scene.masks is not None:
        stays &= torch.tensor([bool(mask.any()) for _, _, mask in scene.masks], dtype=torch.bool)
    scene = Scene(scene.picture, replace(scene.target, boxes=boxes), scene.masks).take(stays)
    if scene.masks is None:
        return scene.target
    return replace(scene.target, masks=runs.whole(scene.masks, scene.size))


def _moved(scene: Scene, move: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Scene:
    """Picture, boxes and keypoints moved into a picture of (height, width) `size`; masks are left to the caller."""
    target = scene.target
    boxes = tv_tensors.BoundingBoxes(scene.boxes, format="XYXY", canvas_size=scene.size)
    keypoints = target.keypoints
    if keypoints is not None:
        places = tv_tensors.KeyPoints(keypoints[..., :2], canvas_size=scene.size)
        keypoints = torch.cat([move(places).as_subclass(Tensor), keypoints[..., 2:]], -1)
        keypoints = keypoints * (keypoints[..., 2:] > 0)  # absent ones stay at 0, 0
    moved = replace(target, boxes=move(boxes).as_subclass(Tensor), keypoints=keypoints, size=size)
    return Scene(move(scene.picture), moved)


def _transposed(scene: Scene) -> Scene:
    target, (height, width) = scene.target, scene.size
    keypoints = target.keypoints if target.keypoints is None else target.keypoints[..., [1, 0, 2]]
    target = replace(target, boxes=scene.boxes[:, [1, 0, 3, 2]], keypoints=keypoints, size=(width, height))
    masks = scene.masks and [(y, x, mask.T) for x, y, mask in scene.masks]
    return Scene(scene.picture.transpose(-1, -2), target, masks)


def _mirrored(scene: Scene, points: Points | None) -> Scene:
    keypoints = scene.target.keypoints
    if keypoints is not None and points is not None and points.flip:
        swapped = torch.empty_like(keypoints)
        swapped[:, list(points.flip)] = keypoints
        scene.target = replace(scene.target, keypoints=swapped)
    return scene


def _reshaped(scene: Scene, boxes: Tensor, share: Tensor) -> Scene:
    """With new boxes, areas that are `share` [N] of what they were, and without the objects that vanished."""
    areas = None if scene.target.areas is None else scene.target.areas * share
    scene = Scene(scene.picture, replace(scene.target, boxes=boxes, areas=areas), scene.masks)
    return scene.take((boxes[:, 2:] > boxes[:, :2]).all(1))


def _together(picture: Tensor, scenes: Sequence[Scene]) -> Scene:
    """All instances of scenes that lie on one canvas, on this picture; the rest is told of the first."""
    rows: dict[str, Any] = {"crowd": torch.cat([scene.crowd for scene in scenes])}
    for name in ROWS:
        values = [getattr(scene.target, name) for scene in scenes]
        if name != "crowd":
            rows[name] = None if any(value is None for value in values) else torch.cat(values)
    target = replace(scenes[0].target, **rows, size=(picture.shape[-2], picture.shape[-1]))
    if any(scene.masks is None for scene in scenes):
        return Scene(picture, target)
    return Scene(picture, target, [piece for scene in scenes for piece in scene.masks or ()])


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _window(piece: Piece, top: int, left: int, height: int, width: int) -> Piece:
    x, y = piece[0] - left, piece[1] - top
    mask = piece[2][max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
    whole = mask.shape == piece[2].shape
    return (x, y, mask) if whole else tight(max(0, x), max(0, y), mask)


def _stretched(piece: Piece, rows: np.ndarray, columns: np.ndarray) -> Piece:
    """A mask in a picture whose pixel rows and columns are these of its own."""
    x, y, mask = piece
    top, bottom = np.searchsorted(rows, (y, y + mask.shape[0]))
    left, right = np.searchsorted(columns, (x, x + mask.shape[1]))
    return int(left), int(top), mask[rows[top:bottom] - y][:, columns[left:right] - x]


def _bounds(pieces: Sequence[Piece], boxes: Tensor, where: Sequence[bool]) -> Tensor:
    """The boxes [N, 4], with the bounds of the mask in place of those `where` it is true."""
    sides = [(x, y, x + mask.shape[1], y + mask.shape[0]) for x, y, mask in pieces]
    bounds = torch.tensor(sides, dtype=boxes.dtype).reshape(-1, 4)
    return torch.where(torch.tensor(where, dtype=torch.bool)[:, None], bounds, boxes)
