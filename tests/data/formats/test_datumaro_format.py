"""Datumaro's JSON to samples, as CVAT and Datumaro export it."""

import json
import re

import pytest

from vertebra.data.reading import read
from vertebra.errors import VertebraError

LABELS = [
    {"name": name, "parent": parent, "attributes": []} for name, parent in (("dog", ""), ("cat", ""), ("ear", "cat"))
]


def annotation(kind, label=1, **more):
    return {
        "id": 0,
        "type": kind,
        "attributes": {"occluded": False},
        "group": 0,
        "label_id": label,
        "z_order": 0,
    } | more


def box(**more):
    return annotation("bbox", bbox=[2.0, 3.0, 4.0, 5.0], **more)


def item(*annotations, name="a", image=True):
    stated = {"image": {"path": f"{name}.jpg", "size": [10, 20]}} if image else {}
    return {"id": name, "annotations": list(annotations), "attr": {"frame": 0}} | stated


@pytest.fixture
def datumaro(tmp_path, save_image):
    """Writes annotations/SUBSET.json and images/SUBSET/a.jpg, and returns their folder."""

    def write(*items, subset="default", images=("a.jpg",), labels=LABELS):
        for name in images:
            save_image(f"images/{subset}/{name}")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        content = {"info": {}, "categories": {"label": {"labels": labels, "attributes": []}}, "items": list(items)}
        (tmp_path / "annotations" / f"{subset}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_boxes_polygons_and_masks(datumaro, read_one, mask_of):
    polygon = annotation("polygon", 0, points=[2.0, 3.0, 6.0, 3.0, 6.0, 5.0, 2.0, 5.0])
    mask = annotation("mask", 0, rle={"counts": [21, 3, 7, 3, 166], "size": [10, 20]})  # columns 2 and 3, rows 1 to 3
    catalogue, sample = read_one(datumaro(item(box(), polygon, mask)))
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("datumaro", ("dog", "cat"), {"boxes", "masks"})
    assert sample.target.boxes.tolist() == [[2, 3, 6, 8], [2, 3, 6, 5], [2, 1, 4, 4]]
    assert sample.target.areas.tolist() == [20, 8, 6]
    assert mask_of(sample, 2)[1:4] == ["..##" + 16 * "."] * 3
    assert catalogue.problems == []


def test_rotated_boxes_and_ellipses(datumaro, read_one):
    turned = annotation("bbox", bbox=[4, 4, 6, 2], attributes={"rotation": 90.0})
    ellipse = annotation("ellipse", points=[4, 3, 16, 7])
    _, sample = read_one(datumaro(item(turned, ellipse)))
    assert sample.target.boxes.flatten().tolist() == pytest.approx([6, 2, 8, 8, 4, 3, 16, 7])


def test_keypoints(datumaro, read_one):
    points = annotation("points", points=[2, 3, 6, 5, 0, 0], visibility=[2, 1, 0])
    catalogue, sample = read_one(datumaro(item(points)), "keypoints")
    assert catalogue.keypoints.names == ("0", "1")
    assert sample.target.keypoints.tolist() == [[[2, 3, 2], [6, 5, 1]]]
    assert sample.target.boxes.tolist() == [[2, 3, 6, 5]]


def test_skeletons(datumaro, read_one):
    labels = [*LABELS, {"name": "tail", "parent": "cat"}]
    parts = [
        annotation("points", 2, points=[2, 3], visibility=[2]),
        annotation("points", 3, points=[6, 5], visibility=[1]),
    ]
    catalogue, sample = read_one(datumaro(item(annotation("skeleton", elements=parts)), labels=labels), "keypoints")
    assert catalogue.keypoints.names == ("ear", "tail")
    assert sample.target.keypoints.tolist() == [[[2, 3, 2], [6, 5, 1]]]


def test_labels_are_classes_of_whole_images(datumaro):
    items = [item(annotation("label", label), name=name) for label, name in ((0, "a"), (1, "b"))]
    catalogue = read(datumaro(*items, images=("a.jpg", "b.jpg")))
    assert (catalogue.classes, [sample.label for sample in catalogue.splits["train"]]) == (("cat", "dog"), [1, 0])


def test_subsets_are_splits(datumaro):
    datumaro(item(box()), subset="train")
    path = datumaro(item(box(), image=False), subset="val")
    splits = read(path).splits
    assert {split: str(s[0].image.relative_to(path)) for split, s in splits.items()} == {
        "train": "images/train/a.jpg",
        "val": "images/val/a.jpg",
    }


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (
            annotation("polyline", points=[1, 2, 3, 4]),
            "its type is 'polyline'; bbox, polygon, ellipse, mask, points, skel",
        ),
        (annotation("bbox", bbox=[1, 2, 3]), "its bbox is [1, 2, 3], 4 numbers are expected"),
        (annotation("bbox", bbox=[1, 2, "x", 3]), "its bbox is 'x', a number is expected"),
        (box() | {"label_id": 9}, "its label_id is 9, 0 to 2 are expected"),
        (box() | {"label_id": None}, "its label_id is None, 0 to 2 are expected"),
        (annotation("polygon", points=[1, 2, 3]), "its points is [1, 2, 3], pairs of x and y as numbers are expected"),
        (annotation("mask", rle={"counts": [7], "size": [10, 20]}), "its run lengths add up to 7 pixels, not to the"),
        (annotation("mask", rle={"counts": [200], "size": [10, 20]}), "its mask has no pixel"),
        (annotation("skeleton"), "it has no points"),
        (5, "its annotation is 5, a JSON object is expected"),
    ],
)
def test_annotations_that_are_invalid_are_skipped(datumaro, wrong, fault):
    path = datumaro(item(box(), wrong))
    (problem,) = read(path).problems
    assert re.match(rf"{path}/annotations/default\.json, item 1, annotation 2 is skipped: {re.escape(fault)}", problem)


def test_items_that_are_invalid_are_skipped(datumaro):
    path = datumaro(item(box()), 5, item(box(), name=""), item(box(), name="b"), {"id": "c", "annotations": 3})
    file = path / "annotations" / "default.json"
    assert read(path).problems == [
        f"{file}, item 2 is skipped: its item is 5, a JSON object is expected.",
        f"{file}, item 3 is skipped: it has no id.",
        f"{file}, item 5 is skipped: its annotations are 3, a list is expected.",
        f"{file}, item 4 is skipped with its 1 annotations: {path / 'images' / 'b.jpg'} is not there.",
    ]


@pytest.mark.parametrize("labels", [5, [5], [{"x": 1}]])
def test_files_that_are_invalid_are_explained(datumaro, labels):
    with pytest.raises(VertebraError, match=r"default\.json is not Datumaro's JSON: categories\.label\.labels"):
        read(datumaro(item(box()), labels=labels))
