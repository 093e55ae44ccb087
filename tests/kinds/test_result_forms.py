"""Forms of results with masks: what is read, and what is written back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.data.reading import read_images
from vertebra.data.segments import decode
from vertebra.errors import VertebraError
from vertebra.kinds import results
from vertebra.kinds.results import RefinedImage, read_masks
from vertebra.ops import rle
from vertebra.structures import Masks

SIZE = (40, 60)
NAMES = ("a_000000_000007_leftImg8bit", "a_000000_000012_leftImg8bit")
CATEGORIES = {24: "person", 26: "car"}


def square(x: int, y: int, side: int = 20) -> torch.Tensor:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[y : y + side, x : x + side] = True
    return mask


def encoded(mask: torch.Tensor) -> dict:
    return rle.encode(Masks.from_dense(mask[None]))[0]


def moved(data, split: str, path: Path, folder: Path) -> list[tuple[int, int]]:
    """Writes the results with the first mask of each image moved right by 3 pixels; returns image and mask counts."""
    opened = read_masks(path, data, split)
    counts = []

    def images():
        for index in range(len(data.split(split))):
            if count := opened.count(index):
                masks = opened.prediction(index).masks
                corners = [(x + 3 * (i == 0), y) for i, (x, y) in enumerate(masks.corners)]
                counts.append((index, count))
                yield RefinedImage(index, replace(masks, corners=corners), [0])

    opened.save(folder, images())
    return counts


@pytest.fixture
def folder(tmp_path) -> Path:
    """A COCO folder of two images with ids 7 and 12."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for number, name in zip((7, 12), NAMES, strict=True):
        Image.new("RGB", SIZE[::-1], (90, 90, 90)).save(root / "images" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": SIZE[1], "height": SIZE[0]})
        for category in CATEGORIES:
            x = 5 if category == 24 else 30
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            entry |= {"bbox": [x, 5, 20, 20], "area": 400, "segmentation": encoded(square(x, 5))}
            annotations.append(entry)
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    (root / "annotations/instances_val.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def data(folder):
    return read_images(folder)


def test_forms():
    assert list(results.forms()) == ["cityscapes", "coco", "folder"]


# -- COCO results


def entry(segmentation, image=7, **more) -> dict:
    return {"image_id": image, "category_id": 24, "score": 0.5, "segmentation": segmentation, **more}


POLYGON = [[5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]]
RUNS = {"size": list(SIZE), "counts": [5 * 40 + 5, *([20, 20] * 19), 20, 40 * 60 - 5 * 40 - 5 - 40 * 19 - 20]}


@pytest.mark.parametrize("segmentation", [encoded(square(5, 5)), RUNS, POLYGON], ids=["compressed", "runs", "polygon"])
def test_coco_keeps_the_form_of_a_mask(data, tmp_path, segmentation):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([entry(segmentation)]))
    assert torch.equal(read_masks(path, data, "val").prediction(0).masks[0], square(5, 5))
    (tmp_path / "out").mkdir()
    moved(data, "val", path, tmp_path / "out")
    (written,) = json.loads((tmp_path / "out/results.json").read_text())
    assert torch.equal(decode(written["segmentation"], SIZE, ""), square(8, 5))
    assert type(written["segmentation"]) is type(segmentation)
    if isinstance(segmentation, dict):
        assert type(written["segmentation"]["counts"]) is type(segmentation["counts"])


def test_coco_keeps_all_else(data, tmp_path):
    """Order, ids, unknown fields of Detectron2, MMDetection, Ultralytics and SAM; and masks that did not change."""
    unusual = {"size": list(SIZE), "counts": [0, 0, *RUNS["counts"][:-1], RUNS["counts"][-1]]}
    more = {"predicted_iou": 0.93, "stability_score": 0.97, "point_coords": [[1.5, 2.0]], "crop_box": [0, 0, 60, 40]}
    entries = [
        entry(encoded(square(30, 5)), 12, id=3, bbox=[30, 5, 20, 20], file_name="x.png", area=400),
        entry(POLYGON, 7, score=0.25, name="näme", number=12345678901234567, **more),
        entry(unusual, 7, score=1.0, nothing=None),
        entry([], 12, score=0.125),
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries))
    (tmp_path / "out").mkdir()
    assert moved(data, "val", path, tmp_path / "out") == [(0, 2), (1, 2)]
    written = json.loads((tmp_path / "out/results.json").read_text())
    assert [list(now) for now in written] == [list(before) for before in entries]
    for before, now in zip(entries, written, strict=True):
        assert {**before, "segmentation": 0} == {**now, "segmentation": 0}
    assert [now["segmentation"] == before["segmentation"] for before, now in zip(entries, written, strict=True)] == [
        False,
        False,
        True,
        True,
    ]


def test_coco_scores_and_classes(data, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([entry(POLYGON, score=0.25), entry(POLYGON, category_id=26)]))
    opened = read_masks(path, data, "val")
    assert opened.labelled
    assert opened.prediction(0).scores.tolist() == [0.25, 0.5]
    assert opened.prediction(0).labels.tolist() == [0, 1]
    sam = {"image_id": NAMES[1], "segmentation": POLYGON}
    path.write_text(json.dumps([sam | {"predicted_iou": 0.75}, sam | {"image_id": f"{NAMES[1]}.png"}]))
    opened = read_masks(path, data, "val")
    assert not opened.labelled
    assert opened.count(0) == 0
    assert opened.prediction(1).scores.tolist() == [0.75, 1.0]
    assert opened.prediction(1).labels.tolist() == [0, 0]


def test_coco_numbers_images_by_their_names_where_they_have_no_ids(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("L", SIZE[::-1]).save(tmp_path / "images/000139.png")
    data = read_images(tmp_path / "images")
    assert data.notes == [f"{tmp_path / 'images'} is a folder of 1 images without ground truth"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps([entry(POLYGON, 139, category_id=77)]))
    opened = read_masks(path, data, "val")
    assert opened.count(0) == 1
    assert not opened.labelled


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (
            [entry(POLYGON), {"image_id": 7, "category_id": 24, "score": 1}],
            "entry 1 (counted from 0) has no segmentation",
        ),
        ([entry(POLYGON), {"image_id": 7, "segmentation": POLYGON}], "has no category_id as others have"),
        ([{"segmentation": POLYGON}], "entry 0 (counted from 0) has no image_id"),
        ([entry(POLYGON, score="x")], "score is 'x', not a number"),
        ([entry(POLYGON, 5)], "no image of the val split of"),
        ([entry(POLYGON, "gone")], "has image_id 'gone'"),
        ([entry(POLYGON, category_id=99)], "has no category_id 99; there are 24, 26."),
        ([entry({"size": [4, 4], "counts": [16]})], "its mask is of size [4, 4], the image [40, 60] (height, width)"),
        ([entry({"size": list(SIZE), "counts": "~~~"})], "its run lengths are not in COCO's compressed form"),
        (
            [entry({"size": list(SIZE), "counts": [1, 2]})],
            "its run lengths add up to 3 pixels, not to the image's 2400",
        ),
        ([entry({"size": list(SIZE), "counts": [-1, 2401]})], "its run lengths are not all whole numbers"),
        ([entry({"size": list(SIZE)})], "its run lengths are missing"),
        ([entry(None)], "its segmentation is neither a list of polygons nor run lengths"),
        ([entry([[1, 2, 3]])], "a polygon of it has 3 numbers"),
        ([entry([[5, 5, 20, 20]])], "its polygon has 2 points, three or more make an area"),
        ({"annotations": []}, "is no file of COCO results"),
    ],
)
def test_coco_that_is_wrong(data, tmp_path, entries, sentence):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(VertebraError) as error:
        read_masks(path, data, "val")
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


# -- Cityscapes


@pytest.fixture
def cityscapes(tmp_path) -> Path:
    """Masks of 0 and 1 and of 0 and 255, in the folder of the text files and in one of it."""
    root = tmp_path / "pred"
    (root / "masks").mkdir(parents=True)
    Image.fromarray(square(5, 5).numpy().astype(np.uint8)).save(root / "7_0.png")
    Image.fromarray(square(30, 5).numpy().astype(np.uint8) * 255).save(root / "masks/7 1.png")
    (root / f"{NAMES[0]}_pred.txt").write_text("7_0.png 24 0.9\n\nmasks/7 1.png  26\t0.125\r\n")
    (root / "a_000000_000012.txt").write_text("")
    return root


def test_cityscapes(data, cityscapes, tmp_path):
    opened = read_masks(cityscapes, data, "val")
    assert opened.labelled
    assert [opened.count(i) for i in range(2)] == [2, 0]
    prediction = opened.prediction(0)
    assert prediction.scores.tolist() == [0.9, 0.125]
    assert prediction.labels.tolist() == [0, 1]
    assert torch.equal(prediction.masks[1], square(30, 5))
    out = tmp_path / "out"
    out.mkdir()
    moved(data, "val", cityscapes, out)
    files = sorted(str(p.relative_to(cityscapes)) for p in cityscapes.rglob("*") if p.is_file())
    assert sorted(str(p.relative_to(out / "pred")) for p in out.rglob("*") if p.is_file()) == files
    for name in files:
        if name != "7_0.png":
            assert (out / "pred" / name).read_bytes() == (cityscapes / name).read_bytes()
    written = np.asarray(Image.open(out / "pred/7_0.png"))
    assert written.dtype == np.uint8
    assert np.array_equal(written, square(8, 5).numpy())  # 0 and 1, as they were


def test_cityscapes_by_category_ids(data, cityscapes):
    """Where a dataset names its classes otherwise, as a label ID may be its category id."""
    other = replace(data, classes=("walker", "motor"))
    assert read_masks(cityscapes, other, "val").prediction(0).labels.tolist() == [0, 1]
    with pytest.raises(
        VertebraError, match=r"label ID 26, car in Cityscapes, is no class of .*; there are walker, motor"
    ):
        read_masks(cityscapes, replace(other, category_ids=(24, 25)), "val")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("7_0.png 24", "pred.txt, line 2: '7_0.png 24' is not the path of a .png, a label ID and a score."),
        ("7_0.png 24 high", "line 2: the score is 'high', not a number"),
        ("7_0.png 24 nan", "line 2: the score is 'nan', not a number"),
        ("7_9.png 24 1", "line 2: the mask '7_9.png' is not there."),
        ("../7_0.png 24 1", "line 2: '../7_0.png' lies outside of"),
        ("/etc/7.png 24 1", "line 2: '/etc/7.png' lies outside of"),
        ("7_0.png 99 1", "line 2: the label ID 99 is no class of"),
        ("small.png 24 1", "a mask of 4 x 4 pixels lies on an image of 40 x 60 (height x width)."),
        ("broken.png 24 1", "broken.png: not an image in any known format"),
    ],
)
def test_cityscapes_that_is_wrong(data, cityscapes, line, sentence):
    Image.new("L", (4, 4)).save(cityscapes / "small.png")
    (cityscapes / "broken.png").write_text("no image")
    (cityscapes / f"{NAMES[0]}_pred.txt").write_text(f"7_0.png 24 0.9\n{line}\n")
    with pytest.raises(VertebraError) as error:
        read_masks(cityscapes, data, "val")
    assert sentence in str(error.value)


def test_cityscapes_of_no_image(data, cityscapes):
    (cityscapes / "b_000000_000012.txt").write_text("")
    with pytest.raises(VertebraError, match=f"b_000000_000012.txt: no image of the val split .*is called {NAMES[0]}"):
        read_masks(cityscapes, data, "val")


# -- folders of masks


@pytest.mark.parametrize(
    ("names", "labelled"),
    [
        ((f"{NAMES[0]}.png", f"{NAMES[1]}.bmp"), False),
        (("a_000000_000007_1.png", "a_000000_000012_1.png"), False),
        ((f"{NAMES[0]}/masks/5f.png", f"{NAMES[1]}/5f.tif"), False),
        ((f"person/{NAMES[0]}_1.png", f"car/{NAMES[1]}_2.png"), True),
    ],
)
def test_mask_files(data, tmp_path, names, labelled):
    root, out = tmp_path / "masks", tmp_path / "out"
    out.mkdir()
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square(5, 5).numpy().astype(np.uint8) * 200).save(root / name)
    opened = read_masks(root, data, "val")
    assert opened.labelled == labelled
    for index in range(2):
        prediction = opened.prediction(index)
        assert torch.equal(prediction.masks[0], square(5, 5))
        assert prediction.scores.tolist() == [1.0]
        assert prediction.labels.tolist() == [index * labelled]
    assert moved(data, "val", root, out) == [(0, 1), (1, 1)]
    for name in names:
        with Image.open(out / "masks" / name) as image:
            assert np.array_equal(np.asarray(image), square(8, 5).numpy() * np.uint8(200))
            assert image.format == Image.open(root / name).format


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "I;16"])
def test_values_of_mask_files(data, tmp_path, mode):
    root, out = tmp_path / "masks", tmp_path / "out"
    root.mkdir(), out.mkdir()
    file = root / f"{NAMES[0]}.png"
    if mode == "I;16":
        Image.fromarray(square(5, 5).numpy().astype(np.uint16) * 65535).save(file)
    else:
        Image.fromarray(square(5, 5).numpy()).convert(mode).save(file)
    assert torch.equal(read_masks(root, data, "val").prediction(0).masks[0], square(5, 5))
    moved(data, "val", root, out)
    assert torch.equal(read_masks(out / "masks", data, "val").prediction(0).masks[0], square(8, 5))


def test_a_mask_file_without_a_pixel(data, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.new("L", SIZE[::-1]).save(tmp_path / f"masks/{NAMES[0]}.png")
    assert not read_masks(tmp_path / "masks", data, "val").prediction(0).masks[0].any()


def test_mask_files_that_are_wrong(data, tmp_path):
    root = tmp_path / "masks"
    root.mkdir()
    file = root / f"{NAMES[0]}.png"
    Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(SIZE) % 3).save(file)
    with pytest.raises(VertebraError, match=r"leftImg8bit.png: its pixels have 2 values beside 0; a mask has one."):
        read_masks(root, data, "val").prediction(0)
    Image.new("L", (60, 39)).save(file)
    with pytest.raises(VertebraError, match="a mask of 39 x 60 pixels lies on an image of 40 x 60"):
        read_masks(root, data, "val")
    file.rename(root / "other.png")
    with pytest.raises(VertebraError, match=r"other.png: no image of the val split of .* has a name that this begins"):
        read_masks(root, data, "val")
    (root / "other.png").rename(file.with_suffix(".jpg"))
    with pytest.raises(VertebraError, match=r"leftImg8bit.jpg: masks are read from .png, .bmp, .tif, .tiff"):
        read_masks(root, data, "val")


def test_results_in_no_form(data, tmp_path):
    with pytest.raises(VertebraError, match="gone is not there"):
        read_masks(tmp_path / "gone", data, "val")
    (tmp_path / "none").mkdir()
    with pytest.raises(
        VertebraError, match=r"none has no results with masks: Cityscapes' text files with masks, a .json"
    ):
        read_masks(tmp_path / "none", data, "val")


def test_images_of_one_name(data, tmp_path):
    """In folders of cities, say."""
    sample = data.split("val")[0]
    twice = replace(data, splits={"val": [sample, replace(sample, target=replace(sample.target, id=8))]})
    (tmp_path / "masks").mkdir()
    Image.new("L", SIZE[::-1]).save(tmp_path / f"masks/{NAMES[0]}_1.png")
    with pytest.raises(VertebraError, match=f"2 images of the val split of .* are called {NAMES[0]}"):
        read_masks(tmp_path / "masks", twice, "val")
