"""CreateML's JSON to samples, as Roboflow and Apple write it."""

import json
import re

import pytest

from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError


def item(label="cat", x=5.5, y=4, width=5, height=6):
    return {"label": label, "coordinates": {"x": x, "y": y, "width": width, "height": height}}


@pytest.fixture
def createml(tmp_path, save_image):
    """Writes _annotations.createml.json beside a.jpg in each split, and returns the folder of all."""

    def write(content, *splits, images=("a.jpg",), file="_annotations.createml.json"):
        for split in splits or ("train",):
            for name in images:
                save_image(f"{split}/{name}")
            (tmp_path / split / file).write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return write


@pytest.mark.parametrize(("image", "annotations"), [("image", "annotations"), ("imagefilename", "annotation")])
def test_boxes_are_given_by_their_centres(createml, read_one, image, annotations):
    path = createml([{image: "a.jpg", annotations: [item(), item("ant", 10, 5, 4, 2)]}])
    catalogue, sample = read_one(path)
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("createml", ("ant", "cat"), {"boxes"})
    assert sample.target.boxes.tolist() == [[3, 1, 8, 7], [8, 4, 12, 6]]
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.target.areas.tolist() == [30, 8]


def test_splits(createml):
    path = createml([{"image": "a.jpg", "annotations": [item()]}], "train", "valid", "test")
    assert {split: len(samples) for split, samples in read(path).splits.items()} == {"train": 1, "val": 1, "test": 1}
    assert list(read(path / "valid").splits) == ["train"]
    assert list(read(path / "valid" / "_annotations.createml.json").splits) == ["train"]


def test_images_without_objects(createml):
    content = [{"image": "b.jpg", "annotations": []}, {"annotations": [item()], "image": "a.jpg"}]
    catalogue = read(createml(content, images=("a.jpg", "b.jpg")))
    assert [len(sample.target.boxes) for sample in catalogue.splits["train"]] == [0, 1]


def test_classes_of_whole_images(createml):
    content = [{"image": f"{name}.jpg", "annotations": name} for name in ("dog", "cat")]
    catalogue = read(createml(content, images=("dog.jpg", "cat.jpg")), fields={"label"})
    assert (catalogue.classes, catalogue.has) == (("cat", "dog"), {"label"})
    assert [sample.label for sample in catalogue.splits["train"]] == [1, 0]


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"label": "cat"}, "its coordinates is None, a JSON object is expected"),
        ({**item(), "label": None}, "it has no label"),
        (item(x="5.x"), "its x is '5.x', a number is expected"),
        (item(width=10**400), "its width is inf, a number up to 1e"),
        (item(width=-3), "its box is -3 x 6 pixels (width x height)"),
        (3, "its annotation is 3, a JSON object is expected"),
    ],
)
def test_annotations_that_are_invalid_are_skipped(createml, wrong, fault):
    path = createml([{"image": "a.jpg", "annotations": [item(), wrong]}])
    (problem,) = read(path).problems
    where = re.escape(f"{path / 'train' / '_annotations.createml.json'}, image 1, annotation 2 is skipped: {fault}")
    assert re.match(where, problem)


def test_images_that_are_invalid_are_skipped(createml):
    content = [{"image": "a.jpg", "annotations": [item()]}, {"image": "b.jpg", "annotations": [item()]}, 7]
    path = createml([*content, content[0], {"image": 5, "annotations": []}])
    file = path / "train" / "_annotations.createml.json"
    assert read(path).problems == [
        f"{file}, image 3 is skipped: its entry is 7, a JSON object is expected.",
        f"{file}, image 5 is skipped: its image is 5, text is expected.",
        f"{file}, image 2 is skipped with its 1 annotations: {path / 'train' / 'b.jpg'} is not there.",
        f"{file}, image 4 is skipped with its 1 annotations: {path / 'train' / 'a.jpg'} is listed twice.",
    ]


@pytest.mark.parametrize(
    "name", ["a/" * 50_000, "x" * 100_000, "..", "../../../../etc/passwd", "b\n\0.jpg", "\ud800.jpg", "/"]
)
def test_names_that_are_no_images(createml, name):
    path = createml([{"image": "a.jpg", "annotations": [item()]}, {"image": name, "annotations": [item()]}])
    (problem,) = read(path).problems
    assert "image 2 is skipped" in problem
    assert len(problem) < 1000
    assert problem.isprintable()


def test_a_file_that_is_cut_short(createml):
    path = createml(json.dumps([{"image": "a.jpg", "annotations": [item()]}])[:-5])
    with pytest.raises(VertebraError, match=r"createml\.json, line 1: not valid JSON"):
        read(path)


def test_conversion(createml, tmp_path, capsys):
    path = createml([{"image": "a.jpg", "annotations": [item()]}], "x/train", "x/valid") / "x"
    main(["data", str(path)])
    assert "createml" in capsys.readouterr().out
    main(["data", "convert", str(path), "--to=coco", f"--save={tmp_path / 'coco'}"])
    (sample,) = read(tmp_path / "coco").splits["val"]
    assert sample.target.boxes.tolist() == [[3, 1, 8, 7]]
