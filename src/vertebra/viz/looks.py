"""Where a captioner looks for each word, drawn over the image."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra.structures import Prediction
from vertebra.viz import draw, maps

MAX_WORDS = 24
"""Words that are drawn."""
COLUMNS = 4


def sheet(image: Tensor, prediction: Prediction) -> Image.Image:
    """The image [C, H, W] uint8 over its caption, and below an image for each word, darkened where its weights are low
    beside its largest."""
    whole = draw.captioned(image, [(prediction.text or "", 0.0)])
    if prediction.looks is None:
        return whole
    parts = []
    for word, look in list(zip(prediction.words, prediction.looks, strict=True))[:MAX_WORDS]:
        part = maps.heat(image, look / look.max().clamp(min=1e-6))
        part.thumbnail((draw.MIN_WIDTH, draw.MIN_WIDTH))
        pixels = torch.from_numpy(np.asarray(part).copy()).permute(2, 0, 1)
        parts.append(draw.captioned(pixels, [(word, 0.0)]))
    if not parts:
        return whole
    width, height = parts[0].size
    rows = -(-len(parts) // COLUMNS)
    size = (max(whole.width, width * min(COLUMNS, len(parts))), whole.height + rows * height)
    result = Image.new("RGB", size, "white")
    result.paste(whole)
    for number, part in enumerate(parts):
        result.paste(part, (number % COLUMNS * width, whole.height + number // COLUMNS * height))
    return result
