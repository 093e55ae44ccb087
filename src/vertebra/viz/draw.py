"""Predictions drawn onto pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vertebra.structures import Prediction


def classified(picture: Tensor, prediction: Prediction, classes: Sequence[str], count: int = 3) -> Image.Image:
    """The picture over a caption of its likeliest classes with a bar each: [C, H, W] uint8 -> PIL RGB.

    Small pictures are enlarged, without smoothing, until the caption fits beneath.
    """
    rgb = picture.expand(3, -1, -1) if len(picture) == 1 else picture
    image = Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy().astype("uint8"))
    factor = max(1, -(-256 // image.width))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
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


def thumbnail(picture: Tensor, side: int = 112) -> Image.Image:
    """A small copy that fits a square: [C, H, W] uint8 -> PIL RGB."""
    rgb = picture.to(torch.uint8)
    rgb = rgb.expand(3, -1, -1) if len(rgb) == 1 else rgb[:3]
    image = Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
