"""The built-in dataset: drawn images, the same for everyone, with ground truth for every task.

Each image has objects of six classes on a shaded background. An object's four keypoints lie on the circumscribed circle
of its outline: ahead, to the right, behind and to the left. A dark line from its centre points ahead; where others
cover it, nothing tells the keypoints apart, and they are not labelled. Nor are those of objects that others cover by
half, whose places could only be guessed.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.formats import ReadOptions, coco
from vertebra.errors import in_range
from vertebra.ops import rle
from vertebra.structures import KeypointSchema, Masks, Target

PRIORITY = 0
GENERATED = True
OBJECT_FIELDS = frozenset({"boxes", "labels", "masks", "keypoints", "crowd", "areas"})
OF_IMAGES = frozenset({"label", "tags", "text"})
"""Fields that an image has only where they are asked for."""
FIELDS = OBJECT_FIELDS | OF_IMAGES | {"semantic"}
CLASSES = ("circle", "cross", "hexagon", "square", "star", "triangle")
KEYPOINTS = KeypointSchema(
    ("ahead", "right", "behind", "left"), ((0, 1), (1, 2), (2, 3), (3, 0)), (0, 3, 2, 1), (0.05, 0.05, 0.05, 0.05)
)
COUNTS = {"train": 960, "val": 240}
"""Images of each split."""
SIZE = 64
"""Side in pixels of the images with one object; those with several are twice as large."""
ONE = (1, 1)
SEVERAL = (1, 6)
"""Minimum and maximum number of objects per image, where there are several."""
CAPTIONED = (2, 2)
"""Likewise of images with a caption, which says how one lies to the other."""
COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
"""Names of equally distant hues, from 0."""
LINE = 0.8
"""Length of the dark line, as a share of the radius."""
LEAST_LINE = 0.2
"""Share of the line that is visible, below which keypoints are not labelled."""
LEAST_VISIBLE = 0.5
"""Likewise the share of the object."""
SCALE = 4
"""Images are drawn so many times larger and scaled down, for smooth edges."""


def recognise(path: Path) -> bool:
    """Never: the data has no path."""
    return False


def read(path: Path, options: ReadOptions) -> Catalogue:
    """The set with one object per image where the label alone is needed, else the set with several; where label maps
    alone are needed, the background is a class too. Tags are the classes of the objects. Captions alone are of two
    objects."""
    if options.fields == frozenset({"label"}):
        return catalogue(options.seed)
    if options.fields == frozenset({"text"}):
        drawn = catalogue(options.seed, SIZE, CAPTIONED, options.fields)
        return replace(drawn, classes=("caption",), has=options.fields, keypoints=None)
    drawn = catalogue(options.seed, 2 * SIZE, SEVERAL, options.fields)
    if options.fields == frozenset({"semantic"}):
        return replace(drawn, classes=("background", *CLASSES), has=options.fields, keypoints=None)
    if options.fields == frozenset({"tags"}):
        return replace(drawn, has=options.fields, keypoints=None)
    # The classes of objects are not those of the label maps, which have the background as well.
    return replace(drawn, has=drawn.has - {"semantic"}) if options.fields is None else drawn


def catalogue(
    seed: int = 0,
    size: int = SIZE,
    objects: tuple[int, int] = ONE,
    fields: frozenset[str] | None = frozenset({"label"}),
) -> Catalogue:
    """The set, drawn.

    Args:
        seed: each seed gives other images.
        size: side of the images in pixels.
        objects: minimum and maximum number of objects per image.
        fields: fields of Target that the samples carry; None for all but OF_IMAGES.
    """
    chosen = FIELDS - OF_IMAGES if fields is None else fields
    if chosen & OBJECT_FIELDS:
        chosen |= {"boxes", "labels", "crowd", "areas"}
    splits: dict[str, list[Sample]] = {}
    for split in COUNTS:
        drawn = enumerate(draw_split(split, seed, size, objects), 1)
        splits[split] = [_sample(image, replace(target, id=i), chosen) for i, (image, target) in drawn]
    has = {"boxes", "masks", "keypoints", "semantic"} if objects != ONE else set()
    return Catalogue(
        "shapes",
        "shapes",
        CLASSES,
        splits,
        has=frozenset(has | (chosen & OF_IMAGES)),
        keypoints=KEYPOINTS if has else None,
    )


def _sample(image: Tensor, target: Target, fields: frozenset[str]) -> Sample:
    """The sample with those fields of its target alone, masks as RLE."""
    assert target.masks is not None
    segments = tuple(rle.encode(target.masks)) if "masks" in fields else ()
    removed: dict[str, Any] = dict.fromkeys(FIELDS - fields | {"masks"})
    return Sample(image, replace(target, **removed), segments)


def draw_split(
    split: str, seed: int = 0, size: int = SIZE, objects: tuple[int, int] = ONE
) -> Iterator[tuple[Tensor, Target]]:
    """Draws the images of a split; arguments as for `draw`."""
    names = list(COUNTS)
    start = sum(COUNTS[name] for name in names[: names.index(split)])
    return (draw(seed, start + i, size, objects) for i in range(COUNTS[split]))


def draw(seed: int, index: int, size: int = SIZE, objects: tuple[int, int] = ONE) -> tuple[Tensor, Target]:
    """Image number `index` of the set `seed`.

    Args:
        seed: 0 or more.
        index: over all splits, train first.
        size: side in pixels.
        objects: minimum and maximum number of objects.

    Returns:
        The image [3, size, size] uint8, and its target with every field; the text says how the first of two objects
        lies to the second, such as `a red circle left of a blue star`. Objects that are covered altogether are
        not in it; the label is the class of the largest object; semantic is 0 for the background, then the classes
        from 1.
    """
    in_range("seed", seed, 0)
    random = np.random.Generator(np.random.PCG64([seed, index]))
    canvas = _background(random, size * SCALE)
    pen = ImageDraw.Draw(canvas)
    count = int(random.integers(objects[0], objects[1] + 1))
    largest = 0.45 if count == 1 else 0.27
    radii = np.sort(random.uniform(0.55 * largest, largest, count))[::-1] * size  # the largest first, at the bottom
    labels, keypoints, names, areas, owner = [], [], [], [], np.zeros((size, size), np.int64)
    for number, radius in enumerate(radii, 1):
        label = int(random.integers(len(CLASSES)))
        centre = random.uniform(radius, size - radius, 2)
        angle = random.uniform(0, 2 * math.pi)
        rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        polygon = radius * outline(CLASSES[label]) @ rotation + centre
        # Each class has a typical hue, near enough to its neighbours' that the outline matters too.
        hue = (label / len(CLASSES) + random.normal(0, 0.04)) % 1
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue, random.uniform(0.55, 1), random.uniform(0.6, 1)))
        pen.polygon([tuple(p) for p in polygon * SCALE], fill=tuple(int(c) for c in colour))
        axes = radius * np.array([(0, -1), (1, 0), (0, 1), (-1, 0)]) @ rotation + centre  # [4, 2]
        line = [tuple(centre * SCALE), tuple((centre + LINE * (axes[0] - centre)) * SCALE)]
        pen.line(line, fill=tuple(int(c) for c in colour * 0.35), width=max(2, int(radius * SCALE * 0.09)))
        x, y, mask = _mask(polygon, size)
        owner[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = number
        areas.append(int(mask.sum()))
        labels.append(label)
        names.append(f"a {COLOURS[round(hue * len(COLOURS)) % len(COLOURS)]} {CLASSES[label]}")
        keypoints.append(axes - 0.5)  # in indices of pixels, as COCO's are: the centre of the first pixel is 0
    noise = random.normal(0, 8, (size, size, 3))
    pixels = (np.asarray(canvas.resize((size, size), Image.Resampling.BOX)) + noise).clip(0, 255).astype(np.uint8)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return image, _target(labels, keypoints, areas, names, owner)


def outline(name: str) -> np.ndarray:
    """The polygon of a class in a circle of radius 1, pointing up: [N, 2] x, y with y downwards."""

    def ring(count: int, radii: tuple[float, ...], turn: float = 0.0) -> np.ndarray:
        angles = turn + 2 * math.pi * np.arange(count) / count
        radius = np.resize(radii, count)
        return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], 1)

    if name == "circle":
        return ring(48, (1.0,))
    if name == "star":
        return ring(10, (1.0, 0.42))
    if name == "cross":
        arm = 0.36
        side = math.sqrt(1 - arm**2)
        quarter = [(arm, -side), (arm, -arm), (side, -arm)]
        turns = [((1, 0), (0, 1)), ((0, -1), (1, 0)), ((-1, 0), (0, -1)), ((0, 1), (-1, 0))]
        return np.array([(a * x + b * y, c * x + d * y) for ((a, b), (c, d)) in turns for x, y in quarter])
    count = {"triangle": 3, "square": 4, "hexagon": 6}[name]
    return ring(count, (1.0,), math.pi / 4 if name == "square" else 0.0)


def _background(random: np.random.Generator, side: int) -> Image.Image:
    """A colour with a slope of brightness."""
    ground = random.uniform(70, 185) + random.uniform(-25, 25, 3)
    ramp = np.linspace(-1, 1, side)
    slope = random.uniform(-30, 30, 2)
    planes = np.empty((3, side, side), np.uint8)
    for top in range(0, side, 16):  # in strips, which fit the cache
        slant = slope[0] * ramp[top : top + 16, None] + slope[1] * ramp[None]
        for plane, level in zip(planes, ground, strict=True):
            values = level + slant
            np.maximum(values, 0, out=values)
            plane[top : top + 16] = np.minimum(values, 255, out=values)
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def _mask(polygon: np.ndarray, size: int) -> tuple[int, int, np.ndarray]:
    """The pixels that a polygon [N, 2] covers by half: x, y of a rectangle, and [h, w] bool.

    Drawn and scaled down as the image is, so that it lies on the object.
    """
    x1, y1 = np.floor(polygon.min(0)).astype(int).clip(0, size).tolist()
    x2, y2 = (np.floor(polygon.max(0)).astype(int) + 1).clip(0, size).tolist()
    canvas = Image.new("L", (size * SCALE, size * SCALE))
    ImageDraw.Draw(canvas).polygon([tuple(p) for p in polygon * SCALE], fill=255)
    inner = (x1 * SCALE, y1 * SCALE, x2 * SCALE, y2 * SCALE)
    return x1, y1, np.asarray(canvas.crop(inner).resize((x2 - x1, y2 - y1), Image.Resampling.BOX)) >= 128


def _caption(names: list[str], boxes: Tensor) -> str:
    """How the first object lies to the second, by the larger distance of their centres; the name of a single one."""
    if len(names) == 1:
        return names[0]
    x, y = ((boxes[1, :2] + boxes[1, 2:]) - (boxes[0, :2] + boxes[0, 2:])).tolist()
    beside, above = ("left of" if x > 0 else "right of"), ("above" if y > 0 else "below")
    return f"{names[0]} {beside if abs(x) >= abs(y) else above} {names[1]}"


def _target(
    labels: list[int], keypoints: list[np.ndarray], areas: list[int], names: list[str], owner: np.ndarray
) -> Target:
    """The visible objects.

    Args:
        areas: pixels of each, the covered ones included.
        owner: [H, W] int64, the number of the object, from 1, that each pixel shows.
    """
    size = owner.shape[0]
    semantic = np.array([0, *(label + 1 for label in labels)])[owner]
    masks, visible, points = Masks((size, size)), [], []
    for i in range(len(labels)):
        mask = owner == i + 1
        if not mask.any():
            continue
        masks.append(0, 0, torch.from_numpy(mask))
        visible.append(i)
        cells = np.rint(keypoints[i]).astype(int).clip(0, size - 1)
        inside = ((keypoints[i] >= -0.5) & (keypoints[i] < size - 0.5)).all(1)
        # A keypoint lies on its object's rim or beside it; it is occluded where a later object covers it.
        visibility = np.where(owner[cells[:, 1], cells[:, 0]] <= i + 1, 2, 1) * inside
        centre = keypoints[i].mean(0)
        x, y = np.rint(centre + np.linspace(0, LINE, 20)[:, None] * (keypoints[i][0] - centre)).astype(int).T
        if mask[y, x].mean() < LEAST_LINE or mask.sum() < LEAST_VISIBLE * areas[i]:
            visibility[:] = 0
        points.append(np.concatenate([keypoints[i], visibility[:, None]], 1))
    return Target(
        label=torch.tensor(labels[0]),
        tags=torch.tensor(sorted({labels[i] for i in visible})),
        boxes=masks.boxes(),
        labels=torch.tensor([labels[i] for i in visible]),
        masks=masks,
        keypoints=torch.tensor(np.stack(points), dtype=torch.float32),
        crowd=torch.zeros(len(visible), dtype=torch.bool),
        areas=masks.areas(),
        semantic=torch.from_numpy(semantic.astype(np.uint8)),
        text=_caption([names[i] for i in visible], masks.boxes()),
        size=(size, size),
    )


def write_folder(folder: Path, seed: int = 0) -> None:
    """Writes the set with one object per image as split/class/number.png."""
    for split in COUNTS:
        for i, (image, target) in enumerate(draw_split(split, seed)):
            assert target.label is not None
            path = folder / split / CLASSES[int(target.label)] / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def write_coco(folder: Path, seed: int = 0, size: int = 2 * SIZE, objects: tuple[int, int] = SEVERAL) -> None:
    """Writes the set as a COCO folder, and the label maps as semantic/split/number.png (0 background, classes from 1)
    with the names of the images."""
    drawn = catalogue(seed, size, objects, None)
    coco.write(drawn, folder)
    for split, samples in drawn.splits.items():
        (folder / "semantic" / split).mkdir(parents=True, exist_ok=True)
        names = [path.name for path in sorted((folder / "images" / split).iterdir())]
        for name, sample in zip(names, samples, strict=True):
            assert sample.target.semantic is not None
            Image.fromarray(sample.target.semantic.numpy()).save(folder / "semantic" / split / name)
