"""Predictions drawn onto pictures."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vertebra.structures import Points, Prediction

WIDTH = 256
"""Narrower pictures are enlarged to at least this many pixels."""
PIXELS = 2**24
"""To no more than so many in all."""
MANY = 40
"""With more objects, outlines are thin, and boxes around masks and labels larger than half their box left out."""
MANY_OF_ONE = 12
"""The same, where there is one class only; then there are no labels at all, which have but the score to say."""
OPACITY = 0.4
"""Of the colour inside a mask, in 0..1."""
SEEN = 0.5
"""Keypoints with a lower score are not drawn."""

Colour = tuple[int, int, int]


def answered(
    picture: Tensor,
    prediction: Prediction,
    classes: Sequence[str],
    *,
    points: Points | None = None,
    threshold: float = 0.0,
    count: int = 3,
) -> Image.Image:
    """The picture with what is said of it: its objects by `instances`, or its `count` likeliest classes."""
    if prediction.boxes is not None:
        return instances(picture, prediction, classes, points=points, threshold=threshold)
    return classified(picture, prediction, classes, count)


def classified(picture: Tensor, prediction: Prediction, classes: Sequence[str], count: int = 3) -> Image.Image:
    """The picture over a caption of its likeliest classes with a bar each: [C, H, W] uint8 -> PIL RGB.

    Small pictures are enlarged, without smoothing, until the caption fits beneath.
    """
    image = Image.fromarray(_enlarged(picture)[0])
    line = max(18, image.width // 22)
    font = ImageFont.load_default(size=round(line * 0.68))
    top = prediction.top(count)
    canvas = Image.new("RGB", (image.width, image.height + line * len(top) + 8), "white")
    canvas.paste(image, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for i, (index, probability) in enumerate(top):
        y = image.height + 4 + i * line
        pen.rectangle((0, y + 1, round((image.width - 1) * probability), y + line - 2), fill="#cfe3f7")
        name = classes[index] if len(classes[index]) <= 40 else f"{classes[index][:39]}…"
        pen.text((6, y + line / 2), f"{name}  {probability:.1%}", fill="black", font=font, anchor="lm")
    return canvas


def instances(
    picture: Tensor,
    prediction: Prediction,
    classes: Sequence[str],
    *,
    points: Points | None = None,
    threshold: float = 0.0,
) -> Image.Image:
    """The picture with its objects: masks, boxes, names with scores, keypoints and what joins them.

    A class has its own colour, the same in every picture; where there is one class only, each object has. Small
    pictures are enlarged without smoothing. A label stands where it covers no other, or not at all.

    Args:
        picture: [C, H, W] uint8.
        prediction: in pixels of the picture; without scores all objects are drawn, as those of a data set.
        points: says which keypoints are joined.
        threshold: objects with a lower score are not drawn.

    Returns:
        RGB, of the picture's size times the factor by which it was enlarged.
    """
    pixels, factor = _enlarged(picture)
    if prediction.scores is not None:
        prediction = prediction.take(torch.nonzero(prediction.scores >= threshold).flatten().tolist())
    assert prediction.boxes is not None, "this prediction has no objects"
    boxes = (prediction.boxes * factor).tolist()
    labels = [0] * len(boxes) if prediction.labels is None else prediction.labels.tolist()
    single = len(classes) == 1
    colours = [colour(i if single else label) for i, label in enumerate(labels)]
    many = len(boxes) > (MANY_OF_ONE if single else MANY)
    line = 1 if many else max(1, round(min(pixels.shape[:2]) / 240))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    order = sorted(range(len(boxes)), key=lambda i: -areas[i])  # the small ones lie on top
    if prediction.masks is not None:
        for i in order:
            _paint(pixels, prediction.masks.corners[i], prediction.masks.crops[i], factor, colours[i], line)
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    if prediction.masks is None or not many:
        thickness = line if prediction.masks is None else max(1, line // 2)
        for i in order:
            x1, y1, x2, y2 = boxes[i]
            corners = (round(x1), round(y1), max(round(x1), round(x2) - 1), max(round(y1), round(y2) - 1))
            pen.rectangle(corners, outline=colours[i], width=thickness)
    if prediction.keypoints is not None:
        joined = points.skeleton if points else ()
        for i in order:
            side = max(boxes[i][2] - boxes[i][0], boxes[i][3] - boxes[i][1])
            _joints(pen, prediction.keypoints[i] * torch.tensor([factor, factor, 1.0]), joined, colours[i], side)
    scores = [None] * len(boxes) if prediction.scores is None else prediction.scores.tolist()
    if not (single and many):
        texts = [_words(classes, single, *said) for said in zip(labels, scores, strict=True)]
        _labels(pen, image.size, boxes, texts, colours, many)
    return image


def colour(index: int) -> Colour:
    """Of a class, or of an object: RGB, 0..255. Neighbouring numbers lie far apart on the colour wheel."""
    hue = (0.58 + index * 0.6180339887) % 1.0  # the golden ratio never comes back to a colour
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.95, 0.8))[index // 5 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def thumbnail(picture: Tensor, side: int = 112) -> Image.Image:
    """A small copy that fits a square: [C, H, W] uint8 -> PIL RGB."""
    rgb = picture.to(torch.uint8)
    rgb = rgb.expand(3, -1, -1) if len(rgb) == 1 else rgb[:3]
    image = Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _enlarged(picture: Tensor) -> tuple[np.ndarray, int]:
    """[C, H, W] -> [H * factor, W * factor, 3] uint8 of its own, and the least factor that makes it WIDTH wide."""
    rgb = picture.expand(3, -1, -1) if len(picture) == 1 else picture[:3]
    fits = math.isqrt(PIXELS // (picture.shape[-2] * picture.shape[-1]))  # a narrow strip would take gigabytes
    factor = max(1, min(-(-WIDTH // picture.shape[-1]), fits))
    pixels = rgb.permute(1, 2, 0).to(torch.uint8)
    return pixels.repeat_interleave(factor, 0).repeat_interleave(factor, 1).contiguous().numpy().copy(), factor


def _paint(pixels: np.ndarray, corner: tuple[int, int], crop: Tensor, factor: int, shade: Colour, line: int) -> None:
    """Lays a mask [h, w] and its rim over `pixels` [H, W, 3], inside its own rectangle only."""
    if not crop.numel():
        return
    mask = crop.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    outside = torch.nn.functional.pad(~mask, (line, line, line, line), value=True)[None].float()
    wide = torch.nn.functional.max_pool2d(outside, (2 * line + 1, 1), 1)  # a square in two steps, which is quicker
    rim = mask & (torch.nn.functional.max_pool2d(wide, (1, 2 * line + 1), 1)[0] > 0)
    x, y = corner[0] * factor, corner[1] * factor
    part = pixels[y : y + mask.shape[0], x : x + mask.shape[1]]
    inside = mask.numpy()
    part[inside] = (part[inside] * (1 - OPACITY) + np.array(shade) * OPACITY).astype(np.uint8)
    part[rim.numpy()] = shade


def _joints(
    pen: ImageDraw.ImageDraw, keypoints: Tensor, joined: Sequence[tuple[int, int]], shade: Colour, side: float
) -> None:
    """Draws the keypoints [K, 3] of an object whose longer side has `side` pixels."""
    where = [(x, y) if score >= SEEN else None for x, y, score in keypoints.tolist()]
    line, radius = max(1, round(side / 90)), max(1.5, side / 70)
    for a, b in joined:
        if (start := where[a]) and (end := where[b]):
            if line > 1:  # a rim would hide a thin line
                pen.line((*start, *end), fill="white", width=line + 2)
            pen.line((*start, *end), fill=shade, width=line)
    for point in where:
        if point:
            x, y = point
            pen.ellipse((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), fill="white")
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shade)


def _words(classes: Sequence[str], single: bool, label: int, score: float | None) -> str:
    name = "" if single else classes[label] if len(classes[label]) <= 24 else f"{classes[label][:23]}…"
    return f"{name} {score:.2f}".strip() if score is not None else name


def _labels(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    boxes: Sequence[Sequence[float]],
    texts: Sequence[str],
    colours: Sequence[Colour],
    many: bool,
) -> None:
    """Writes each text at its box, the first boxes first: above, below or inside, where it is free."""
    letter = max(10, min(48, min(size) // 32))
    font, height = ImageFont.load_default(size=letter), round(letter * 1.35)
    taken = np.zeros((0, 4))
    for (x1, y1, x2, y2), text, shade in zip(boxes, texts, colours, strict=True):
        if not text:
            continue
        width = round(font.getlength(text)) + 6
        if width > size[0] or height > size[1]:
            continue
        if many and width * height > (x2 - x1) * (y2 - y1) / 2:
            continue  # it would hide more than it says
        left = min(max(0, round(x1)), size[0] - width)
        for top in (round(y1) - height, round(y2), round(y1)):
            here = (left, top, left + width, top + height)
            if top < 0 or here[3] > size[1]:
                continue
            apart = (taken[:, 0] >= here[2]) | (taken[:, 2] <= left) | (taken[:, 1] >= here[3]) | (taken[:, 3] <= top)
            if apart.all():
                taken = np.concatenate([taken, [here]])
                pen.rectangle((left, top, here[2] - 1, here[3] - 1), fill=shade)
                luminance = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2]
                ink = "black" if luminance > 140 else "white"
                pen.text((left + 3, top + height / 2), text, fill=ink, font=font, anchor="lm")
                break
