"""Large pictures in overlapping tiles: where to cut, and how to make one of what several tiles saw.

Two tiles that overlap have both seen what lies in the overlap. So two of their objects are one if, within it, they are
of one class and agree; objects that merely touch do not. Nothing is ever as large as the picture but the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import box_area

from vertebra.structures import Masks, Prediction

SAME = 0.5
"""Intersection over union, within the overlap, from which two objects are one."""
INSIDE = 0.7
"""Share of a cut object's part in the overlap that must lie in another object for it to be a piece of that."""
COVERED = 0.8
"""Share of a cut object's box that must lie in the box of a whole one for it to add nothing."""
NEAR = 0.02
"""Objects whose box comes so near to a tile's border, as a share of its side, are taken to be cut by it."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of a picture in pixels, end exclusive, and its place in the grid."""

    row: int
    column: int
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2."""


def grid(size: tuple[int, int], side: int, overlap: float = 0.2) -> list[Tile]:
    """Tiles that cover a picture of (height, width) `size`, evenly spread, row by row.

    Args:
        side: of a tile in pixels; a picture that is narrower or lower has tiles as wide or high as itself.
        overlap: the least share of a side that neighbours have in common, above 0 and up to 0.5.
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


def merge(found: Sequence[Prediction], tiles: Sequence[Tile], size: tuple[int, int]) -> Prediction:
    """One Prediction for a picture of (height, width) `size` from those of its tiles, each in its tile's pixels.

    Of what several tiles saw, the most confident whole view stands; views cut by a border are joined to it, or to each
    other where no tile saw the whole: masks united, box around them, the best score, of each keypoint the surest.
    """
    everything = _gathered(found, tiles, size)
    owners = [number for number, one in enumerate(found) for _ in range(_count(one))]
    boxes, labels, scores = everything.boxes, everything.labels, everything.scores
    assert boxes is not None
    assert labels is not None
    assert scores is not None
    cut = _cut(boxes, [tiles[owner] for owner in owners], size)
    members: dict[int, list[int]] = {i: [] for i in range(len(tiles))}
    for i, owner in enumerate(owners):
        members[owner].append(i)
    leader = list(range(len(owners)))  # of each object, another that is the same one; itself at the end of the chain

    def first(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    for one, other, zone in _overlaps(tiles):
        for i, j in _same(everything, members[one], members[other], cut, zone):
            leader[first(j)] = first(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(owners)):
        groups.setdefault(first(i), []).append(i)
    merged = [_joined(everything, group, cut) for group in groups.values()]
    return _sorted(merged, everything)


def _count(prediction: Prediction) -> int:
    assert prediction.boxes is not None, "tiles are for tasks that find objects"
    return len(prediction.boxes)


def _gathered(found: Sequence[Prediction], tiles: Sequence[Tile], size: tuple[int, int]) -> Prediction:
    """All objects of all tiles in pixels of the picture."""

    def all_of(name: str, shift: int = 0) -> Tensor | None:
        parts = [getattr(one, name) for one in found]
        if any(part is None for part in parts):
            return None
        corners = [torch.tensor([*tile.box[:2], *tile.box[:2]]) for tile in tiles]
        moved = [part.clone() for part in parts]
        for part, corner in zip(moved, corners, strict=True):
            part[..., :shift] += corner[:shift]
        return torch.cat(moved)

    masks: Masks | None = Masks(size)
    for one, tile in zip(found, tiles, strict=True):
        if one.masks is None:
            masks = None
            break
        assert masks is not None
        masks.corners += [(x + tile.box[0], y + tile.box[1]) for x, y in one.masks.corners]
        masks.crops += one.masks.crops
    return Prediction(
        boxes=all_of("boxes", 4),
        labels=all_of("labels"),
        scores=all_of("scores"),
        keypoints=all_of("keypoints", 2),
        masks=masks,
        size=size,
    )


def _cut(boxes: Tensor, tiles: Sequence[Tile], size: tuple[int, int]) -> list[bool]:
    """Whether each object reaches a border of its tile that is not the picture's."""
    places = torch.tensor([tile.box for tile in tiles]).reshape(-1, 4)
    slack = (NEAR * (places[:, 2:] - places[:, :2])).clamp(min=1)  # [N, 2]
    limit = torch.tensor([size[1], size[0]])
    starts = (places[:, :2] > 0) & (boxes[:, :2] <= places[:, :2] + slack)
    ends = (places[:, 2:] < limit) & (boxes[:, 2:] >= places[:, 2:] - slack)
    return (starts | ends).any(1).tolist()


def _overlaps(tiles: Sequence[Tile]) -> Iterator[tuple[int, int, tuple[int, int, int, int]]]:
    """Each pair of tiles that have pixels in common, and the rectangle of those."""
    numbers = {(tile.row, tile.column): i for i, tile in enumerate(tiles)}
    steps = [(0, 1), (0, 2)] + [(down, right) for down in (1, 2) for right in range(-2, 3)]
    for i, tile in enumerate(tiles):
        for down, right in steps:  # no tile reaches further, as neighbours share half a side at most
            j = numbers.get((tile.row + down, tile.column + right))
            if j is None:
                continue
            a, b = tile.box, tiles[j].box
            zone = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
            if zone[0] < zone[2] and zone[1] < zone[3]:
                yield i, j, zone


def _same(
    everything: Prediction, one: list[int], other: list[int], cut: Sequence[bool], zone: tuple[int, int, int, int]
) -> Iterator[tuple[int, int]]:
    """Pairs of objects, of one tile and of another, that are the same by what they look like in `zone`."""
    assert everything.boxes is not None
    assert everything.labels is not None
    low, high = torch.tensor(zone[:2]), torch.tensor(zone[2:])
    clipped = {}
    for side, members in enumerate((one, other)):
        boxes = everything.boxes[members]
        boxes = torch.cat([boxes[:, :2].clamp(low, high), boxes[:, 2:].clamp(low, high)], 1)
        inside = torch.nonzero(box_area(boxes) > 0).flatten().tolist()
        clipped[side] = [members[i] for i in inside], boxes[inside]
    (first, boxes), (second, others) = clipped[0], clipped[1]
    if not first or not second:
        return
    corners = torch.maximum(boxes[:, None, :2], others[:, :2]), torch.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (corners[1] - corners[0]).clamp(min=0).prod(2)  # [A, B]
    common *= everything.labels[first][:, None] == everything.labels[second]
    areas, other_areas = box_area(boxes), box_area(others)
    if everything.masks is not None:
        areas = torch.tensor([float(_part(everything.masks, i, zone).sum()) for i in first])
        other_areas = torch.tensor([float(_part(everything.masks, j, zone).sum()) for j in second])
        for a, b in torch.nonzero(common).tolist():
            common[a, b] = _shared(everything.masks, first[a], second[b], zone)
    union = areas[:, None] + other_areas - common
    agreement = common / union.clamp(min=1e-6)
    free, free_too = set(range(len(first))), set(range(len(second)))
    candidates = torch.nonzero(agreement >= SAME).tolist()
    for a, b in sorted(candidates, key=lambda pair: -float(agreement[pair[0], pair[1]])):
        if a in free and b in free_too:
            free.discard(a)
            free_too.discard(b)
            yield first[a], second[b]
    # What is left and cut may be a piece of something of which the other tile saw more.
    for table, pieces, places, wholes, size in (
        (common, free, first, second, areas),
        (common.T, free_too, second, first, other_areas),
    ):
        for a in pieces:
            share, b = (table[a] / size[a].clamp(min=1e-6)).max(0)
            if cut[places[a]] and share >= INSIDE:
                yield places[a], wholes[int(b)]


def _part(masks: Masks, i: int, zone: tuple[int, int, int, int]) -> Tensor:
    """What of a mask's crop lies in a rectangle: a view of it."""
    (x, y), crop = masks.corners[i], masks.crops[i]
    return crop[max(0, zone[1] - y) : max(0, zone[3] - y), max(0, zone[0] - x) : max(0, zone[2] - x)]


def _shared(masks: Masks, i: int, j: int, zone: tuple[int, int, int, int]) -> float:
    """Pixels in `zone` that two masks have in common."""
    x1, y1, x2, y2 = zone
    for k in (i, j):
        (x, y), (height, width) = masks.corners[k], masks.crops[k].shape
        x1, y1, x2, y2 = max(x1, x), max(y1, y), min(x2, x + width), min(y2, y + height)
    if x1 >= x2 or y1 >= y2:
        return 0.0
    return float((_part(masks, i, (x1, y1, x2, y2)) & _part(masks, j, (x1, y1, x2, y2))).sum())


def _joined(everything: Prediction, group: list[int], cut: Sequence[bool]) -> Prediction:
    """One object of those that are the same: a Prediction with one instance."""
    assert everything.boxes is not None
    assert everything.scores is not None
    if len(group) == 1:
        return everything.take(group)
    surest = sorted(group, key=lambda i: (cut[i], -float(everything.scores[i])))  # type: ignore[index]
    best, kept = surest[0], surest[:1]
    for i in surest[1:]:
        low = torch.maximum(everything.boxes[i, :2], everything.boxes[best, :2])
        high = torch.minimum(everything.boxes[i, 2:], everything.boxes[best, 2:])
        covered = float((high - low).clamp(min=0).prod() / box_area(everything.boxes[i : i + 1])[0].clamp(min=1e-6))
        if cut[i] and (cut[best] or covered < COVERED):
            kept.append(i)
    result = everything.take([best])
    if len(kept) == 1:
        return result
    boxes = everything.boxes[kept]
    result.boxes = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])[None]
    result.scores = everything.scores[kept].amax(0, keepdim=True)
    if everything.keypoints is not None:
        points = everything.keypoints[kept]  # [M, K, 3]
        result.keypoints = points[points[..., 2].argmax(0), torch.arange(points.shape[1])][None]
    if everything.masks is not None:
        result.masks = _united(everything.masks.take(kept))
    return result


def _united(masks: Masks) -> Masks:
    """One mask of several."""
    parts = [(x, y, crop) for (x, y), crop in zip(masks.corners, masks.crops, strict=True) if crop.numel()]
    if not parts:
        return masks.take([0])
    left, top = min(x for x, _, _ in parts), min(y for _, y, _ in parts)
    right, bottom = max(x + crop.shape[1] for x, _, crop in parts), max(y + crop.shape[0] for _, y, crop in parts)
    whole = torch.zeros(bottom - top, right - left, dtype=torch.bool)
    for x, y, crop in parts:
        whole[y - top : y - top + crop.shape[0], x - left : x - left + crop.shape[1]] |= crop
    return Masks(masks.size, [(left, top)], [whole])


def _sorted(merged: Sequence[Prediction], everything: Prediction) -> Prediction:
    """Objects, one in each Prediction, as one Prediction with scores falling."""
    if not merged:
        return everything
    ordered = sorted(merged, key=lambda one: -float(one.scores))  # type: ignore[arg-type]

    def all_of(name: str) -> Tensor | None:
        return None if getattr(everything, name) is None else torch.cat([getattr(one, name) for one in ordered])

    masks = everything.masks
    if masks is not None:
        chosen = [one.masks for one in ordered if one.masks is not None]
        masks = Masks(masks.size, [m.corners[0] for m in chosen], [m.crops[0] for m in chosen])
    return replace(
        everything,
        boxes=all_of("boxes"),
        labels=all_of("labels"),
        scores=all_of("scores"),
        keypoints=all_of("keypoints"),
        masks=masks,
    )
