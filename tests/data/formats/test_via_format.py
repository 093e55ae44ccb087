"""VGG Image Annotator's projects, annotations and CSV to samples, of versions 1 and 2."""

import csv
import io
import json
import math
import re

import pytest

from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError

COLUMNS = ("region_shape_attributes", "region_attributes")


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def rect(x=2, y=3, width=4, height=5):
    return {"name": "rect", "x": x, "y": y, "width": width, "height": height}


def polygon(*points, name="polygon"):
    return {"name": name, "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}


def annotations(*regions, name="a.jpg", **attributes):
    return {f"{name}1234": {"filename": name, "size": 1234, "regions": list(regions), "file_attributes": attributes}}


def project(images, folder=""):
    return {
        "_via_settings": {"ui": {}, "core": {"buffer_size": 18, "default_filepath": folder}, "project": {"name": "p"}},
        "_via_img_metadata": images,
        "_via_attributes": {"region": {"class": {"type": "dropdown"}}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(images),
    }


@pytest.fixture
def via(tmp_path, save_image):
    """Writes a file beside a.jpg, and returns their folder."""

    def write(content, file="via_project.json", images=("a.jpg",)):
        for name in images:
            save_image(name)
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return write


@pytest.mark.parametrize("form", [project, lambda images: images], ids=["project", "annotations"])
def test_boxes_and_polygons(via, read_one, mask_of, form):
    square = polygon((2, 3), (6, 3), (6, 5), (2, 5))
    path = via(form(annotations(region(rect(), **{"class": "dog"}), region(square, **{"class": "cat"}))))
    catalogue, sample = read_one(path)
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("via", ("cat", "dog"), {"boxes", "masks"})
    assert sample.target.boxes.tolist() == [[2, 3, 6, 8], [2, 3, 6, 5]]
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.target.areas.tolist() == [20, 8]
    assert mask_of(sample, 1)[3:5] == ["..####" + 14 * "."] * 2
    assert sample.target.size == (10, 20)  # of the image's file
    assert catalogue.problems == []


def test_circles_and_ellipses(via, read_one):
    circle = {"name": "circle", "cx": 8, "cy": 5, "r": 3}
    ellipse = {"name": "ellipse", "cx": 8, "cy": 5, "rx": 4, "ry": 1, "theta": math.pi / 2}
    _, sample = read_one(via(annotations(region(circle), region(ellipse))), "masks")
    assert sample.target.boxes.flatten().tolist() == pytest.approx([5, 2, 11, 8, 7, 1, 9, 9])
    assert sample.target.areas.tolist() == pytest.approx([math.pi * 9, math.pi * 4])
    assert sample.load_target((10, 20)).masks[1][2:8, 7:9].all()


def test_a_closed_polyline_is_a_polygon(via, read_one):
    line = polygon((2, 3), (6, 3), (6, 5), (2, 5), (2, 3), name="polyline")
    assert read_one(via(annotations(region(line))), "masks")[1].target.areas.tolist() == [8]


def test_version_1_numbers_its_regions(via, read_one):
    content = annotations()
    content["a.jpg1234"]["regions"] = {"0": region(rect(), name="cat")}
    catalogue, sample = read_one(via(content))
    assert (catalogue.classes, sample.target.boxes.tolist()) == (("cat",), [[2, 3, 6, 8]])


@pytest.mark.parametrize("first", ["filename", "#filename"])
def test_csv(via, read_one, first):
    rows = [
        [first, "file_size", "file_attributes", "region_count", "region_id", *COLUMNS],
        ["a.jpg", "1234", "{}", "2", "0", json.dumps(rect()), '{"class":"dog"}'],
        ["a.jpg", "1234", "{}", "2", "1", json.dumps(polygon((2, 3), (6, 3), (6, 5), (2, 5))), '{"class":"cat"}'],
        ["b.jpg", "1234", "{}", "0", "0", "{}", "{}"],
    ]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path = via(text.getvalue(), "via_region_data.csv", ("a.jpg", "b.jpg"))
    a, b = read(path).splits["train"]
    assert a.target.boxes.tolist() == [[2, 3, 6, 8], [2, 3, 6, 5]]
    assert len(b.target.boxes) == 0
    assert read(path).classes == ("cat", "dog")
    assert read(path / "via_region_data.csv").format == "via"


def test_regions_without_attributes_are_of_one_class(via):
    catalogue = read(via(annotations(region(rect()))))
    assert catalogue.classes == ("object",)
    assert "its regions have no attributes: all are of one class, 'object'" in catalogue.notes


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"species": "cat"}, "cat"),
        ({"species": "cat", "Label": "dog"}, "dog"),
        ({"type": "ant", "name": "bee"}, "bee"),
        ({"type": "ant", "class": "bee"}, "bee"),
        ({"class": {"cat": True, "dog": False}}, "cat"),
    ],
)
def test_the_attribute_that_is_the_class(via, attributes, name):
    assert read(via(annotations(region(rect(), **attributes)))).classes == (name,)


def test_an_ambiguous_attribute(via):
    path = via(annotations(region(rect(), species="cat", colour="red")))
    with pytest.raises(
        VertebraError, match=r"its regions have 2 attributes \('species, colour'\); the class is read from"
    ):
        read(path)


def test_file_attributes_are_classes_of_whole_images(via):
    images = {**annotations(name="a.jpg", **{"class": "dog"}), **annotations(name="b.jpg", **{"class": "cat"})}
    catalogue = read(via(images, images=("a.jpg", "b.jpg")))
    assert (catalogue.classes, catalogue.has) == (("cat", "dog"), {"label"})
    assert [sample.label for sample in catalogue.splits["train"]] == [1, 0]


@pytest.mark.parametrize("place", ["a.jpg", "images/a.jpg", "pics/a.jpg"])
def test_places_of_images(via, read_one, place):
    path = via(project(annotations(region(rect())), folder="./pics/"), images=(place,))
    assert read_one(path)[1].image == path / place


def test_splits(via):
    via(annotations(region(rect())), "train/via_region_data.json", ("train/a.jpg",))
    path = via(annotations(region(rect())), "val/via_region_data.json", ("val/a.jpg",))
    assert {split: len(samples) for split, samples in read(path).splits.items()} == {"train": 1, "val": 1}


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (
            region({"name": "point", "cx": 1, "cy": 2}, c="x"),
            "its shape is 'point'; rect, polygon, circle and ellipse are",
        ),
        (region(polygon((1, 1), (3, 3), name="polyline"), c="x"), "it is an open polyline, which encloses no area"),
        (region({"name": "rect", "x": 1}, c="x"), "it has no y"),
        (region(rect(x="a"), c="x"), "its x is 'a', a number is expected"),
        (region({"name": "circle", "cx": 1, "cy": 2, "r": -1}, c="x"), "its radii are -1 and -1"),
        (
            region({"name": "polygon", "all_points_x": [1], "all_points_y": []}, c="x"),
            "its all_points_x and all_points_y",
        ),
        (region(rect(), c=""), "it has no attribute 'c'"),
        (region(rect(), c={"a": True, "b": True}), "its 'c' has 2 values set, one is expected"),
        (region(rect()), "it has no attribute 'c'"),
        (region(None, c="x"), "its shape is None, a JSON object is expected"),
        (5, "its region is 5, a JSON object is expected"),
        (region(rect(x=40), c="x"), "its box from 40, 3 to 44, 8 is outside the image"),
    ],
)
def test_regions_that_are_invalid_are_skipped(via, wrong, fault):
    path = via(annotations(region(rect(), c="x"), wrong))
    (problem,) = read(path).problems
    expected = rf"{path}/via_project\.json, image 'a\.jpg1234', region 2 is skipped: {re.escape(fault)}"
    assert re.match(expected, problem)


def test_images_that_are_invalid_are_skipped(via):
    images = annotations(region(rect())) | {"b": 5, "c": {"size": 1}} | annotations(region(rect()), name="d.jpg")
    path = via(images)
    file = path / "via_project.json"
    assert read(path).problems == [
        f"{file}, image 'b' is skipped: its entry is 5, a JSON object is expected.",
        f"{file}, image 'c' is skipped: it has no filename.",
        f"{file}, image 'd.jpg1234' is skipped with its 1 annotations: {path / 'd.jpg'} is not there.",
    ]


def test_conversion(via, tmp_path, capsys):
    via(annotations(region(rect())), "x/via.json", ("x/a.jpg",))
    main(["data", str(tmp_path / "x")])
    assert "via" in capsys.readouterr().out
    main(["data", "convert", str(tmp_path / "x"), "--to=yolo", f"--save={tmp_path / 'yolo'}"])
    (sample,) = read(tmp_path / "yolo").splits["train"]
    assert sample.target.boxes.flatten().tolist() == pytest.approx([2, 3, 6, 8])
