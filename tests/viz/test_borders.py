"""Borders of masks, side by side."""

import numpy as np
import pytest
import torch
from PIL import ImageColor

from vertebra.structures import Masks
from vertebra.viz import borders
from vertebra.viz.borders import Borders, panels


def masks(*boxes, size=(200, 300)) -> Masks:
    result = Masks(size)
    for x1, y1, x2, y2 in boxes:
        result.append(x1, y1, torch.ones(y2 - y1, x2 - x1, dtype=torch.bool))
    return result


IMAGE = torch.full((3, 200, 300), 90, dtype=torch.uint8)


def test_a_panel_per_mask_where_they_differ():
    """The masks differ at their right end alone, 3 drawn pixels to one of the image."""
    shown = panels(IMAGE, {"coarse": (masks((10, 50, 250, 80)), 0), "refined": (masks((10, 50, 270, 80)), 0)})
    scale = borders.SIDE // borders.WINDOW
    assert shown.size == (2 * borders.SIDE + borders.GAP, borders.HEADER + borders.SIDE)
    pixels = np.asarray(shown)[borders.HEADER :]
    left, right = pixels[:, : borders.SIDE], pixels[:, borders.SIDE + borders.GAP :]
    places = []
    for panel, colour in ((left, borders.COLOURS[0]), (right, borders.COLOURS[1])):
        drawn = (panel == ImageColor.getrgb(colour)).all(-1)
        assert drawn.any()
        columns = np.flatnonzero(drawn.any(0))
        assert columns[0] == 0  # the edge of the panel is no border: only lines along the mask reach it
        assert drawn[:, 0].sum() == 2 * borders.LINE
        places.append(columns[-1])
    assert places[1] - places[0] == 20 * scale


@pytest.mark.parametrize("size", [(1, 1), (10, 300), (95, 97)])
def test_small_images(size):
    whole, none = masks((0, 0, size[1], size[0]), size=size), masks((0, 0, 0, 0), size=size)
    shown = panels(torch.zeros(1, *size, dtype=torch.uint8), {"coarse": (whole, 0), "refined": (none, 0)})
    assert shown.mode == "RGB"
    assert (
        panels(torch.zeros(3, *size, dtype=torch.uint8), {"coarse": (none, 0), "refined": (none, 0)}).size == shown.size
    )


def test_the_largest_are_kept(monkeypatch):
    monkeypatch.setattr(borders, "SHOWN", {"gains": 2, "losses": 1})
    shown = {"coarse": (masks((0, 0, 9, 9)), 0), "refined": (masks((0, 0, 5, 9)), 0)}
    kept = Borders()
    for gain in (0.1, 0.0, 0.3, -0.2, 0.2, -0.1):
        kept.add(gain, IMAGE, shown, f"<{gain}>")
    page = "".join(kept.sections())
    assert [name for name in ("Largest gains", "Largest losses") if name in page] == ["Largest gains", "Largest losses"]
    assert [text for text in ("0.3", "0.2", "0.1", "-0.2", "-0.1") if f"&lt;{text}&gt;" in page] == [
        "0.3",
        "0.2",
        "-0.2",
    ]
    assert page.index("0.3&gt;<") < page.index("0.2&gt;<")
    assert Borders().sections() == []
