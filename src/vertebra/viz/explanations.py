"""Explanations drawn onto images: how much each pixel counts, as colours."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from vertebra.structures import Answer
from vertebra.viz import draw, fonts

COLOURS = "turbo"
"""matplotlib's map of 0..1 to colours."""
OPACITY = 0.6
"""Of the colours, in 0..1."""
MARK = "white"
"""Colour of the box or the pixel that an explanation is of, outlined in black."""
MOST_MARKED = 1
"""Answers of more pixels are not marked: they are a whole region."""
GAP = 8
"""Pixels between two images."""


def overlay(image: Tensor, weights: Tensor) -> Image.Image:
    """The image [C, H, W] uint8 under the colours of a map [H, W] in 0..1: RGB, of the image's `drawn_size`."""
    drawn = _drawn(image)
    values = Image.fromarray(weights.numpy().astype(np.float32)).resize(drawn.size, Image.Resampling.BILINEAR)
    colours = matplotlib.colormaps[COLOURS](np.asarray(values).clip(0, 1))[..., :3] * 255
    return Image.fromarray((np.asarray(drawn) * (1 - OPACITY) + colours * OPACITY).astype(np.uint8))


def marked(image: Tensor, answer: Answer) -> Image.Image:
    """The image [C, H, W] uint8 with the box or the pixel of an answer, if it has one: RGB, of its `drawn_size`."""
    drawn = _drawn(image)
    scale = drawn.width / image.shape[2]
    pen = ImageDraw.Draw(drawn)
    line = max(2, min(drawn.size) // 150)
    for colour, width in (("black", 2 * line), (MARK, line)):
        if answer.box is not None:
            x1, y1, x2, y2 = (value * scale for value in answer.box)
            pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width)
        elif answer.points is not None and len(answer.points) <= MOST_MARKED:
            for x, y in (answer.points * scale).tolist():
                radius = 2 * line + width / 2
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return drawn


def grid(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Images with a caption beneath each, in rows of equal length: RGB. All images have one size."""
    width, height = rows[0][0][1].size
    line = max(18, min(min(width, height) // 14, 40))
    size = round(line * 0.62)
    columns = max(map(len, rows))
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, len(rows) * (height + line + GAP) - GAP), "white")
    pen = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        for j, (caption, image) in enumerate(row):
            x, y = j * (width + GAP), i * (height + line + GAP)
            canvas.paste(image, (x, y))
            fonts.write(
                pen, x + 2, y + height + line / 2, fonts.shortened(caption, width - 4, size), size=size, fill="black"
            )
    return canvas


def _drawn(image: Tensor) -> Image.Image:
    return draw.to_image(image).resize(draw.drawn_size((image.shape[1], image.shape[2]))[::-1])
