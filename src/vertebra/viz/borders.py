"""Borders of masks, side by side, where refinement changed them most."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from vertebra.structures import Masks
from vertebra.viz import draw, fonts

WINDOW = 96
"""Pixels of the image per side of a panel."""
SIDE = 288
"""Pixels of a drawn panel, about."""
LINE = 2
"""Width of a border in drawn pixels."""
GAP, HEADER = 8, 24
"""Pixels between panels and above them."""
COLOURS = ("#d62728", "#1f77b4", "#2ca02c")
"""Of the coarse mask's border, the refined mask's and the ground truth's."""
SHOWN = {"gains": 12, "losses": 6}
"""Instances of a report, by what it shows of them."""


class Borders:
    """Keeps the instances that gained most and those that lost most, drawn."""

    def __init__(self) -> None:
        self.drawn: dict[str, list[tuple[float, Image.Image, str]]] = {name: [] for name in SHOWN}

    def add(self, gain: float, image: Tensor, masks: Mapping[str, tuple[Masks, int]], caption: str) -> None:
        """Draws an instance if it is among those to be shown.

        Args:
            gain: above 0 if it is better after refinement, below if it is worse; 0 is never shown.
            image: [C, H, W] uint8.
            masks: the `coarse` mask, the `refined` one and the `ground truth` if there is any, by these names: the
                masks of the image, and which of them it is.
            caption: beneath the panels.
        """
        kept = self.drawn["gains" if gain > 0 else "losses"]
        count = SHOWN["gains" if gain > 0 else "losses"]
        if not gain or (len(kept) == count and abs(gain) <= abs(kept[-1][0])):
            return
        kept.append((gain, panels(image, masks), caption))
        kept.sort(key=lambda entry: -abs(entry[0]))
        del kept[count:]

    def sections(self) -> list[str]:
        """HTML of the largest gains and of the largest losses."""
        from vertebra.viz import plots  # with matplotlib

        parts: list[str] = []
        if any(self.drawn.values()):
            parts.append(f"<p>Of an object, the {WINDOW} pixels per side in which its masks differ most.</p>")
        for name, entries in self.drawn.items():
            if entries:
                parts.append(f"<h2>Largest {name}</h2>")
            parts += [f"<p>{plots.image(image, caption)}<br>{escape(caption)}</p>" for _, image, caption in entries]
        return parts


def panels(image: Tensor, masks: Mapping[str, tuple[Masks, int]]) -> Image.Image:
    """A panel per mask, side by side: its border on the part of the image where the first two differ most: RGB.

    Args:
        image: [C, H, W] uint8.
        masks: by name, two at least: the masks of the image, and which of them it is.
    """
    (first, i), (second, j), *_ = masks.values()
    left, top, right, bottom = _window(first, i, second, j)
    scale = max(1, SIDE // max(right - left, bottom - top))
    enlarged = draw.to_image(image[:, top:bottom, left:right])
    enlarged = enlarged.resize((enlarged.width * scale, enlarged.height * scale), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (len(masks) * (enlarged.width + GAP) - GAP, HEADER + enlarged.height), "white")
    pen = ImageDraw.Draw(canvas)
    for number, ((name, (chosen, index)), colour) in enumerate(zip(masks.items(), COLOURS, strict=False)):
        x = number * (enlarged.width + GAP)
        inside = chosen[index][top:bottom, left:right].numpy()
        pixels = np.array(enlarged)
        pixels[_border(np.kron(inside, np.ones((scale, scale), bool)))] = ImageColor.getrgb(colour)
        canvas.paste(Image.fromarray(pixels), (x, HEADER))
        fonts.write(pen, x, HEADER / 2, name, size=14, fill=colour)
    return canvas


def _window(first: Masks, i: int, second: Masks, j: int) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the part of the image, WINDOW pixels per side at most, in which two masks differ most."""
    from scipy import ndimage

    height, width = first.size
    boxes = [
        (x, y, x + crop.shape[1], y + crop.shape[0])
        for masks, index in ((first, i), (second, j))
        if (crop := masks.crops[index]).numel()
        for x, y in [masks.corners[index]]
    ]
    x1, y1, x2, y2 = map(int, (*np.min(boxes, 0)[:2], *np.max(boxes, 0)[2:])) if boxes else (0, 0, width, height)
    differs = (first[i] ^ second[j])[y1:y2, x1:x2].numpy()
    density = ndimage.uniform_filter(differs.astype(np.float32), WINDOW // 2, mode="constant")
    y, x = np.unravel_index(int(density.argmax()), density.shape)
    left = max(0, min(x1 + int(x) - WINDOW // 2, width - WINDOW))
    top = max(0, min(y1 + int(y) - WINDOW // 2, height - WINDOW))
    return left, top, min(width, left + WINDOW), min(height, top + WINDOW)


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask [H, W] up to LINE from its outside; the edge of the panel is no outside."""
    from scipy import ndimage

    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3), bool), LINE, border_value=1)
