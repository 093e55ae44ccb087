"""Contact sheets: which images, and where they stand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import kinds
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.errors import VertebraError
from vertebra.structures import Target
from vertebra.viz import draw, fonts, sheet

GREY = 120
SHOWN = sheet.SIDE + sheet.MARGIN


def catalogue(*sizes: tuple[int, int], split: str = "train") -> Catalogue:
    """Grey images of (height, width) `sizes`, of class 1 of two."""
    target = Target(label=torch.tensor(1))
    samples = [Sample(torch.full((3, *size), GREY, dtype=torch.uint8), target) for size in sizes]
    return Catalogue("DATA", "folder", ("cat", "dog"), {split: samples})


def labelled(labels: torch.Tensor) -> Catalogue:
    image = torch.full((3, *labels.shape), GREY, dtype=torch.uint8)
    samples = [Sample(image, Target(semantic=labels))]
    return Catalogue("DATA", "label_maps", ("a", "b", "c"), {"val": samples}, has=frozenset({"semantic"}))


def saved(path: Path, data: Catalogue, kind: str) -> np.ndarray:
    sheet.save(str(path), data, kinds.find(kind))
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def test_images_are_spread_over_the_splits():
    places = sheet.spread({"train": 960, "val": 40, "test": 2})
    counts = {split: sum(place[0] == split for place in places) for split in ("train", "val", "test")}
    assert counts == {"train": 18, "val": 4, "test": 2}
    assert [index for split, index in places if split == "val"] == [5, 15, 25, 35]
    assert [index for split, index in places if split == "test"] == [0, 1]
    assert sheet.spread({"train": 3, "val": 0}) == [("train", 0), ("train", 1), ("train", 2)]
    # 20, 10 and 10 images: the 12 beyond four each go to 20/5, 20/6, 20/7, 20/8, 20/9 and so on.
    even = [split for split, _ in sheet.spread({"train": 20, "val": 10, "test": 10})]
    assert (even.count("train"), even.count("val"), even.count("test")) == (12, 6, 6)


def test_large_images_are_drawn_small_and_small_ones_large(tmp_path):
    pixels = saved(tmp_path / "a.png", catalogue((640, 1280), (100, 100)), "category")
    assert pixels.shape[1] == 2 * SHOWN + sheet.MARGIN
    top = sheet.MARGIN + 2 * sheet.LINE
    grey = (pixels == GREY).all(-1)
    left, right = grey[:, : SHOWN + sheet.MARGIN // 2], grey[:, SHOWN + sheet.MARGIN :]
    assert left[top : top + 160, sheet.MARGIN : SHOWN].all()
    assert left.sum() == pytest.approx(320 * 160, abs=200)  # and some pixels of letters' edges
    assert right[top : top + 300, :300].all()  # three times as large
    assert right.sum() == pytest.approx(300 * 300, abs=200)
    assert (pixels[[0, -1]] == 255).all()
    assert (pixels[:, [0, -1]] == 255).all()


def test_narrow_images_stand_beside_white(tmp_path):
    pixels = saved(tmp_path / "a.png", catalogue((640, 64)), "category")
    assert pixels.shape[1] == draw.MIN_WIDTH + 2 * sheet.MARGIN
    rows = pixels[sheet.MARGIN + 2 * sheet.LINE :, sheet.MARGIN :][:320]
    assert (rows[:, :32] == GREY).all()
    assert (rows[:, 32:] == 255).all()


def test_label_maps_have_one_legend(tmp_path):
    labels = torch.full((320, 320), 2, dtype=torch.uint8)
    labels[:, 160:] = 255
    pixels = saved(tmp_path / "a.png", labelled(labels), "semantic")
    top, left = sheet.MARGIN + 2 * sheet.LINE, sheet.MARGIN
    assert (pixels[top : top + 320, left + 160 : left + 320] == GREY).all()  # ignored pixels keep their colour
    assert (pixels[top : top + 320, left : left + 160] != GREY).any(-1).all()
    foot = pixels[top + 320 + sheet.MARGIN :]
    colours = [draw.colour(i) for i in range(3)]
    assert [bool((foot == colour).all(-1).any()) for colour in colours] == [False, False, True]
    dark = saved(tmp_path / "b.png", labelled((labels == 2).to(torch.uint8) * 0), "saliency")
    assert (dark[top : top + 320, left : left + 320] == GREY // 5).all()


def test_boxes_move_with_the_image(tmp_path):
    target = Target(boxes=torch.tensor([[160.0, 160, 480, 480]]), labels=torch.tensor([1]))
    data = catalogue((640, 640))
    data.splits["train"] = [replace(data.splits["train"][0], target=target)]
    pixels = saved(tmp_path / "a.png", data, "boxes")
    rows, columns = np.nonzero((pixels[: sheet.MARGIN + 2 * sheet.LINE + 320] == draw.colour(1)).all(-1))
    label = round(1.35 * 10)  # above the box
    assert (columns.min() - sheet.MARGIN, columns.max() - sheet.MARGIN) == (80, 239)
    assert (rows.min() - 2 * sheet.LINE - sheet.MARGIN, rows.max() - 2 * sheet.LINE - sheet.MARGIN) == (80 - label, 239)


def test_an_unreadable_image_is_a_grey_square(tmp_path):
    data = catalogue((320, 320))
    data.splits["train"].append(Sample(tmp_path / "none.png", Target(label=torch.tensor(0), path="none.png")))
    pixels = saved(tmp_path / "a.png", data, "category")
    assert ((pixels == 0xEE).all(-1)).sum() > 0.9 * draw.MIN_WIDTH**2


def test_long_names_keep_their_ends():
    name = fonts.shortened(f"{'a' * 100}_0017.jpg", 200, 14)
    assert fonts.length(name, 14) <= 200
    assert name.startswith("aaaa")
    assert name.endswith("_0017.jpg")
    assert fonts.shortened("short.jpg", 200, 14) == "short.jpg"


@pytest.mark.parametrize(
    ("name", "format"), [("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")]
)
def test_formats_and_folders(tmp_path, name, format):
    assert sheet.save(str(tmp_path / "new" / name), catalogue((32, 32), split="val"), kinds.find("category")) == 1
    with Image.open(tmp_path / "new" / name) as file:
        assert file.format == format


def test_another_format(tmp_path):
    with pytest.raises(
        VertebraError, match=r"a\.gif'; a contact sheet ends in \.png, \.jpg, \.jpeg, \.webp \(a folder"
    ):
        sheet.save(str(tmp_path / "a.gif"), catalogue((32, 32)), kinds.find("category"))


def test_a_file_of_the_dataset_is_not_overwritten(tmp_path):
    path = tmp_path / "0.png"
    Image.new("RGB", (32, 32)).save(path)
    data = catalogue((32, 32))
    data.splits["train"].append(Sample(path, Target(label=torch.tensor(0), path=str(path))))
    before = path.read_bytes()
    with pytest.raises(VertebraError, match=r"0\.png is a file of the dataset and would be overwritten"):
        sheet.save(str(path), data, kinds.find("category"))
    assert path.read_bytes() == before
