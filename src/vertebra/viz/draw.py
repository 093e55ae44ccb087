"""Predictions drawn onto images, or written beneath them."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vertebra.structures import KeypointSchema, Prediction

MIN_WIDTH = 256
"""Narrower images are enlarged by the smallest whole factor that reaches this width in pixels."""
MAX_PIXELS = 2**24
"""Most pixels of an enlarged image."""
MANY = 40
"""With more objects, outlines are thin, boxes around masks are left out, and so are labels larger than half their
box."""
MANY_OF_ONE_CLASS = 12
"""The same, where there is one class only; then there are no labels at all, which would hold the score alone."""
OPACITY = 0.4
"""Of the colour inside a mask, in 0..1."""
KEYPOINT_THRESHOLD = 0.5
"""Keypoints with a lower score are not drawn."""
BAR_COLOUR = "#cfe3f7"
"""Of the bars behind captions."""

Colour = tuple[int, int, int]


def captioned(image: Tensor, lines: Sequence[tuple[str, float]]) -> Image.Image:
    """The image over a caption.

    Args:
        image: [C, H, W] uint8; a small one is enlarged, without smoothing, until the caption fits beneath.
        lines: text, and the length of the bar behind it as a share of the width, in 0..1.

    Returns:
        RGB.
    """
    upper = Image.fromarray(_enlarge(image)[0])
    height = max(18, upper.width // 22)
    font = ImageFont.load_default(size=round(height * 0.68))
    canvas = Image.new("RGB", (upper.width, upper.height + height * len(lines) + 8), "white")
    canvas.paste(upper, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for i, (text, share) in enumerate(lines):
        y = upper.height + 4 + i * height
        pen.rectangle((0, y + 1, round((upper.width - 1) * share), y + height - 2), fill=BAR_COLOUR)
        pen.text((6, y + height / 2), text, fill="black", font=font, anchor="lm")
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
    are enlarged without smoothing. A label is left out where there is no room for it beside the others.

    Args:
        image: [C, H, W] uint8.
        prediction: in pixels of the image; without scores all objects are drawn, as for ground truth.
        classes: names of the classes.
        keypoints: which keypoints are joined.
        threshold: objects with a lower score are not drawn.

    Returns:
        RGB, of the image's size times the factor by which it was enlarged.
    """
    pixels, factor = _enlarge(image)
    if prediction.scores is not None:
        prediction = prediction.take(torch.nonzero(prediction.scores >= threshold).flatten().tolist())
    assert prediction.boxes is not None, "this prediction has no objects"
    boxes = (prediction.boxes * factor).tolist()
    labels = [0] * len(boxes) if prediction.labels is None else prediction.labels.tolist()
    single = len(classes) == 1
    colours = [colour(i if single else label) for i, label in enumerate(labels)]
    many = len(boxes) > (MANY_OF_ONE_CLASS if single else MANY)
    line = 1 if many else max(1, round(min(pixels.shape[:2]) / 240))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    order = sorted(range(len(boxes)), key=lambda i: -areas[i])  # small ones on top
    if prediction.masks is not None:
        for i in order:
            _paint(pixels, prediction.masks.corners[i], prediction.masks.crops[i], factor, colours[i], line)
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
            points = prediction.keypoints[i] * torch.tensor([factor, factor, 1.0])
            _draw_keypoints(pen, points, skeleton, colours[i], side)
    scores = [None] * len(boxes) if prediction.scores is None else prediction.scores.tolist()
    if not (single and many):
        texts = [_label(classes, single, label, score) for label, score in zip(labels, scores, strict=True)]
        _draw_labels(pen, drawn.size, boxes, texts, colours, many)
    return drawn


def colour(index: int) -> Colour:
    """The colour of a class, or of an object: RGB, 0..255. Neighbouring indices lie far apart on the colour wheel."""
    hue = (0.58 + index * 0.6180339887) % 1.0  # multiples of the golden ratio never repeat a hue
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.8))[index // 5 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def thumbnail(image: Tensor, side: int = 112) -> Image.Image:
    """A copy that fits into a square of `side` pixels: [C, H, W] uint8 -> RGB."""
    rgb = image.to(torch.uint8)
    rgb = rgb.expand(3, -1, -1) if len(rgb) == 1 else rgb[:3]
    small = Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(small.size)
    return small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))


def _enlarge(image: Tensor) -> tuple[np.ndarray, int]:
    """[C, H, W] -> a copy [H * factor, W * factor, 3] uint8, and the factor that makes it MIN_WIDTH wide or more."""
    rgb = image.expand(3, -1, -1) if len(image) == 1 else image[:3]
    fits = math.isqrt(MAX_PIXELS // (image.shape[-2] * image.shape[-1]))  # a narrow strip would take gigabytes
    factor = max(1, min(-(-MIN_WIDTH // image.shape[-1]), fits))
    pixels = rgb.permute(1, 2, 0).to(torch.uint8)
    return pixels.repeat_interleave(factor, 0).repeat_interleave(factor, 1).contiguous().numpy().copy(), factor


def _paint(pixels: np.ndarray, corner: tuple[int, int], crop: Tensor, factor: int, shade: Colour, line: int) -> None:
    """Draws a mask [h, w] and its outline over `pixels` [H, W, 3], within the mask's rectangle."""
    if not crop.numel():
        return
    mask = crop.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    outside = torch.nn.functional.pad(~mask, (line, line, line, line), value=True)[None].float()
    wide = torch.nn.functional.max_pool2d(outside, (2 * line + 1, 1), 1)  # a square in two steps, which is faster
    rim = mask & (torch.nn.functional.max_pool2d(wide, (1, 2 * line + 1), 1)[0] > 0)
    x, y = corner[0] * factor, corner[1] * factor
    part = pixels[y : y + mask.shape[0], x : x + mask.shape[1]]
    inside = mask.numpy()
    part[inside] = (part[inside] * (1 - OPACITY) + np.array(shade) * OPACITY).astype(np.uint8)
    part[rim.numpy()] = shade


def _draw_keypoints(
    pen: ImageDraw.ImageDraw, keypoints: Tensor, skeleton: Sequence[tuple[int, int]], shade: Colour, side: float
) -> None:
    """Draws the keypoints [K, 3] of an object whose longer side has `side` pixels."""
    points = [(x, y) if score >= KEYPOINT_THRESHOLD else None for x, y, score in keypoints.tolist()]
    line, radius = max(1, round(side / 90)), max(1.5, side / 70)
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
    name = "" if single else classes[label] if len(classes[label]) <= 24 else f"{classes[label][:23]}…"
    return f"{name} {score:.2f}".strip() if score is not None else name


def _draw_labels(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    texts: Sequence[str],
    colours: Sequence[Colour],
    many: bool,
) -> None:
    """Writes each text at its box, in their order: above, below or inside, where it overlaps no other label."""
    font_size = max(10, min(48, min(size) // 32))
    font, height = ImageFont.load_default(size=font_size), round(font_size * 1.35)
    taken = np.zeros((0, 4))
    for (x1, y1, x2, y2), text, shade in zip(boxes, texts, colours, strict=True):
        if not text:
            continue
        width = round(font.getlength(text)) + 6
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
                pen.text((left + 3, top + height / 2), text, fill=ink, font=font, anchor="lm")
                break
