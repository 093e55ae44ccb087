"""Label Studio's JSON and JSON-MIN to samples, as its exports have them."""

import json
import math
import re

import numpy as np
import pytest

from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError

SIZE = {"original_width": 20, "original_height": 10, "image_rotation": 0}


def result(kind, value, id="r1", **more):
    return (
        {"id": id, "type": kind, "value": value, "origin": "manual", "to_name": "image", "from_name": "label"}
        | SIZE
        | more
    )


def rectangle(label="cat", x=10.0, y=20.0, width=25.0, height=40.0, rotation=0, **more):
    sides = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return result("rectanglelabels", sides | {"rectanglelabels": [label]}, **more)


def task(*results, image="/data/upload/3/0a1b2c3d-a.jpg", number=7, **more):
    annotation = {"id": 1, "completed_by": 1, "result": list(results), "was_cancelled": False, "ground_truth": False}
    upload = image.rpartition("/")[2]
    whole = {
        "id": number,
        "annotations": [annotation],
        "file_upload": upload,
        "predictions": [],
        "data": {"image": image},
    }
    return whole | more


@pytest.fixture
def label_studio(tmp_path, save_image):
    """Writes an export beside images/, and returns their folder."""

    def write(*tasks, images=("images/0a1b2c3d-a.jpg",), file="project-1-at-2024-01-01.json"):
        for name in images:
            save_image(name)
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(json.dumps(list(tasks)))
        return tmp_path

    return write


def test_boxes_and_polygons_are_in_percent(label_studio, read_one, mask_of):
    points = [[10, 30], [30, 30], [30, 50], [10, 50]]
    polygon = result("polygonlabels", {"points": points, "closed": True, "polygonlabels": ["ant"]}, id="r2")
    catalogue, sample = read_one(label_studio(task(rectangle(), polygon)))
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("label_studio", ("ant", "cat"), {"boxes", "masks"})
    assert sample.target.boxes.tolist() == [[2, 2, 7, 6], [2, 3, 6, 5]]
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.target.areas.tolist() == [20, 8]
    assert mask_of(sample, 1)[3:5] == ["..####" + 14 * "."] * 2
    assert catalogue.problems == []


def test_a_box_turns_about_its_top_left_corner(label_studio, read_one):
    catalogue, sample = read_one(label_studio(task(rectangle(x=50, y=20, rotation=90))), "boxes")  # 10, 2, 5 x 4
    assert sample.target.boxes.flatten().tolist() == pytest.approx([6, 2, 10, 7])
    assert "rotated boxes, read as the boxes around them: 1" in catalogue.notes


def test_ellipses(label_studio, read_one):
    value = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 10, "rotation": 90, "ellipselabels": ["cat"]}
    _, sample = read_one(label_studio(task(result("ellipselabels", value))), "masks")
    assert sample.target.boxes.flatten().tolist() == pytest.approx([9, 1, 11, 9])
    assert sample.target.areas.item() == pytest.approx(4 * math.pi)


def packed(values, lengths=(3, 4, 8, 16)):
    """Values of one byte in rle-pack: runs of equal values, and one literal run for the last three."""
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{length - 1:04b}" for length in lengths)
    values, rest = values[:-3], values[-3:]
    start = 0
    while start < len(values):
        stop = start
        while stop < len(values) and values[stop] == values[start] and stop - start < 256:
            stop += 1
        kind = 0 if stop - start <= 8 else 2
        bits += "1" + f"{kind:02b}" + f"{stop - start - 1:0{lengths[kind]}b}" + f"{values[start]:08b}"
        start = stop
    bits += "0" + "00" + f"{len(rest) - 1:03b}" + "".join(f"{value:08b}" for value in rest)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_brush_masks(label_studio, read_one, mask_of):
    mask = np.zeros((10, 20), np.uint8)
    mask[4, 3:9] = mask[6, 19] = mask[9, 19] = 255
    rle = packed(np.repeat(mask.ravel(), 4).tolist())
    value = {"format": "rle", "rle": rle, "brushlabels": ["cat"]}
    catalogue, sample = read_one(label_studio(task(result("brushlabels", value))), "masks")
    assert catalogue.problems == []
    assert (sample.load_target((10, 20)).masks[0].numpy() == (mask > 0)).all()
    assert sample.target.boxes.tolist() == [[3, 4, 20, 10]]
    assert sample.target.areas.tolist() == [8]


def test_keypoints_belong_to_their_parents(label_studio, read_one):
    def point(label, x, y, **more):
        return result("keypointlabels", {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}, **more)

    path = label_studio(
        task(
            rectangle(id="one"),
            rectangle(id="two", x=50),
            point("nose", 20, 30, id="p1", parentID="two"),
            point("tail", 60, 40, id="p2", parentID="one"),
            point("nose", 70, 50, id="p3", parentID="one"),
        )
    )
    catalogue, sample = read_one(path, "keypoints")
    assert catalogue.keypoints.names == ("nose", "tail")
    assert sample.target.keypoints.tolist() == [[[14, 5, 2], [12, 4, 2]], [[4, 3, 2], [0, 0, 0]]]


def test_a_rectangle_and_its_label_may_be_two_results(label_studio, read_one):
    sides = {"x": 10, "y": 20, "width": 25, "height": 40, "rotation": 0}
    path = label_studio(task(result("rectangle", sides), result("labels", sides | {"labels": ["cat"]})))
    catalogue, sample = read_one(path)
    assert (catalogue.classes, sample.target.boxes.tolist()) == (("cat",), [[2, 2, 7, 6]])


def test_choices_are_classes_of_whole_images(label_studio):
    def chosen(*names, image, number):
        choice = {
            "id": "c",
            "type": "choices",
            "value": {"choices": list(names)},
            "from_name": "choice",
            "to_name": "image",
        }
        return task(choice, image=f"/data/upload/3/{image}", number=number)

    path = label_studio(
        chosen("dog", image="a.jpg", number=1),
        chosen("cat", image="b.jpg", number=2),
        chosen("cat", "dog", image="c.jpg", number=3),
        images=("a.jpg", "b.jpg", "c.jpg"),
    )
    catalogue = read(path, fields={"label"})
    assert (catalogue.classes, catalogue.has) == (("cat", "dog"), {"label"})
    assert [sample.label for sample in catalogue.splits["train"]] == [1, 0]
    assert catalogue.problems == [f"{path / 'project-1-at-2024-01-01.json'}, task 3 is skipped: it has no class."]


def test_which_annotation_is_read(label_studio):
    def annotated(number, *annotations):
        entries = [
            {"id": i, "completed_by": i, "result": [rectangle(name)], "was_cancelled": name == "cancelled"} | more
            for i, (name, more) in enumerate(annotations)
        ]
        return task(number=number, image=f"/data/upload/3/{number}.jpg", annotations=entries)

    path = label_studio(
        annotated(1, ("first", {}), ("last", {}), ("cancelled", {})),
        annotated(2, ("truth", {"ground_truth": True}), ("other", {})),
        annotated(3, ("cancelled", {})),
        images=("images/1.jpg", "images/2.jpg", "images/3.jpg"),
    )
    catalogue = read(path)
    assert catalogue.classes == ("last", "truth")
    assert catalogue.notes == [
        "tasks with several annotations, of which the ground truth or the last is read: 2",
        "tasks without an annotation, which are ignored: 1",
    ]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("/data/upload/3/0a1b2c3d-a.jpg", "images/0a1b2c3d-a.jpg"),
        ("/data/upload/3/0a1b2c3d-a.jpg", "a.jpg"),
        ("/data/upload/3/0a1b2c3d-a%20b.jpg", "images/a b.jpg"),
        ("/data/local-files/?d=shots/day%201/a.jpg", "shots/day 1/a.jpg"),
        ("/data/local-files/?d=media/shots/a.jpg", "shots/a.jpg"),
        ("/data/local-files/?d=C:%5Cshots%5Ca.jpg", "images/a.jpg"),
        ("https://example.com/x/a.jpg?token=1", "images/a.jpg"),
        ("s3://bucket/x/a.jpg", "x/a.jpg"),
    ],
)
def test_places_of_images(label_studio, read_one, url, place):
    path = label_studio(task(rectangle(), image=url), images=(place,))
    assert read_one(path)[1].image == path / place


def test_json_min(label_studio, read_one):
    label = {"x": 10, "y": 20, "width": 25, "height": 40, "rotation": 0, "rectanglelabels": ["cat"], **SIZE}
    times = {"created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z", "lead_time": 3.1}
    item = {"image": "/data/upload/3/0a1b2c3d-a.jpg", "id": 1, "label": [label], "annotator": 1, "annotation_id": 1}
    catalogue, sample = read_one(label_studio(item | times))
    assert (catalogue.format, catalogue.classes) == ("label_studio", ("cat",))
    assert sample.target.boxes.tolist() == [[2, 2, 7, 6]]


def test_choices_of_json_min(label_studio):
    items = [
        {"image": f"/data/upload/3/{name}.jpg", "id": i, "choice": name, "annotator": 1, "annotation_id": i}
        for i, name in enumerate(("dog", "cat"))
    ]
    catalogue = read(label_studio(*items, images=("dog.jpg", "cat.jpg")))
    assert catalogue.classes == ("cat", "dog")
    assert [sample.label for sample in catalogue.splits["train"]] == [1, 0]


def test_a_size_that_is_not_stated_is_the_files(label_studio, read_one):
    stated = rectangle()
    del stated["original_width"]
    assert read_one(label_studio(task(stated)))[1].target.boxes.tolist() == [[2, 2, 7, 6]]


BRUSH = {"format": "rle", "brushlabels": ["cat"]}


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (result("rectanglelabels", {"x": 1, "y": 2, "width": 3, "height": 4}), "it has no label"),
        (rectangle(label=5), "its label is 5, text is expected"),
        (rectangle(x="a"), "its x is 'a', a number is expected"),
        (rectangle(image_rotation=90), "the image is rotated by 90 degrees in Label Studio"),
        (rectangle(original_width=10**9), "its size is 1000000000 x 10, 1 to 178,956,970 pixels are expected"),
        (
            result("polygonlabels", {"points": [[1, 2], 3], "polygonlabels": ["x"]}),
            "its points is not a list of [x, y]",
        ),
        (result("brushlabels", BRUSH | {"rle": [1, 2, 300]}), "its rle is not a list of bytes"),
        (result("brushlabels", BRUSH | {"rle": 10**12}), "its rle is not a list of bytes"),
        (result("brushlabels", BRUSH | {"rle": []}), "its rle ends before its last pixel"),
        (result("brushlabels", BRUSH | {"rle": [255] * 40}), "its rle has 4294967295 values, 4 for each of 20 x 10"),
        (result("brushlabels", BRUSH | {"rle": packed([0] * 800)}), "its mask has no pixel"),
        (result("brushlabels", BRUSH | {"rle": packed([0] * 800)[:-9]}), "its rle ends before its last pixel"),
        (
            result("keypointlabels", {"x": 1, "y": 2, "keypointlabels": ["x"]}, parentID="zz"),
            "a keypoint belongs to its",
        ),
        (rectangle(x=200), "its box from 40, 2 to 45, 6 is outside the image"),
    ],
)
def test_regions_that_are_invalid_are_skipped(label_studio, wrong, fault):
    path = label_studio(task(rectangle(id="first"), wrong))
    catalogue = read(path)
    (problem,) = catalogue.problems
    assert re.match(rf"{path}/project-1-at-2024-01-01\.json, task 7, region 2 is skipped: {re.escape(fault)}", problem)
    assert [len(sample.target.labels) for sample in catalogue.splits["train"]] == [1]


def test_results_that_are_no_objects_are_noted(label_studio):
    text = {"id": "t", "type": "textarea", "value": {"text": ["hello"]}, "from_name": "comment", "to_name": "image"}
    relation = {"from_id": "a", "to_id": "b", "type": "relation", "direction": "right"}
    catalogue = read(label_studio(task(rectangle(), text, relation, 5)))
    assert "ignored, neither objects nor choices: 'textarea' (1), 'relation' (1)" in catalogue.notes
    assert [problem.rpartition("json, ")[2] for problem in catalogue.problems] == [
        "task 7, result 4 is skipped: its result is 5, a JSON object is expected."
    ]


def test_tasks_that_are_invalid_are_skipped(label_studio):
    others = [
        5,
        task(number=8, data={"text": "x"}, file_upload=None),
        task(number=9, data=[]),
        task(number=10, annotations=3),
    ]
    path = label_studio(task(rectangle()), *others, task(rectangle(), number=11, image="/data/upload/3/b.jpg"))
    assert [problem.rpartition("json, ")[2] for problem in read(path).problems] == [
        "task 2 is skipped: its task is 5, a JSON object is expected.",
        "task 8 is skipped: it has no image.",
        "task 9 is skipped: its data is [], a JSON object is expected.",
        "task 10 is skipped: its annotations are 3, a list is expected.",
        f"task 11 is skipped with its 1 annotations: {path / 'images' / 'b.jpg'} is not there.",
    ]


def test_a_file_that_is_cut_short(label_studio):
    path = label_studio(task(rectangle()))
    file = path / "project-1-at-2024-01-01.json"
    file.write_text(file.read_text()[:-5])
    with pytest.raises(VertebraError, match=r"\.json, line 1: not valid JSON"):
        read(path)


def test_conversion(label_studio, tmp_path, capsys):
    path = label_studio(task(rectangle()), file="x/export.json", images=("x/a.jpg",)) / "x"
    main(["data", str(path)])
    assert "label_studio" in capsys.readouterr().out
    main(["data", "convert", str(path), "--to=coco", f"--save={tmp_path / 'coco'}"])
    (sample,) = read(tmp_path / "coco").splits["train"]
    assert sample.target.boxes.tolist() == [[2, 2, 7, 6]]
