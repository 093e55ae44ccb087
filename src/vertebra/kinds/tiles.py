"""Large images in overlapping tiles: where to cut, and how to merge the detections of all tiles.

Two tiles that overlap have both seen what lies in the overlap. So detections of two tiles are one object if, inside the
overlap, they are of one class and agree; objects that merely touch do not. Nothing is allocated at the size of the
image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vertebra.structures import Masks, Prediction

SAME_IOU = 0.5
"""Least IoU, inside the overlap, of two detections of one object."""
PIECE_SHARE = 0.7
"""Least share of a cut detection's part in the overlap that lies in another detection of which it is a piece."""
COVERED_SHARE = 0.8
"""Least share of a cut detection's box that lies in the box of a whole one for it to be dropped."""
BORDER_SHARE = 0.02
"""Detections whose box comes this close to a tile's border, as a share of the tile's side, count as cut by it."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image in pixels, end exclusive, and its place in the grid."""

    row: int
    column: int
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2."""


def grid(size: tuple[int, int], side: int, overlap: float = 0.2) -> list[Tile]:
    """Tiles that cover an image of (height, width) `size`, evenly spread, row by row.

    Args:
        size: (height, width) of the image in pixels.
        side: of a tile in pixels; an image with a smaller height or width has tiles of that height or width.
        overlap: smallest share of a tile's side that neighbours have in common, above 0 and up to 0.5.
    """
    tops, lefts = (_starts(length, side, overlap) for length in size)
    height, width = min(side, size[0]), min(side, size[1])
    return [
        Tile(row, column, (left, top, left + width, top + height))
        for row, top in enumerate(tops)
        for column, left in enumerate(lefts)
    ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    common = max(1, round(side * overlap))
    count = -(-(length - common) // (side - common))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def merge(predictions: Sequence[Prediction], tiles: Sequence[Tile], size: tuple[int, int]) -> Prediction:
    """One Prediction for an image of (height, width) `size` from those of its tiles, each in its tile's pixels.

    Of the detections of one object, the top-scoring whole one is kept. Detections cut by a border are joined to it, or
    to each other where no tile saw the whole object: the union of the masks, the box around the boxes, the highest
    score, and each keypoint from the detection that scores it highest.
    """
    detections = _gather(predictions, tiles, size)
    boxes, labels, scores = detections.boxes, detections.labels, detections.scores
    assert boxes is not None
    assert labels is not None
    assert scores is not None
    tile_of = [i for i, prediction in enumerate(predictions) for _ in range(_count(prediction))]
    cut = _cut(boxes, [tiles[i] for i in tile_of], size)
    members: dict[int, list[int]] = {i: [] for i in range(len(tiles))}
    for i, tile in enumerate(tile_of):
        members[tile].append(i)
    parent = list(range(len(tile_of)))  # of each detection, another one of the same object; itself at the root

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for first, second, zone in _overlaps(tiles):
        for i, j in _same(detections, members[first], members[second], cut, zone):
            parent[root(j)] = root(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(tile_of)):
        groups.setdefault(root(i), []).append(i)
    return _sorted([_join(detections, group, cut) for group in groups.values()], detections)


def _count(prediction: Prediction) -> int:
    assert prediction.boxes is not None, "tiles are for detections"
    return len(prediction.boxes)


def _gather(predictions: Sequence[Prediction], tiles: Sequence[Tile], size: tuple[int, int]) -> Prediction:
    """The detections of all tiles in pixels of the image."""
    corners = [torch.tensor([*tile.box[:2], *tile.box[:2]]) for tile in tiles]

    def joined(name: str, coordinates: int = 0) -> Tensor | None:
        """A field of all tiles, its first `coordinates` values (x, y, ...) moved by the tile's corner."""
        parts = [getattr(prediction, name) for prediction in predictions]
        if any(part is None for part in parts):
            return None
        moved = [part.clone() for part in parts]
        for part, corner in zip(moved, corners, strict=True):
            part[..., :coordinates] += corner[:coordinates]
        return torch.cat(moved)

    masks: Masks | None = None
    if all(prediction.masks is not None for prediction in predictions):
        masks = Masks(size)
        for prediction, tile in zip(predictions, tiles, strict=True):
            assert prediction.masks is not None
            masks.corners += [(x + tile.box[0], y + tile.box[1]) for x, y in prediction.masks.corners]
            masks.crops += prediction.masks.crops
    return Prediction(
        boxes=joined("boxes", 4),
        labels=joined("labels"),
        scores=joined("scores"),
        keypoints=joined("keypoints", 2),
        masks=masks,
        size=size,
    )


def _cut(boxes: Tensor, tiles: Sequence[Tile], size: tuple[int, int]) -> list[bool]:
    """Whether each box [N, 4] reaches a border of its tile that is not the image's."""
    tile_boxes = torch.tensor([tile.box for tile in tiles]).reshape(-1, 4)
    slack = (BORDER_SHARE * (tile_boxes[:, 2:] - tile_boxes[:, :2])).clamp(min=1)  # [N, 2]
    limit = torch.tensor([size[1], size[0]])
    starts = (tile_boxes[:, :2] > 0) & (boxes[:, :2] <= tile_boxes[:, :2] + slack)
    ends = (tile_boxes[:, 2:] < limit) & (boxes[:, 2:] >= tile_boxes[:, 2:] - slack)
    return (starts | ends).any(1).tolist()


def _overlaps(tiles: Sequence[Tile]) -> Iterator[tuple[int, int, tuple[int, int, int, int]]]:
    """The indices of each pair of tiles that overlap, and the overlap x1, y1, x2, y2."""
    indices = {(tile.row, tile.column): i for i, tile in enumerate(tiles)}
    steps = [(0, 1), (0, 2)] + [(down, right) for down in (1, 2) for right in range(-2, 3)]
    for i, tile in enumerate(tiles):
        for down, right in steps:  # no tile reaches further, as neighbours share half a side at most
            j = indices.get((tile.row + down, tile.column + right))
            if j is None:
                continue
            a, b = tile.box, tiles[j].box
            zone = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
            if zone[0] < zone[2] and zone[1] < zone[3]:
                yield i, j, zone


def _same(
    detections: Prediction, first: list[int], second: list[int], cut: Sequence[bool], zone: tuple[int, int, int, int]
) -> Iterator[tuple[int, int]]:
    """Pairs of detections, one of each of two tiles, of the same object, by their parts inside the overlap `zone`."""
    assert detections.labels is not None
    first, boxes = _clip(detections, first, zone)
    second, others = _clip(detections, second, zone)
    if not first or not second:
        return
    corners = torch.maximum(boxes[:, None, :2], others[:, :2]), torch.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (corners[1] - corners[0]).clamp(min=0).prod(2)  # [A, B]
    common *= detections.labels[first][:, None] == detections.labels[second]
    areas, other_areas = _area(boxes), _area(others)
    if detections.masks is not None:
        areas = torch.tensor([float(_part(detections.masks, i, zone).sum()) for i in first])
        other_areas = torch.tensor([float(_part(detections.masks, j, zone).sum()) for j in second])
        for a, b in torch.nonzero(common).tolist():
            common[a, b] = _intersection(detections.masks, first[a], second[b], zone)
    iou = common / (areas[:, None] + other_areas - common).clamp(min=1e-6)
    free, other_free = set(range(len(first))), set(range(len(second)))
    candidates = torch.nonzero(iou >= SAME_IOU).tolist()
    for a, b in sorted(candidates, key=lambda pair: -float(iou[pair[0], pair[1]])):
        if a in free and b in other_free:
            free.discard(a)
            other_free.discard(b)
            yield first[a], second[b]
    # A cut detection without a partner may be a piece of an object of which the other tile saw more.
    for table, unmatched, pieces, wholes, piece_areas in (
        (common, free, first, second, areas),
        (common.T, other_free, second, first, other_areas),
    ):
        for a in unmatched:
            share, b = (table[a] / piece_areas[a].clamp(min=1e-6)).max(0)
            if cut[pieces[a]] and share >= PIECE_SHARE:
                yield pieces[a], wholes[int(b)]


def _clip(detections: Prediction, indices: Sequence[int], zone: tuple[int, int, int, int]) -> tuple[list[int], Tensor]:
    """Those of the detections at `indices` that reach into `zone`, and their boxes [N, 4] clipped to it."""
    assert detections.boxes is not None
    low, high = torch.tensor(zone[:2]), torch.tensor(zone[2:])
    boxes = detections.boxes[list(indices)]
    boxes = torch.cat([boxes[:, :2].clamp(low, high), boxes[:, 2:].clamp(low, high)], 1)
    inside = torch.nonzero(_area(boxes) > 0).flatten().tolist()
    return [indices[i] for i in inside], boxes[inside]


def _area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...]."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _part(masks: Masks, i: int, zone: tuple[int, int, int, int]) -> Tensor:
    """The part of a mask's crop inside a rectangle: a view of it."""
    (x, y), crop = masks.corners[i], masks.crops[i]
    return crop[max(0, zone[1] - y) : max(0, zone[3] - y), max(0, zone[0] - x) : max(0, zone[2] - x)]


def _intersection(masks: Masks, i: int, j: int, zone: tuple[int, int, int, int]) -> float:
    """Pixels in `zone` that two masks have in common."""
    x1, y1, x2, y2 = zone
    for k in (i, j):
        (x, y), (height, width) = masks.corners[k], masks.crops[k].shape
        x1, y1, x2, y2 = max(x1, x), max(y1, y), min(x2, x + width), min(y2, y + height)
    if x1 >= x2 or y1 >= y2:
        return 0.0
    return float((_part(masks, i, (x1, y1, x2, y2)) & _part(masks, j, (x1, y1, x2, y2))).sum())


def _join(detections: Prediction, group: list[int], cut: Sequence[bool]) -> Prediction:
    """One detection from those of one object: a Prediction with one instance."""
    assert detections.boxes is not None
    assert detections.scores is not None
    if len(group) == 1:
        return detections.take(group)
    boxes, scores = detections.boxes, detections.scores
    ranked = sorted(group, key=lambda i: (cut[i], -float(scores[i])))  # whole ones first, then by score
    best, kept = ranked[0], ranked[:1]
    for i in ranked[1:]:
        low = torch.maximum(boxes[i, :2], boxes[best, :2])
        high = torch.minimum(boxes[i, 2:], boxes[best, 2:])
        covered = float((high - low).clamp(min=0).prod() / _area(boxes[i]).clamp(min=1e-6))
        if cut[i] and (cut[best] or covered < COVERED_SHARE):
            kept.append(i)
    result = detections.take([best])
    if len(kept) == 1:
        return result
    result.boxes = torch.cat([boxes[kept, :2].amin(0), boxes[kept, 2:].amax(0)])[None]
    result.scores = scores[kept].amax(0, keepdim=True)
    if detections.keypoints is not None:
        keypoints = detections.keypoints[kept]  # [M, K, 3]
        result.keypoints = keypoints[keypoints[..., 2].argmax(0), torch.arange(keypoints.shape[1])][None]
    if detections.masks is not None:
        result.masks = _union(detections.masks.take(kept))
    return result


def _union(masks: Masks) -> Masks:
    """The union of several masks, as one."""
    parts = [(x, y, crop) for (x, y), crop in zip(masks.corners, masks.crops, strict=True) if crop.numel()]
    if not parts:
        return masks.take([0])
    left, top = min(x for x, _, _ in parts), min(y for _, y, _ in parts)
    right, bottom = max(x + crop.shape[1] for x, _, crop in parts), max(y + crop.shape[0] for _, y, crop in parts)
    union = torch.zeros(bottom - top, right - left, dtype=torch.bool)
    for x, y, crop in parts:
        union[y - top : y - top + crop.shape[0], x - left : x - left + crop.shape[1]] |= crop
    return Masks(masks.size, [(left, top)], [union])


def _sorted(merged: Sequence[Prediction], detections: Prediction) -> Prediction:
    """Predictions of one instance each as one Prediction with descending scores; `detections` if there are none."""
    if not merged:
        return detections
    ordered = sorted(merged, key=lambda single: -float(single.scores))  # type: ignore[arg-type]

    def joined(name: str) -> Tensor | None:
        return None if getattr(detections, name) is None else torch.cat([getattr(single, name) for single in ordered])

    masks = detections.masks
    if masks is not None:
        parts = [single.masks for single in ordered if single.masks is not None]
        masks = Masks(masks.size, [part.corners[0] for part in parts], [part.crops[0] for part in parts])
    return replace(
        detections,
        boxes=joined("boxes"),
        labels=joined("labels"),
        scores=joined("scores"),
        keypoints=joined("keypoints"),
        masks=masks,
    )
