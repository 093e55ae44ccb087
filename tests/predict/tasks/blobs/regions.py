"""Detects connected regions of one brightness exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vertebra.structures import KeypointSchema, Masks, Prediction
from vertebra.tasks.base import Task


@dataclass(frozen=True)
class Config:
    kind: str = "masks"
    keypoints: KeypointSchema = KeypointSchema(())


class Regions(Task):
    """The red value r of a region gives its class, r % 2, and its score, r / 256."""

    kind = "masks"
    monitor = "none"

    def __init__(self, config, classes, preprocess):
        super().__init__(config, classes, preprocess)
        self.kind = config.kind
        self.anchor = nn.Parameter(torch.zeros(1))
        self.batches = []

    @property
    def keypoints(self):
        return self.config.keypoints if self.kind == "keypoints" else None

    def forward(self, images, sizes=None):
        return (images + self.anchor,)

    def decode(self, raw, frames):
        (images,) = raw
        self.batches.append(tuple(images.shape))
        predictions = []
        for image, frame in zip(images, frames, strict=True):
            height, width = frame.resized
            red = (image[0, :height, :width] * 255).round().int()
            predictions.append(regions(red, frame.original, self.kind))
        return predictions


def regions(red, size=None, kind="masks"):
    """The regions of an image [H, W] int, in pixels of (height, width) `size`."""
    size = tuple(red.shape) if size is None else size
    number = torch.arange(1, red.numel() + 1).reshape(red.shape) * (red > 0)
    while True:
        before = number.clone()
        for here, there in (((slice(1, None),), (slice(None, -1),)), ((..., slice(1, None)), (..., slice(None, -1)))):
            for a, b in ((here, there), (there, here)):
                joined = (red[a] == red[b]) & (red[a] > 0)
                number[a] = torch.where(joined, torch.maximum(number[a], number[b]), number[a])
        if torch.equal(before, number):
            break
    rows = []
    for value in number.unique().tolist():
        if value == 0:
            continue
        mask = number == value
        brightness = int(red[mask][0])
        edges = mask.any(0).nonzero().flatten(), mask.any(1).nonzero().flatten()
        if size != tuple(red.shape):
            mask = nn.functional.interpolate(mask[None, None].float(), size)[0, 0] > 0
        (xs, ys), (sx, sy) = edges, (size[1] / red.shape[1], size[0] / red.shape[0])
        x1, y1, x2, y2 = int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1
        ends = [(x1, 0.1 if x1 == 0 else 0.9), (x2, 0.1 if x2 == red.shape[1] else 0.9)]  # unsure where it is cut
        keypoints = [[x * sx, (y1 + y2) / 2 * sy, score] for x, score in ends]
        rows.append((brightness, [x1 * sx, y1 * sy, x2 * sx, y2 * sy], mask, keypoints))
    rows.sort(key=lambda row: -row[0])
    masks = Masks(size)
    for row in rows:
        masks.append(0, 0, row[2])
    return Prediction(
        boxes=torch.tensor([row[1] for row in rows], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([row[0] % 2 for row in rows], dtype=torch.int64),
        scores=torch.tensor([row[0] / 256 for row in rows]),
        masks=masks if kind == "masks" else None,
        keypoints=torch.tensor([row[3] for row in rows]).reshape(-1, 2, 3) if kind == "keypoints" else None,
        size=size,
    )


MODEL = Regions
PAPER = "tests"
RECIPE: dict = {}
SOURCES: dict = {}
