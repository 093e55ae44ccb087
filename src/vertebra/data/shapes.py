"""The built-in data set: drawn pictures, the same for everyone, with the truth for every task.

Each picture has objects of six kinds on a textured ground. An object's four keypoints are the points of its
outline's circumscribed circle ahead, to the right, behind and to the left; a dark hand from its centre points ahead.
"""

from __future__ import annotations

import colorsys
import functools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vertebra.data.catalogue import Catalogue, Sample
from vertebra.errors import in_range
from vertebra.structures import Points, Target

CLASSES = ("circle", "cross", "hexagon", "square", "star", "triangle")
POINTS = Points(
    ("ahead", "right", "behind", "left"), ((0, 1), (1, 2), (2, 3), (3, 0)), (0, 3, 2, 1), (0.05, 0.05, 0.05, 0.05)
)
COUNTS = {"train": 960, "val": 240}
SIZE = 64
MANY = (1, 6)
"""Least and largest number of objects, where there are several in a picture."""


@dataclass(frozen=True)
class Scene:
    """One picture [H, W, 3] uint8 and its truth."""

    picture: np.ndarray
    target: Target


def outline(kind: str) -> np.ndarray:
    """The polygon of a kind in a circle of radius 1, pointing up: [N, 2] x, y with y downwards."""

    def ring(count: int, radii: tuple[float, ...], turn: float = 0.0) -> np.ndarray:
        angles = turn + 2 * math.pi * np.arange(count) / count
        radius = np.resize(radii, count)
        return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], 1)

    if kind == "circle":
        return ring(48, (1.0,))
    if kind == "star":
        return ring(10, (1.0, 0.42))
    if kind == "cross":
        arm = 0.36
        side = math.sqrt(1 - arm**2)
        quarter = [(arm, -side), (arm, -arm), (side, -arm)]
        turns = [((1, 0), (0, 1)), ((0, -1), (1, 0)), ((-1, 0), (0, -1)), ((0, 1), (-1, 0))]
        return np.array([(a * x + b * y, c * x + d * y) for ((a, b), (c, d)) in turns for x, y in quarter])
    count = {"triangle": 3, "square": 4, "hexagon": 6}[kind]
    return ring(count, (1.0,), math.pi / 4 if kind == "square" else 0.0)


def draw(seed: int, index: int, size: int = SIZE, objects: tuple[int, int] = (1, 1)) -> Scene:
    """Picture number `index` of the set `seed`.

    Args:
        size: side in pixels.
        objects: least and largest number of objects. The picture's label is the kind of the largest one.
    """
    in_range("seed", seed, 0)
    random = np.random.Generator(np.random.PCG64([seed, index]))
    sharp = 4  # drawn larger and scaled down, for smooth edges
    ground = random.uniform(70, 185) + random.uniform(-25, 25, 3)
    ramp = np.linspace(-1, 1, size * sharp)
    slope = random.uniform(-30, 30, 2)
    canvas = np.empty((size * sharp, size * sharp, 3), np.uint8)
    for top in range(0, len(ramp), 8):  # in strips, which fit the cache
        slant = slope[0] * ramp[top : top + 8, None] + slope[1] * ramp[None]
        canvas[top : top + 8] = (ground + slant[..., None]).clip(0, 255)
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    count = int(random.integers(objects[0], objects[1] + 1))
    labels, points, owner = [], [], np.zeros((size, size), np.int64)
    largest = 0.45 if count == 1 else 0.27
    radii = (
        np.sort(random.uniform(0.55 * largest, largest, count))[::-1] * size
    )  # the largest first, so it lies deepest
    for number, radius in enumerate(radii, 1):
        kind = int(random.integers(len(CLASSES)))
        centre = random.uniform(radius, size - radius, 2)
        turn = random.uniform(0, 2 * math.pi)
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        polygon = radius * outline(CLASSES[kind]) @ rotation + centre
        # Each kind has a hue that it tends to, near enough to its neighbours' that the outline matters too.
        hue = (kind / len(CLASSES) + random.normal(0, 0.04)) % 1
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue, random.uniform(0.55, 1), random.uniform(0.6, 1)))
        pen.polygon([tuple(p) for p in polygon * sharp], fill=tuple(int(c) for c in colour))
        axes = radius * np.array([(0, -1), (1, 0), (0, 1), (-1, 0)]) @ rotation + centre  # [4, 2]
        hand = [tuple(centre * sharp), tuple((0.8 * axes[0] + 0.2 * centre) * sharp)]
        pen.line(hand, fill=tuple(int(c) for c in colour * 0.35), width=max(2, int(radius * sharp * 0.09)))
        mask = Image.new("L", image.size)  # drawn and scaled down as the picture is, so that it lies on the object
        ImageDraw.Draw(mask).polygon([tuple(p) for p in polygon * sharp], fill=255)
        owner[np.asarray(mask.resize((size, size), Image.Resampling.BOX)) >= 128] = number
        labels.append(kind)
        points.append(axes)
    noise = random.normal(0, 8, (size, size, 3))
    picture = (np.asarray(image.resize((size, size), Image.Resampling.BOX)) + noise).clip(0, 255).astype(np.uint8)
    return Scene(picture, _truth(labels, points, owner))


def _truth(labels: list[int], points: list[np.ndarray], owner: np.ndarray) -> Target:
    """What remains visible: objects hidden altogether are not there."""
    size = owner.shape[0]
    visible = [i for i in range(len(labels)) if (owner == i + 1).any()]
    masks = np.stack([owner == i + 1 for i in visible])
    boxes, keypoints = [], []
    for i, mask in zip(visible, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        cells = np.floor(points[i]).astype(int).clip(0, size - 1)
        inside = ((points[i] >= 0) & (points[i] < size)).all(1)
        # A keypoint lies on its object's rim or beside it; it is hidden where a later object covers it.
        seen = np.where(owner[cells[:, 1], cells[:, 0]] <= i + 1, 2, 1) * inside
        keypoints.append(np.concatenate([points[i], seen[:, None]], 1))
    semantic = np.zeros_like(owner)  # 0 is the ground, then the classes from 1
    for i in visible:
        semantic[owner == i + 1] = labels[i] + 1
    return Target(
        label=torch.tensor(labels[0]),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.tensor([labels[i] for i in visible]),
        masks=torch.from_numpy(masks),
        keypoints=torch.tensor(np.stack(keypoints), dtype=torch.float32),
        semantic=torch.from_numpy(semantic),
    )


@functools.lru_cache(maxsize=4)
def scenes(split: str, seed: int = 0, size: int = SIZE, objects: tuple[int, int] = (1, 1)) -> list[Scene]:
    """A whole split, drawn."""
    return [draw(seed, _start(split) + i, size, objects) for i in range(COUNTS[split])]


def _start(split: str) -> int:
    """The number of a split's first picture in the whole set."""
    return sum(count for name, count in COUNTS.items() if list(COUNTS).index(name) < list(COUNTS).index(split))


def catalogue(seed: int = 0) -> Catalogue:
    """The set for classification, with one object a picture."""
    splits = {split: [Sample(_pixels(scene), scene.target) for scene in scenes(split, seed)] for split in COUNTS}
    return Catalogue("shapes", "shapes", CLASSES, splits)


def objects(want: str = "masks", seed: int = 0) -> Catalogue:
    """The set with 1 to 6 objects a picture of twice the side, as `write_coco` writes it: boxes, masks, keypoints.

    Args:
        want: `masks` or `keypoints` for these beside the boxes, `boxes` for neither, `all` for both.
    """
    splits: dict[str, list[Sample]] = {}
    for split, count in COUNTS.items():
        splits[split] = []
        for i in range(count):
            # Drawn anew instead of by `scenes`, which would keep some 300 MB.
            scene = draw(seed, _start(split) + i, 2 * SIZE, MANY)
            masks = scene.target.masks
            assert isinstance(masks, Tensor)
            target = replace(
                scene.target,
                label=None,
                masks=None,
                semantic=None,
                keypoints=scene.target.keypoints if want in ("keypoints", "all") else None,
                areas=masks.sum((1, 2)).float(),
                crowd=torch.zeros(len(masks), dtype=torch.bool),
                size=(2 * SIZE, 2 * SIZE),
                id=i + 1,
            )
            splits[split].append(Sample(_pixels(scene), target, tuple(masks) if want in ("masks", "all") else ()))
    return Catalogue("shapes", "shapes", CLASSES, splits, has=frozenset({"boxes", "masks", "keypoints"}), points=POINTS)


def _pixels(scene: Scene) -> Tensor:
    """[3, H, W] uint8."""
    return torch.from_numpy(scene.picture).permute(2, 0, 1).contiguous()


def write_folder(folder: Path, seed: int = 0) -> None:
    """Writes the set as a picture folder: split/class/number.png."""
    for split in COUNTS:
        for i, scene in enumerate(scenes(split, seed)):
            path = folder / split / CLASSES[int(scene.target.label)] / f"{i:04}.png"  # type: ignore[arg-type]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.picture).save(path)


def write_coco(folder: Path, seed: int = 0, size: int = 2 * SIZE, objects: tuple[int, int] = MANY) -> None:
    """Writes the set as a COCO folder: images/split/number.png, annotations/instances_split.json with boxes,
    masks (uncompressed RLE) and keypoints, and semantic/split/number.png (0 ground, classes from 1)."""
    for split in COUNTS:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i, scene in enumerate(scenes(split, seed, size, objects)):
            name = f"{i:04}.png"
            target = scene.target
            assert target.boxes is not None
            assert target.labels is not None
            assert isinstance(target.masks, Tensor)
            assert target.keypoints is not None
            assert target.semantic is not None
            for kind, array in (("images", scene.picture), ("semantic", target.semantic.numpy().astype(np.uint8))):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / kind / split / name)
            images.append({"id": i + 1, "file_name": name, "height": size, "width": size})
            for box, label, mask, points in zip(
                target.boxes.tolist(), target.labels.tolist(), target.masks.numpy(), target.keypoints, strict=True
            ):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": label + 1,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(mask.sum()),
                        "segmentation": {"size": [size, size], "counts": run_lengths(mask)},
                        "keypoints": [round(v, 2) for v in points.flatten().tolist()],
                        "num_keypoints": int((points[:, 2] > 0).sum()),
                        "iscrowd": 0,
                    }
                )
        categories = [
            {
                "id": i + 1,
                "name": name,
                "keypoints": list(POINTS.names),
                "skeleton": [[a + 1, b + 1] for a, b in POINTS.skeleton],
                "sigmas": list(POINTS.sigmas),
            }
            for i, name in enumerate(CLASSES)
        ]
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE of a mask [H, W]: runs of 0 and 1 in turn, column by column, 0 first."""
    flat = mask.astype(np.uint8).flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, len(flat)]).tolist()
    return [0, *runs] if flat[0] else runs
