"""LabelMe's JSON to samples, as labelme 5 and X-AnyLabeling write it, and a sentence for what is wrong with it."""

import base64
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from vertebra.cli import main
from vertebra.data import open_data
from vertebra.data.formats import labelme
from vertebra.data.reading import read
from vertebra.errors import VertebraError


def shape(label, kind, points, **more):
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
    } | more


def content(*shapes, **more):
    stated = {"imagePath": "a.jpg", "imageData": None, "imageHeight": 10, "imageWidth": 20}
    return {"version": "5.5.0", "flags": {}, "shapes": list(shapes)} | stated | more


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def labelled(tmp_path, save_image):
    """Writes a.json beside a.jpg, and returns their folder."""

    def write(*shapes, name="a", image=True, **more):
        if image:
            save_image(f"{name}.jpg")
        stated = content(*shapes, **({"imagePath": f"{name.rpartition('/')[2]}.jpg"} | more))
        (tmp_path / f"{name}.json").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.json").write_text(json.dumps(stated))
        return tmp_path

    return write


def test_boxes_and_polygons(labelled, read_one, mask_of):
    polygon = [[2, 3], [6, 3], [6, 5], [2, 5]]
    path = labelled(shape("dog", "rectangle", [[9.5, 8], [5, 2]]), shape("cat", "polygon", polygon))
    catalogue, sample = read_one(path)
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("labelme", ("cat", "dog"), {"boxes", "masks"})
    assert sample.image == path / "a.jpg"
    assert sample.target.boxes.tolist() == [[5, 2, 9.5, 8], [2, 3, 6, 5]]
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.target.areas.tolist() == [27, 8]
    assert mask_of(sample, 1)[3:5] == ["..####" + 14 * "."] * 2
    assert catalogue.problems == []


def test_circles(labelled, read_one):
    _, sample = read_one(labelled(shape("sun", "circle", [[8, 5], [11, 9]])), "masks")  # radius 5
    assert sample.target.boxes.tolist() == [[3, 0, 13, 10]]
    assert sample.target.areas.item() == pytest.approx(math.pi * 25)
    assert int(sample.load_target((10, 20)).masks[0].sum()) == pytest.approx(math.pi * 25, abs=4)


def test_masks(labelled, read_one, mask_of):
    mask = encoded(Image.fromarray(np.array([[1, 0, 1], [1, 1, 1]], bool)))
    _, sample = read_one(labelled(shape("cat", "mask", [[4, 2], [6, 3]], mask=mask)), "masks")
    assert sample.target.boxes.tolist() == [[4, 2, 7, 4]]
    assert sample.target.areas.tolist() == [5]
    assert mask_of(sample, 0)[2:4] == ["....#.#" + 13 * ".", "....###" + 13 * "."]


def test_a_mask_that_leaves_the_image_is_cropped(labelled, read_one, mask_of):
    mask = encoded(Image.fromarray(np.ones((3, 3), bool)))
    _, sample = read_one(labelled(shape("cat", "mask", [[-1, 8], [1, 10]], mask=mask)), "masks")
    assert sample.target.boxes.tolist() == [[0, 8, 2, 10]]
    assert mask_of(sample, 0)[8:] == ["##" + 18 * "."] * 2


def test_points_of_a_group_are_keypoints(labelled, read_one):
    path = labelled(
        shape("person", "rectangle", [[1, 1], [9, 9]], group_id=1),
        shape("left_eye", "point", [[3, 2]], group_id=1),
        shape("right_eye", "point", [[6, 2.5]], group_id=1, difficult=True),
        shape("person", "rectangle", [[10, 1], [19, 9]], group_id=2),
        shape("left_eye", "point", [[12, 2]], group_id=2),
    )
    catalogue, sample = read_one(path, "keypoints")
    assert (catalogue.keypoints.names, catalogue.keypoints.flip_indices) == (("left_eye", "right_eye"), (1, 0))
    assert sample.target.keypoints.tolist() == [[[3, 2, 2], [6, 2.5, 1]], [[12, 2, 2], [0, 0, 0]]]


def test_polygons_of_a_group_are_one_object(labelled, read_one):
    parts = [[[0, 0], [2, 0], [2, 2], [0, 2]], [[4, 4], [6, 4], [6, 6], [4, 6]]]
    _, sample = read_one(labelled(*(shape("cat", "polygon", part, group_id=7) for part in parts)), "masks")
    assert sample.target.boxes.tolist() == [[0, 0, 6, 6]]
    assert sample.target.areas.tolist() == [8]


def test_flags_are_classes_of_whole_images(labelled):
    labelled(name="a", flags={"cat": True, "dog": False})
    labelled(name="b", flags={"cat": False, "dog": True})
    labelled(name="c", flags={"cat": False, "dog": False})
    labelled(name="d", flags={"cat": True, "dog": True})
    path = labelled(name="e", flags={})
    catalogue = read(path, fields={"label"})
    assert (catalogue.classes, catalogue.has) == (("cat", "dog"), {"label"})
    assert [sample.label for sample in catalogue.splits["train"]] == [0, 1]
    assert catalogue.problems == [f"{path / name}.json is skipped: it has no class." for name in "cde"]
    assert catalogue.notes == ["images with several flags set, which therefore have no class as a whole: 1"]


def test_objects_come_before_flags_unless_these_are_needed(labelled):
    labelled(shape("x", "rectangle", [[1, 1], [5, 5]]), name="a", flags={"cat": True})
    path = labelled(shape("x", "rectangle", [[1, 1], [5, 5]]), name="b", flags={"dog": True})
    assert read(path).has == {"boxes"}
    assert "2 images have a class as a whole too, which classification learns" in read(path).notes
    assert read(path, fields={"label"}).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["a", "b"], {"train": 2}),
        (["train/a", "valid/b", "test/c"], {"train": 1, "val": 1, "test": 1}),
        (["test/c"], {"test": 1}),
        (["annotations/a"], {"train": 1}),
    ],
)
def test_places(labelled, names, splits):
    for name in names:
        path = labelled(shape("cat", "rectangle", [[1, 1], [5, 5]]), name=name)
    assert {split: len(samples) for split, samples in read(path).splits.items()} == splits


def test_images_in_a_folder_beside_the_labels(labelled, save_image, read_one):
    path = labelled(
        shape("cat", "rectangle", [[1, 1], [5, 5]]), name="labels/train/a", image=False, imagePath="x/a.jpg"
    )
    image = save_image("images/train/a.jpg")
    _, sample = read_one(path, "boxes")
    assert sample.image == image


def test_an_image_that_was_renamed_with_its_file(labelled, read_one):
    path = labelled(shape("cat", "rectangle", [[1, 1], [5, 5]]), imagePath="C:\\old\\IMG_1.jpg")
    assert read_one(path, "boxes")[1].image == path / "a.jpg"


def test_an_image_inside_of_the_file(labelled, read_one):
    data = encoded(Image.new("RGB", (20, 10), (9, 8, 7)))
    path = labelled(shape("cat", "rectangle", [[1, 1], [5, 5]]), image=False, imageData=data)
    _, sample = read_one(path, "boxes")
    assert sample.image.shape == (3, 10, 20)
    assert sample.image[:, 0, 0].tolist() == [9, 8, 7]
    assert sample.target.size == (10, 20)


def test_images_inside_of_files_are_bounded(labelled, monkeypatch):
    monkeypatch.setattr(labelme, "MAX_EMBEDDED", 100)
    data = encoded(Image.new("RGB", (20, 10)))
    path = labelled(shape("cat", "rectangle", [[1, 1], [5, 5]]), image=False, imageData=data)
    with pytest.raises(VertebraError, match="put the image files beside the JSON files"):
        read(path)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (
            shape("way", "line", [[1, 2], [3, 4]]),
            "its shape_type is 'line'; polygon, rectangle, circle, mask and point",
        ),
        (
            shape("nose", "point", [[1, 2]]),
            "a point is a keypoint of the object with its group_id, but it has no group",
        ),
        (shape("nose", "point", [[1, 2], [3, 4]], group_id=1), "its keypoint 'nose' has 2 points, one is expected"),
        (shape("nose", "point", [[1, 2]], group_id=9), "but it has the group_id of 0 objects"),
        (shape("cat", "rectangle", [[1, 2]]), "it has 1 points, 2 are expected"),
        (shape("cat", "polygon", [[1, 2], [3]]), r"its points is not a list of \[x, y\]"),
        (shape("cat", "polygon", [[1, 2], [3, "x"], [4, 4]]), "its points is 'x', a number is expected"),
        (shape("cat", "rectangle", [[1, 2], [3, math.nan]]), "its points is nan, a number up to 1e"),
        (shape("cat", "rectangle", [[1, 2], [3, True]]), "its points is True, a number is expected"),
        (shape("cat", "mask", [[1, 2], [3, 4]], mask="####"), "its mask cannot be decoded"),
        (shape("cat", "mask", [[1, 2], [3, 4]]), "its mask cannot be decoded"),
        (shape("", "rectangle", [[1, 2], [3, 4]]), "it has no label"),
        (shape(5, "rectangle", [[1, 2], [3, 4]]), "its label is 5, text is expected"),
        (7, "its shape is 7, a JSON object is expected"),
        (shape("cat", "rectangle", [[30, 2], [33, 4]]), "its box from 30, 2 to 33, 4 is outside the image"),
    ],
)
def test_shapes_that_are_invalid_are_skipped(labelled, wrong, fault):
    path = labelled(shape("dog", "rectangle", [[5, 2], [9, 8]], group_id=1), wrong)
    catalogue = read(path)
    (problem,) = catalogue.problems
    assert problem.startswith(f"{path / 'a.json'}, shape 2 is skipped: ")
    assert re.search(fault, problem)
    assert sum(len(sample.target.labels) for sample in catalogue.splits["train"]) == 1


def test_what_is_skipped_or_ignored_is_listed(labelled, save_image):
    labelled(shape("cat", "rectangle", [[1, 1], [5, 5]]), name="a")
    labelled(shape("cat", "rectangle", [[1, 1], [5, 5]]), name="b", image=False)
    path = labelled(shape("cat", "rectangle", [[1, 1], [5, 5]]), name="c", imageHeight=-3)
    save_image("d.jpg")
    (path / "settings.json").write_text("{}")
    catalogue = read(path)
    assert catalogue.problems == [
        f"{path / 'c.json'} is skipped: its size is 20 x -3, 1 to 178,956,970 pixels are expected.",
        f"{path / 'b.json'} is skipped with its 1 annotations: {path / 'b.jpg'} is not there.",
    ]
    assert catalogue.notes == [
        "images of the train split without a JSON file, which are ignored: 2",
        f"ignored, not LabelMe's: 1 JSON files, {path / 'settings.json'} for one",
    ]


def test_a_file_that_is_cut_short(labelled):
    path = labelled(shape("cat", "rectangle", [[1, 1], [5, 5]]))
    (path / "a.json").write_text((path / "a.json").read_text()[:-20])
    with pytest.raises(VertebraError, match=r"a\.json, line 1: not valid JSON"):
        open_data(path)


def test_a_folder_is_inspected_and_converted(labelled, tmp_path, capsys):
    path = labelled(shape("dog", "rectangle", [[5, 2], [9, 8]]), name="data/a")
    labelled(shape("cat", "polygon", [[1, 1], [5, 1], [5, 5]]), name="data/b")
    main(["data", str(path / "data")])
    assert "labelme" in capsys.readouterr().out
    main(["data", "convert", str(path / "data"), "--to=coco", f"--save={tmp_path / 'coco'}"])
    again = read(tmp_path / "coco")
    assert [sample.target.boxes.tolist() for sample in again.splits["train"]] == [[[5, 2, 9, 8]], [[1, 1, 5, 5]]]
