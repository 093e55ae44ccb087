"""YOLO's text files to samples, and a sentence for everything that can be wrong with them."""

import json
import time
from operator import attrgetter
from pathlib import Path

import pytest
from PIL import Image

from vertebra.data import open_data
from vertebra.data.reading import read
from vertebra.errors import VertebraError
from vertebra.structures import COCO_PERSON

LABELS = attrgetter("labels")

CONFIG = "train: images/train\nval: images/val\nnames: [cat, dog]\n"


def yolo(folder: Path, labels: dict[str, str], config: str = CONFIG) -> Path:
    """A YOLO folder of images of 10 x 8 pixels; a None is an image without a label file."""
    (folder / "data.yaml").write_text(config)
    for name, text in ({"train/x": "0 0.5 0.5 0.2 0.5", "val/y": "1 0.5 0.5 0.2 0.5"} | labels).items():
        image, label = folder / "images" / f"{name}.png", folder / "labels" / f"{name}.txt"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8)).save(image)
        if text is not None:
            label.write_text(text)
    return folder


def first(folder: Path, **options):
    catalogue = read(folder, **options)
    return catalogue, next(sample for sample in catalogue.splits["train"] if sample.image.stem == "x")


def test_boxes(tmp_path):
    yolo(tmp_path, {"train/x": "1 0.5 0.5 0.2 0.5\n\n0 0.25 0.25 0.5 0.5\n", "train/z": None})
    catalogue, x = first(tmp_path, fields={"boxes"})
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("yolo", ("cat", "dog"), {"boxes"})
    assert x.image == tmp_path / "images" / "train" / "x.png"
    assert x.target.boxes.flatten().tolist() == pytest.approx([4, 2, 6, 6, 0, 0, 5, 4])
    assert x.target.labels.tolist() == [1, 0]
    assert x.target.areas.tolist() == pytest.approx([8, 20])
    assert x.target.size == (8, 10)
    assert catalogue.notes == ["images of the train split without a label file, taken to show no object: 1"]
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize("name", ["coco8.yaml", "my data.YML"])
def test_a_file_of_another_name(tmp_path, name):
    yolo(tmp_path, {})
    (tmp_path / "data.yaml").rename(tmp_path / name)
    (tmp_path / "hyperparameters.yaml").write_text("lr0: 0.01\n")
    (tmp_path / "classes.txt").write_text("other\n")
    catalogue = read(tmp_path, fields={"boxes"})
    assert (catalogue.format, catalogue.classes) == ("yolo", ("cat", "dog"))


def test_several_files_of_other_names(tmp_path):
    yolo(tmp_path, {})
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text(CONFIG)
    assert read(tmp_path).classes == ("cat", "dog")  # data.yaml
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(VertebraError, match=r"has 2 YAML files of data \(a\.yaml, b\.yml\); give the path of one"):
        read(tmp_path)


def test_polygons(tmp_path):
    yolo(tmp_path, {"train/x": "1 0.2 0.25 0.6 0.25 0.6 0.75 0.2 0.75", "val/y": ""})
    catalogue, x = first(tmp_path, fields={"masks"})
    assert catalogue.has == {"boxes", "masks"}
    assert x.target.boxes.tolist() == [[2, 2, 6, 6]]
    assert x.target.areas.tolist() == [16]
    target = x.load_target((8, 10))
    assert target.masks[0][2:6, 2:6].all()
    assert int(target.masks.dense().sum()) == 16


def test_boxes_among_polygons_have_no_mask(tmp_path):
    lines = "1 0.2 0.25 0.6 0.25 0.6 0.75\n0 0.5 0.5 0.2 0.5\n"
    catalogue, x = first(yolo(tmp_path, {"train/x": lines, "val/y": ""}), fields={"masks"})
    file = tmp_path / "labels" / "train" / "x.txt"
    assert catalogue.problems == [f"{file}, line 2 is skipped: it has a box but no mask."]
    assert x.target.labels.tolist() == [1]


KEYPOINTS = "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n"


def test_keypoints(tmp_path):
    line = "0 0.5 0.5 0.2 0.5 0.1 0.25 2 0.3 0.5 1"
    names = "kpt_names: {0: [left, right]}\n"
    yolo(tmp_path, {"train/x": line, "val/y": ""}, CONFIG + KEYPOINTS + names)
    catalogue, x = first(tmp_path, fields={"keypoints"})
    assert catalogue.has == {"boxes", "keypoints"}
    assert (catalogue.keypoints.names, catalogue.keypoints.flip_indices) == (("left", "right"), (1, 0))
    assert x.target.keypoints.flatten().tolist() == pytest.approx([1, 2, 2, 3, 4, 1])
    assert x.target.boxes.flatten().tolist() == pytest.approx([4, 2, 6, 6])


def test_keypoints_without_visibility(tmp_path):
    config = CONFIG + "kpt_shape: [2, 2]\n"
    yolo(tmp_path, {"train/x": "0 0.5 0.5 0.2 0.5 0.1 0.25 0 0", "val/y": ""}, config)
    catalogue, x = first(tmp_path, fields={"keypoints"})
    assert catalogue.keypoints.names == ("0", "1")
    assert x.target.keypoints.flatten().tolist() == pytest.approx([1, 2, 2, 0, 0, 0])


def test_seventeen_keypoints_are_a_persons(tmp_path):
    line = "0 0.5 0.5 0.2 0.5" + " 0.1 0.2 2" * 17
    catalogue, _ = first(
        yolo(tmp_path, {"train/x": line, "val/y": ""}, CONFIG + "kpt_shape: [17, 3]\n"), fields={"keypoints"}
    )
    assert catalogue.keypoints == COCO_PERSON
    assert any(
        note.startswith("17 keypoints without names are taken for COCO's of a person") for note in catalogue.notes
    )


def test_seventeen_keypoints_that_mirror_otherwise_are_others(tmp_path):
    config = CONFIG + f"kpt_shape: [17, 3]\nflip_idx: {[1, 0, *range(2, 17)]}\n"
    line = "0 0.5 0.5 0.2 0.5" + " 0.1 0.2 2" * 17
    catalogue, _ = first(yolo(tmp_path, {"train/x": line, "val/y": ""}, config), fields={"keypoints"})
    assert catalogue.keypoints.names == tuple(map(str, range(17)))
    assert catalogue.keypoints.flip_indices == (1, 0, *range(2, 17))


def test_names_of_keypoints_that_differ_between_classes(tmp_path):
    names = "kpt_shape: [2, 3]\nkpt_names: {0: [left, right], 1: [top, bottom]}\n"
    labels = {"train/x": "0 0.5 0.5 0.2 0.5 0.4 0.5 2 0.6 0.5 2", "val/y": ""}
    catalogue = read(yolo(tmp_path, labels, CONFIG + names), fields={"keypoints"})
    assert (catalogue.keypoints.names, catalogue.keypoints.flip_indices) == (("0", "1"), ())
    assert "kpt_names differ from class to class: keypoints are called by their numbers" in catalogue.notes


def test_labels_without_an_image_are_noted(tmp_path):
    folder = yolo(tmp_path, {"train/x": "0 0.5 0.5 0.2 0.5", "val/y": ""})
    (folder / "labels" / "train" / "lost.txt").write_text("0 0.5 0.5 0.2 0.5")
    lost = folder / "labels" / "train" / "lost.txt"
    catalogue = read(folder, fields={"boxes"})
    assert f"label files of the train split without an image: 1, {lost} for one" in catalogue.notes


@pytest.mark.parametrize("name", ["classes.txt", "labels/train/x.txt"])
def test_text_in_another_encoding_is_explained(tmp_path, name):
    folder = yolo(tmp_path, {"train/x": "0 0.5 0.5 0.2 0.5", "val/y": ""})
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert read(folder, fields={"boxes"}).classes == ("cat", "dog")
    (folder / name).write_bytes("Käse".encode("latin-1"))
    with pytest.raises(VertebraError, match=rf"{name} is not a text file in UTF-8 \(.* at byte 1\)"):
        read(folder, fields={"boxes"})


@pytest.mark.parametrize(
    "config",
    [
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\nnc: 2\n",
        "path: ../elsewhere\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n",
        "train: ../images/train\nval: ../images/val\nnames: [cat, dog]\n",
        "train: [images/train]\nvalid: images/val\nnames: [cat, dog]\n",
        "train: list.txt\nval: [images/val]\nnames: [cat, dog]\n",
    ],
)
def test_ways_to_state_the_folders(tmp_path, config):
    yolo(tmp_path, {}, config)
    (tmp_path / "list.txt").write_text("./images/train/x.png\n\n")
    for path in (tmp_path, tmp_path / "data.yaml"):
        catalogue = open_data(path, fields={"boxes"})
        assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 1, "val": 1}
        assert catalogue.counts("val", LABELS) == [0, 1]


def test_labels_beside_images_of_each_split(tmp_path):
    for split in ("train", "valid"):
        for kind in ("images", "labels"):
            (tmp_path / split / kind).mkdir(parents=True)
        Image.new("RGB", (10, 8)).save(tmp_path / split / "images" / "x.jpg")
        (tmp_path / split / "labels" / "x.txt").write_text("0 0.5 0.5 0.5 0.5")
    with pytest.raises(VertebraError, match=r"has images and labels but no data\.yaml, which names the classes"):
        open_data(tmp_path, fields={"boxes"})
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [cat]\n")
    assert open_data(tmp_path, fields={"boxes"}).counts("val", LABELS) == [1]


def test_the_last_images_on_the_way_are_labels(tmp_path):
    (tmp_path / "images").mkdir()
    assert open_data(yolo(tmp_path / "images", {}), fields={"boxes"}).counts("val", LABELS) == [0, 1]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("names: [a\n", r"data\.yaml, line 2: not valid YAML"),
        ("train: images/train\n", r"data\.yaml is not YOLO's data\.yaml: it has no 'names'"),
        ("names: [a, b]\n", r"data\.yaml has none of 'train', 'val' and 'test'"),
        ("train: images/train\nnames: 5\n", r"data\.yaml: its names are 5, a list of the classes is expected"),
        ("train: images/train\nnames: [a, a]\n", r"data\.yaml: two classes are called 'a'"),
        ("train: images/train\nnames: {0: a, 2: b}\n", r"its names are numbered \[0, 2\], not 0, 1, 2"),
        ("train: images/train\nnames: [a, true]\n", r"data\.yaml: a class is called True; a name is expected"),
        ("train: images/train\nnames: [a, ' ']\n", r"data\.yaml: a class is called ' '; a name is expected"),
        ("train: images/train\nnames: [a]\nnc: true\n", r"data\.yaml: nc is True, but there are 1 names"),
        (
            "train: .\nnames: [a]\nkpt_shape: [1000000000, 3]\n",
            r"have 1,000,000,000 keypoints; at most 1,000",
        ),
        (
            "train: .\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [1, false]\n",
            r"flip_idx is \[1, False\], each",
        ),
        ("names: &a [*a]\n", r"data\.yaml, line 1: not valid YAML"),
        ("train: images/train\nnames: [a, b]\nnc: 3\n", r"data\.yaml: nc is 3, but there are 2 names"),
        ("train: images/tarin\nnames: [a, b]\n", r"data\.yaml: its train is 'images/tarin', but .*tarin is not there"),
        ("train: data.yaml\nnames: [a, b]\n", r"which is neither a folder nor a \.txt list of images"),
        ("train: .\nnames: [a, b]\nkpt_shape: 17\n", r"kpt_shape is 17, \[number of keypoints, 2 or 3\] is expected"),
        ("train: .\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [0, 0]\n", r"flip_idx is \[0, 0\], each of 0 to 1 once"),
        (
            "train: .\nnames: [a]\nkpt_shape: [2, 3]\nkpt_names: [x]\n",
            r"kpt_shape has 2 keypoints, but kpt_names names 1",
        ),
        ("train: .\nnames: [a]\nkpt_shape: [2, 3]\nkpt_names: 2\n", r"kpt_names is 2, a list of names for each class"),
        ("train: .\nnames: [a]\nkpt_shape: [2, 3]\nkpt_names: [x, X]\n", r"data\.yaml: two keypoints are called 'x'"),
        ("train: .\nnames: [a]\nkpt_shape: [2, 3.0]\n", r"kpt_shape is \[2, 3\.0\], \[number of keypoints, 2 or 3\]"),
        (
            "train: .\nnames: [a]\nkpt_shape: [3, 3]\nflip_idx: [1, 2, 0]\n",
            r"data\.yaml: flip_idx makes 0 1 in the mirror, but 1 2",
        ),
    ],
)
def test_a_config_that_is_invalid_is_explained(tmp_path, config, sentence):
    with pytest.raises(VertebraError, match=sentence):
        open_data(yolo(tmp_path, {}, config), fields={"boxes"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0 0.5 0.5 0.2 0.5\n0 0.5 half 0.2 0.5", r"x\.txt, line 2: not all of it are numbers \("),
        ("0 0.5 0_5 0.2 0.5", r"x\.txt, line 1: not all of it are numbers \("),
        ("2 0.5 0.5 0.2 0.5", r"x\.txt, line 1: class 2 is not one of the 2 named \(from 0\)"),
        ("-1 0.5 0.5 0.2 0.5", r"x\.txt, line 1: class -1 is not one of the 2"),
        ("0.5 0.5 0.5 0.2 0.5", r"x\.txt, line 1: class 0\.5 is not one of the 2"),
        ("nan 0.5 0.5 0.2 0.5", r"x\.txt, line 1: class nan is not one of the 2"),
    ],
)
def test_lines_that_are_another_thing_are_explained(tmp_path, text, sentence):
    with pytest.raises(VertebraError, match=sentence):
        open_data(yolo(tmp_path, {"train/x": text}), fields={"boxes"})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0 0.5 0.5 0.2 0", "its box is 2 x 0 pixels (width x height)"),
        ("0 0.5 0.5 -0.2 0.5", "its box is -2 x 4 pixels (width x height)"),
        ("0 nan 0.5 0.2 0.5", "its box is [nan, 2.0, nan, 6.0], not four numbers up to 1e9"),
        ("0 3 0.5 0.2 0.5", "its box from 29, 2 to 31, 6 is outside the image (10 x 8 pixels)"),
        ("0 0.5 0.5 0.2", "it has 4 numbers, 5 are a box, 7, 9, 11, ... a polygon"),
        ("0 0.5 0.5 0.2 0.5 0.9", "it has 6 numbers, 5 are a box, 7, 9, 11, ... a polygon"),
        ("0 0.1 0.1 nan 0.5 0.9 0.2", "its box is [nan, nan, nan, nan], not four numbers up to 1e9"),
    ],
)
def test_lines_that_is_invalid_are_skipped(tmp_path, text, fault):
    catalogue, x = first(yolo(tmp_path, {"train/x": f"1 0.5 0.5 0.2 0.5\n{text}"}), fields={"boxes"})
    assert catalogue.problems == [f"{tmp_path / 'labels' / 'train' / 'x.txt'}, line 2 is skipped: {fault}."]
    assert x.target.labels.tolist() == [1]


def test_keypoints_of_another_number_are_skipped(tmp_path):
    line = "0 0.5 0.5 0.2 0.5 0.1 0.25 2 0.3 0.5 1"
    catalogue, x = first(
        yolo(tmp_path, {"train/x": f"{line}\n{line} 1", "val/y": ""}, CONFIG + KEYPOINTS), fields={"keypoints"}
    )
    assert catalogue.problems[0].endswith("line 2 is skipped: it has 12 numbers, 11 are a box with keypoints.")
    assert len(x.target.keypoints) == 1


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_keypoints_that_are_not_finite_are_skipped(tmp_path, value):
    line = "0 0.5 0.5 0.2 0.5 0.1 {} 2 0.3 0.5 1"
    text = f"{line.format(value)}\n{line.format(0.25)}"
    catalogue, x = first(yolo(tmp_path, {"train/x": text, "val/y": ""}, CONFIG + KEYPOINTS), fields={"keypoints"})
    assert len(catalogue.problems) == 1
    assert "x.txt, line 1 is skipped: its keypoint '0' is at [1.0, " in catalogue.problems[0]
    assert x.annotation_ids == (2,)


def test_images_and_labels_apart(tmp_path):
    yolo(tmp_path, {})
    (tmp_path / "images" / "train" / "broken.png").write_text("no image")
    catalogue = read(tmp_path, fields={"boxes"})
    assert catalogue.problems == [
        f"{tmp_path / 'images' / 'train' / 'broken.png'}: not an image in any known format, whatever its name; "
        "it is skipped."
    ]
    (tmp_path / "labels" / "train" / "x.txt").unlink()
    with pytest.raises(VertebraError, match=r"no image of the train split has a label file, .*labels/train/\w+\.txt"):
        open_data(tmp_path, fields={"boxes"})


def test_json_is_not_mistaken_for_it(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({}))
    with pytest.raises(VertebraError, match=r"x\.json is not a COCO annotation file"):
        open_data(tmp_path / "x.json", fields={"boxes"})


def test_a_test_split_that_is_not_there_is_ignored(tmp_path):
    catalogue = read(yolo(tmp_path, {}, CONFIG + "test: ../test/images\n"), fields={"boxes"})
    assert set(catalogue.splits) == {"train", "val"}
    assert catalogue.notes == [f"the test split is ignored: {tmp_path / '../test/images'} is not there"]


def test_a_test_split_without_labels_is_ignored(tmp_path):
    catalogue = read(yolo(tmp_path, {"test/z": None}, CONFIG + "test: images/test\n"), fields={"boxes"})
    assert set(catalogue.splits) == {"train", "val"}
    assert catalogue.notes == ["the test split is ignored: none of its 1 images has a label file"]


@pytest.mark.parametrize("root", ["a-project-1", "/content/a-project-1", "D:/sets"])
def test_a_set_that_moved_since_it_was_written(tmp_path, root):
    config = f'train: "{root}/images/train"\nval: "{root}/images/val"\nnames: [cat, dog]\n'
    catalogue = read(yolo(tmp_path, {}, config), fields={"boxes"})
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 1, "val": 1}
    assert len(catalogue.notes) == 2
    assert f"which is not there: {tmp_path / 'images' / 'train'} is used" in catalogue.notes[0]
    (tmp_path / "data.yaml").write_text("train: /elsewhere/images\nval: images/val\nnames: [cat, dog]\n")
    with pytest.raises(VertebraError, match="its train is '/elsewhere/images', but /elsewhere/images is not there"):
        read(tmp_path, fields={"boxes"})  # images/ holds every split: it could be any


@pytest.mark.parametrize("places", [("images", "labels", "classes.txt"), ("obj_train_data", "", "obj.names")])
def test_a_list_of_classes_in_place_of_a_config(tmp_path, places):
    images, labels, names = places
    for folder in filter(None, (images, labels)):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (10, 8)).save(tmp_path / images / "x.png")
    (tmp_path / (labels or images) / "x.txt").write_text("1 0.5 0.5 0.2 0.5")
    (tmp_path / names).write_text("cat\ndog\n")
    catalogue = read(tmp_path, fields={"boxes"})
    assert catalogue.classes == ("cat", "dog")
    assert catalogue.counts("train", LABELS) == [0, 1]


def test_keypoints_without_sides_are_noted(tmp_path):
    shape = CONFIG + "kpt_shape: [2, 3]\n"
    labels = {"train/x": "0 0.5 0.5 0.2 0.5 0.4 0.5 2 0.6 0.5 2", "val/y": ""}
    note = "no keypoint name says left or right"
    assert any(n.startswith(note) for n in read(yolo(tmp_path, labels, shape), fields={"keypoints"}).notes)
    named = read(yolo(tmp_path, labels, shape + "kpt_names: {0: [l_eye, r_eye]}\n"), fields={"keypoints"})
    assert named.keypoints.flip_indices == (1, 0)
    assert not any(n.startswith(note) for n in named.notes)
    misspelt = read(yolo(tmp_path, labels, shape + "kpt_names: {0: [left_eye, rigth_eye]}\n"), fields={"keypoints"})
    start = "keypoints that name a side and have no counterpart: 'left_eye'; in "
    assert any(n.startswith(start) for n in misspelt.notes)


def test_objects_keep_their_line(tmp_path):
    folder = yolo(tmp_path, {"train/x": "0 0.5 0.5 0 0.5\n\n0 0.5 0.5 0.2 0.5", "val/y": ""})
    _, x = first(folder, fields={"boxes"})
    assert x.where(0).endswith("x.png, annotation 3")


def test_keypoints_that_the_config_does_not_have(tmp_path):
    """They are not taken for polygons; polygons with corners at the border are not taken for keypoints."""
    keypoints = "0 0.5 0.5 0.2 0.5 0.45 0.5 2 0.55 0.4 1\n0 0.5 0.5 0.2 0.5 0.45 0.5 2 0 0 0\n"
    border = "1 0 0 1 0 1 1 0 1 0 0\n1 0.5 0.5 0.2 0.5 0.9 0.1 1 0.9 0.9 1"
    yolo(tmp_path, {"train/x": keypoints + border, "val/y": ""})
    catalogue, x = first(tmp_path, fields={"masks"})
    file = tmp_path / "labels" / "train" / "x.txt"
    assert catalogue.problems == [
        f"{file}, line {line} is skipped: it is a box with keypoints; {tmp_path / 'data.yaml'} needs their number, "
        "such as kpt_shape: [2, 3]."
        for line in (1, 2)
    ]
    assert x.target.labels.tolist() == [1, 1]


def test_a_hundred_thousand_classes(tmp_path):
    """Time grows with their number, not with its square: minutes otherwise."""
    (tmp_path / "classes.txt").write_text("".join(f"c{i}\n" for i in range(100_000)))
    begin = time.process_time()
    yolo(tmp_path, {"train/x": "99999 0.5 0.5 0.2 0.5", "val/y": ""})
    (tmp_path / "data.yaml").unlink()
    catalogue = read(tmp_path, fields={"boxes"})
    assert time.process_time() - begin < 20
    assert catalogue.splits["train"][0].target.labels.tolist() == [99_999]
