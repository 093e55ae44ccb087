"""Label maps and saliency maps drawn onto images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from vertebra.structures import IGNORED
from vertebra.viz import draw, fonts

OPACITY = 0.55
"""Of the colour of a class, in 0..1."""
CORRECT, WRONG = (235, 235, 235), (214, 39, 40)
"""Colours of pixels in an error map."""
LEGEND = 12
"""Classes that the legend of a label map names at most, those with most pixels."""

Colour = tuple[int, int, int]


def palette(num_classes: int) -> NDArray[np.uint8]:
    """Colours of the classes, and black for ignored pixels: [256, 3]."""
    colours = np.zeros((256, 3), np.uint8)
    colours[:num_classes] = [draw.colour(i) for i in range(num_classes)]
    return colours


def overlay(image: Tensor, labels: Tensor, num_classes: int) -> Image.Image:
    """The image [C, H, W] uint8 with the colours of the classes of its label map [H, W] uint8: RGB.

    Ignored pixels keep their own colours.
    """
    drawn = _drawn(image)
    map_ = Image.fromarray(labels.numpy()).resize(drawn.size, Image.Resampling.NEAREST)
    chosen = np.asarray(map_)
    pixels = np.asarray(drawn).copy()
    shown = chosen != IGNORED
    mixed = pixels[shown] * (1 - OPACITY) + palette(num_classes)[chosen[shown]] * OPACITY
    pixels[shown] = mixed.astype(np.uint8)
    return Image.fromarray(pixels)


def with_legend(drawn: Image.Image, entries: Sequence[tuple[str, Colour]], height: int = 0) -> Image.Image:
    """The image over the names of classes, each beside its colour, in as many lines as they need.

    Lines are `height` pixels high; 0 chooses by the size of the image.
    """
    if not entries:
        return drawn
    height = height or max(18, min(min(drawn.size) // 18, 40))
    size = round(height * 0.62)
    width = max(drawn.width, draw.MIN_WIDTH)
    places: list[tuple[int, int, str, Colour]] = []
    x, line = 6, 0
    for name, colour in entries:
        text = fonts.drawable(name if len(name) <= 24 else f"{name[:23]}…")
        needed = height + round(fonts.length(text, size)) + 12
        if x > 6 and x + needed > width:
            x, line = 6, line + 1
        places.append((x, line, text, colour))
        x += needed
    canvas = Image.new("RGB", (width, drawn.height + (line + 1) * height + 8), "white")
    canvas.paste(drawn, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for left, row, text, colour in places:
        top = drawn.height + 4 + row * height
        pen.rectangle((left, top + 3, left + height - 8, top + height - 4), fill=colour)
        fonts.write(pen, left + height - 2, top + height / 2, text, size=size, fill="black")
    return canvas


def heat(image: Tensor, saliency: Tensor) -> Image.Image:
    """The image [C, H, W] uint8 darkened where its saliency map [H, W] in 0..1 is low: RGB."""
    drawn = _drawn(image)
    values = Image.fromarray((saliency.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    strength = np.asarray(values.resize(drawn.size, Image.Resampling.BILINEAR))[..., None] / 255
    return Image.fromarray((np.asarray(drawn) * (0.2 + 0.8 * strength)).astype(np.uint8))


def errors(predicted: Tensor, labels: Tensor) -> Image.Image:
    """Where two label maps [H, W] differ: RGB; ignored pixels are black."""
    pixels = np.full((*labels.shape, 3), CORRECT, np.uint8)
    pixels[(predicted != labels).numpy()] = WRONG
    pixels[(labels == IGNORED).numpy()] = 0
    return Image.fromarray(pixels)


def _drawn(image: Tensor) -> Image.Image:
    """The image [C, H, W] uint8 in the size in which it is drawn."""
    return draw.to_image(image).resize(draw.drawn_size((image.shape[1], image.shape[2]))[::-1])
