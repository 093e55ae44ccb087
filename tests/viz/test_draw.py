"""Answers drawn beneath pictures."""

import numpy as np
import pytest
import torch

from vertebra.structures import Prediction
from vertebra.viz import draw

PREDICTION = Prediction(probabilities=torch.tensor([0.75, 0.25, 0.0]))
CLASSES = ("cat", "dog", "emu")


def picture(channels: int = 3, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_is_enlarged_without_smoothing(channels):
    source = picture(channels)
    drawn = np.asarray(draw.classified(source, PREDICTION, CLASSES))
    assert drawn.shape[1] == 270  # nine times, the least that reaches 256
    want = source.expand(3, -1, -1).permute(1, 2, 0).repeat_interleave(9, 0).repeat_interleave(9, 1)
    assert np.array_equal(drawn[:180], want)


def test_the_caption_has_a_line_per_answer():
    heights = [draw.classified(picture(), PREDICTION, CLASSES, count).height for count in (1, 2, 3, 9)]
    assert heights[1] - heights[0] == heights[2] - heights[1] > 0
    assert heights[3] == heights[2]  # there are three classes


def test_bars_are_as_long_as_their_probability():
    drawn = np.asarray(draw.classified(picture(height=30), PREDICTION, ("", "", "")))[270:]
    bar = (drawn == (0xCF, 0xE3, 0xF7)).all(-1)  # [H, W]
    lengths = sorted({int(row.sum()) for row in bar if row.any()})
    assert lengths[-1] == pytest.approx(0.75 * 270, abs=2)
    assert any(length == pytest.approx(0.25 * 270, abs=2) for length in lengths)


def test_a_large_picture_keeps_its_size():
    assert draw.classified(picture(height=10, width=300), PREDICTION, CLASSES).width == 300


def ink(name: str) -> np.ndarray:
    """Where the caption is dark."""
    certain = Prediction(probabilities=torch.tensor([0.0, 1.0]))
    drawn = draw.classified(torch.full((3, 10, 600), 255, dtype=torch.uint8), certain, ("", name), 1)
    return np.asarray(drawn.convert("L"))[10:] < 100


def test_a_long_name_is_cut_and_not_dropped():
    word = "a_name_of_one_word_that_goes_on_and_on_for_more_than_forty_letters"
    assert ink(word).sum() > 3 * ink("").sum()
    assert np.array_equal(ink(word), ink(word + "_and_on"))


@pytest.mark.parametrize(("height", "width", "size"), [(100, 200, (112, 56)), (8, 4, (56, 112)), (1, 500, (112, 1))])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_thumbnail(height, width, size, channels):
    made = draw.thumbnail(picture(channels, height, width))
    assert made.size == size
    assert made.mode == "RGB"
