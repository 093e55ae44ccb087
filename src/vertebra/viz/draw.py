"""Predictions drawn onto images, or written beneath them."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vertebra.structures import KeypointSchema, Prediction
from vertebra.viz import fonts

MIN_WIDTH = 256
"""Narrower images are enlarged by the smallest whole factor that reaches this width in pixels."""
MAX_PIXELS = 2**25
"""Images with more pixels are drawn smaller."""
MAX_SIDE = 2**14
"""Longest side of a drawn image in pixels."""
MANY = 40
"""With more objects, outlines are thin, boxes around masks are left out, and so are labels larger than half their
box."""
MANY_OF_ONE_CLASS = 12
"""The same, where there is one class only; then there are no labels at all, which would hold the score alone."""
MAX_LINE = 12
"""Width in pixels of the widest line."""
OPACITY = 0.4
"""Of the colour inside a mask, in 0..1."""
KEYPOINT_THRESHOLD = 0.5
"""Keypoints with a lower score are not drawn."""
BAR_COLOUR = "#cfe3f7"
"""Of the bars behind captions."""

FAR = 2**16
"""Keypoints are drawn as far as this beyond the image, in pixels, which is outside of every drawn image."""

Colour = tuple[int, int, int]
Number = TypeVar("Number", int, float)


def drawn_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels in which an image of (height, width) `size` is drawn.

    Narrow images are enlarged by a whole factor, and images beyond MAX_PIXELS or MAX_SIDE made smaller.
    """
    height, width = size
    scale = min(1.0, MAX_SIDE / max(size), math.sqrt(MAX_PIXELS / (height * width)))
    if scale < 1:
        return max(1, round(height * scale)), max(1, round(width * scale))
    fits = min(MAX_SIDE // max(size), math.isqrt(MAX_PIXELS // (height * width)))  # of a strip of few columns
    factor = max(1, min(-(-MIN_WIDTH // width), fits))
    return height * factor, width * factor


def captioned(image: Tensor, lines: Sequence[tuple[str, float]]) -> Image.Image:
    """The image over a caption.

    Args:
        image: [C, H, W] uint8; a small one is enlarged, without smoothing, until the caption fits beneath.
        lines: text, and the length of the bar behind it as a share of the width, in 0..1.

    Returns:
        RGB, of the image's `drawn_size` and the caption's height.
    """
    upper = _resized(image, drawn_size((image.shape[-2], image.shape[-1])))
    height = _between(18, min(upper.size) // 16, 72)
    canvas = Image.new("RGB", (max(upper.width, MIN_WIDTH), upper.height + height * len(lines) + 8), "white")
    canvas.paste(upper, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for i, (text, share) in enumerate(lines):
        y = upper.height + 4 + i * height
        if math.isfinite(share):
            pen.rectangle((0, y + 1, round((canvas.width - 1) * share), y + height - 2), fill=BAR_COLOUR)
        fonts.write(pen, 6, y + height / 2, fonts.drawable(text), size=round(height * 0.68), fill="black")
    return canvas


def instances(
    image: Tensor,
    prediction: Prediction,
    classes: Sequence[str],
    *,
    keypoints: KeypointSchema | None = None,
    threshold: float = 0.0,
) -> Image.Image:
    """The image with its objects: masks, boxes, class names with scores, keypoints and the lines that join them.

    A class has the same colour in every image; where there is one class only, every object has its own. Small images
    are enlarged without smoothing. A label is left out where there is no room for it beside the others, an object
    where its box is not finite.

    Args:
        image: [C, H, W] uint8.
        prediction: in pixels of the image; without scores all objects are drawn, as for ground truth.
        classes: names of the classes.
        keypoints: which keypoints are joined.
        threshold: objects with a lower score are not drawn.

    Returns:
        RGB, of the image's `drawn_size`.
    """
    height, width = image.shape[-2:]
    pixels = np.array(_resized(image, drawn_size((height, width))))
    scale = (pixels.shape[1] / width, pixels.shape[0] / height)
    assert prediction.boxes is not None, "this prediction has no objects"
    kept = torch.isfinite(prediction.boxes).all(1)
    if prediction.scores is not None:
        kept &= prediction.scores >= threshold
    prediction = prediction.take(torch.nonzero(kept).flatten().tolist())
    assert prediction.boxes is not None
    line = _between(1, round(min(pixels.shape[:2]) / 240), MAX_LINE)
    edges = torch.tensor([pixels.shape[1], pixels.shape[0]] * 2) + line
    scaled = prediction.boxes * torch.tensor(scale * 2)
    boxes = torch.minimum(scaled, edges).clamp(min=-line).tolist()  # what lies outside stays outside
    labels = [0] * len(boxes) if prediction.labels is None else prediction.labels.tolist()
    single = len(classes) == 1
    colours = [colour(i if single else label) for i, label in enumerate(labels)]
    many = len(boxes) > (MANY_OF_ONE_CLASS if single else MANY)
    line = 1 if many else line
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    order = sorted(range(len(boxes)), key=lambda i: -areas[i])  # small ones on top
    if prediction.masks is not None:
        for i in order:
            _paint(pixels, prediction.masks.corners[i], prediction.masks.crops[i], scale, colours[i], line)
    drawn = Image.fromarray(pixels)
    pen = ImageDraw.Draw(drawn)
    if prediction.masks is None or not many:
        thickness = line if prediction.masks is None else max(1, line // 2)
        for i in order:
            x1, y1, x2, y2 = boxes[i]
            corners = (round(x1), round(y1), max(round(x1), round(x2) - 1), max(round(y1), round(y2) - 1))
            pen.rectangle(corners, outline=colours[i], width=thickness)
    if prediction.keypoints is not None:
        skeleton = keypoints.skeleton if keypoints else ()
        for i in order:
            side = max(boxes[i][2] - boxes[i][0], boxes[i][3] - boxes[i][1])
            points = prediction.keypoints[i] * torch.tensor([*scale, 1.0])
            _draw_keypoints(pen, points, skeleton, colours[i], min(side, *drawn.size))
    scores = [None] * len(boxes) if prediction.scores is None else prediction.scores.tolist()
    if not (single and many):
        texts = [_label(classes, single, label, score) for label, score in zip(labels, scores, strict=True)]
        _draw_labels(pen, drawn.size, boxes, texts, colours, many)
    return drawn


def to_image(image: Tensor) -> Image.Image:
    """[C, H, W] uint8 -> RGB of the same size."""
    return _resized(image, (image.shape[-2], image.shape[-1]))


def colour(index: int) -> Colour:
    """The colour of a class, or of an object: RGB, 0..255. Neighbouring indices lie far apart on the colour wheel."""
    hue = (0.58 + index * 0.6180339887) % 1.0  # multiples of the golden ratio never repeat a hue
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.8))[index // 5 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def thumbnail(image: Tensor, side: int = 112) -> Image.Image:
    """A copy that fits into a square of `side` pixels: [C, H, W] uint8 -> RGB."""
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    return _resized(image, (max(1, round(height * scale)), max(1, round(width * scale))), smooth=True)


def _resized(image: Tensor, size: tuple[int, int], *, smooth: bool = False) -> Image.Image:
    """[C, H, W] -> RGB of (height, width) `size`; enlarged without smoothing unless `smooth`.

    One channel at a time, as the copies of a large image take more memory than the image.
    """
    shrinks = size[0] < image.shape[-2] or size[1] < image.shape[-1]
    resampling = Image.Resampling.BICUBIC if smooth or shrinks else Image.Resampling.NEAREST
    planes = [
        Image.fromarray(np.ascontiguousarray(plane.to(torch.uint8).numpy())).resize(
            size[::-1], resampling, reducing_gap=3.0 if shrinks else None
        )
        for plane in (image[:1] if len(image) == 1 else image[:3])
    ]
    return Image.merge("RGB", planes * 3 if len(planes) == 1 else planes)


def _between(low: Number, value: Number, high: Number) -> Number:
    return max(low, min(value, high))


def _paint(
    pixels: np.ndarray, corner: tuple[int, int], crop: Tensor, scale: tuple[float, float], shade: Colour, line: int
) -> None:
    """Draws a mask [h, w] and its outline over `pixels` [H, W, 3], within the mask's rectangle.

    `scale` is the drawn width and height of a pixel of the mask.
    """
    if not crop.numel():
        return
    left, top = (round(value * factor) for value, factor in zip(corner, scale, strict=True))
    right = max(left + 1, round((corner[0] + crop.shape[1]) * scale[0]))
    bottom = max(top + 1, round((corner[1] + crop.shape[0]) * scale[1]))
    resampling = Image.Resampling.BOX if min(scale) < 1 else Image.Resampling.NEAREST
    values = Image.fromarray(crop.numpy().astype(np.uint8) * 255).resize((right - left, bottom - top), resampling)
    part = pixels[top:bottom, left:right]
    inside = np.asarray(values)[: part.shape[0], : part.shape[1]] > 127
    for channel, value in enumerate(shade):
        mixed = (np.arange(256) * (1 - OPACITY) + value * OPACITY).astype(np.uint8)  # what becomes of each brightness
        part[inside, channel] = mixed[part[inside, channel]]
    part[inside & ~_eroded(inside, line)] = shade


def _eroded(mask: np.ndarray, radius: int) -> np.ndarray:
    """The pixels of a mask [H, W] bool whose neighbours up to `radius` in x and y belong to it too."""
    result = np.pad(mask, radius)
    for _ in range(2):  # both axes
        width = 1
        while width <= 2 * radius:
            step = min(width, 2 * radius + 1 - width)
            result = result[step:] & result[:-step]
            width += step
        result = result.T
    return result


def _draw_keypoints(
    pen: ImageDraw.ImageDraw, keypoints: Tensor, skeleton: Sequence[tuple[int, int]], shade: Colour, side: float
) -> None:
    """Draws the keypoints [K, 3] of an object whose longer side has `side` pixels."""
    points = [
        (_between(-FAR, x, FAR), _between(-FAR, y, FAR)) if score >= KEYPOINT_THRESHOLD and x == x and y == y else None
        for x, y, score in keypoints.tolist()
    ]
    line = _between(1, round(side / 90), MAX_LINE)
    radius = _between(1.5, side / 70, MAX_LINE)
    for a, b in skeleton:
        if (start := points[a]) and (end := points[b]):
            if line > 1:  # a rim would hide a thin line
                pen.line((*start, *end), fill="white", width=line + 2)
            pen.line((*start, *end), fill=shade, width=line)
    for point in points:
        if point:
            x, y = point
            pen.ellipse((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), fill="white")
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shade)


def _label(classes: Sequence[str], single: bool, label: int, score: float | None) -> str:
    name = classes[label] if 0 <= label < len(classes) else f"class {label}"
    name = "" if single else name if len(name) <= 24 else f"{name[:23]}…"
    return fonts.drawable(f"{name} {score:.2f}".strip() if score is not None else name)


def _draw_labels(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    texts: Sequence[str],
    colours: Sequence[Colour],
    many: bool,
) -> None:
    """Writes each text at its box, in their order: above, below or inside, where it overlaps no other label."""
    font_size = _between(10, min(size) // 32, 48)
    height = round(font_size * 1.35)
    taken = np.zeros((0, 4))
    for (x1, y1, x2, y2), text, shade in zip(boxes, texts, colours, strict=True):
        if not text:
            continue
        width = round(fonts.length(text, font_size)) + 6
        if width > size[0] or height > size[1]:
            continue
        if many and width * height > (x2 - x1) * (y2 - y1) / 2:
            continue  # it would hide too much of the object
        left = min(max(0, round(x1)), size[0] - width)
        for top in (round(y1) - height, round(y2), round(y1)):
            label = (left, top, left + width, top + height)
            if top < 0 or label[3] > size[1]:
                continue
            apart = (taken[:, 0] >= label[2]) | (taken[:, 2] <= left) | (taken[:, 1] >= label[3]) | (taken[:, 3] <= top)
            if apart.all():
                taken = np.concatenate([taken, [label]])
                pen.rectangle((left, top, label[2] - 1, label[3] - 1), fill=shade)
                luminance = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2]
                ink = "black" if luminance > 140 else "white"
                fonts.write(pen, left + 3, top + height / 2, text, size=font_size, fill=ink)
                break
