"""Lists of images with several tags each: CSV, JSON lines, CelebA's attributes, columns of 0 and 1."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from vertebra import kinds
from vertebra.data.catalogue import Catalogue
from vertebra.data.reading import read
from vertebra.errors import VertebraError


@pytest.fixture
def write(tmp_path):
    """Writes a file of lines and small images beside it; returns the file."""

    def written(name: str, *lines: str, images: Sequence[str] = ("1.png", "2.png", "3.png")) -> Path:
        for image in images:
            (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(tmp_path / image)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return written


def tags(catalogue: Catalogue, split: str = "train") -> list[list[str]]:
    """The names of the tags of each image."""
    return [[catalogue.classes[i] for i in sample.target.tags.tolist()] for sample in catalogue.splits[split]]


# -- CSV


@pytest.mark.parametrize("separator", [";", "|", ",", " "])
def test_csv(write, separator):
    joined = separator.join(["dog", "beach"])
    file = write("list.csv", "path,tags,split", f'1.png,"{joined}",train', "2.png,,", "3.png,dog,valid")
    catalogue = read(file)
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("csv_tags", ("beach", "dog"), {"tags"})
    assert (tags(catalogue), tags(catalogue, "val")) == ([["beach", "dog"], []], [["dog"]])
    by_space = [f"{file.name}: tags are separated by white space, as none of ; | , occurs"] * (separator == " ")
    assert catalogue.notes == [*by_space, "images without a tag: 1 of 3, kept as images that have none"]
    assert catalogue.problems == []


def test_names_of_several_words(write):
    catalogue = read(write("list.csv", "Image,Labels,note", "1.png, fire hydrant; dog ;dog;,x", "2.png,stop sign,y"))
    assert catalogue.classes == ("dog", "fire hydrant", "stop sign")
    assert tags(catalogue) == [["dog", "fire hydrant"], ["stop sign"]]


def test_images_without_a_suffix_in_a_folder_beside_the_list(write):
    """As in Kaggle's planet data."""
    file = write(
        "train_v2.csv", "image_name,tags", "train_0,haze primary", "train_1,clear", images=["train-jpg/train_0.jpg"]
    )
    for path in (file, file.parent):
        catalogue = read(path)
        assert catalogue.splits["train"][0].image == file.parent / "train-jpg" / "train_0.jpg"
        assert catalogue.classes == ("haze", "primary")
        assert catalogue.problems == [f"{file}, line 3 is skipped: {file.parent / 'train_1'} is not there."]


def test_what_is_wrong_is_listed(write):
    rows = ["1.png,a", "9.png,b", ",a", "2.png,a,train", "1.png,b", "3.png,c,tarin"]
    file = write("list.csv", "path,tags,split", *(row if row.count(",") == 2 else f"{row}," for row in rows))
    catalogue = read(file)
    assert catalogue.classes == ("a",)
    assert catalogue.problems == [
        f"{file}, line 4 is skipped: it has no image.",
        f"{file}, line 7 is skipped: its split is 'tarin', not one of train, training, val, valid, validation, test, "
        "testing.",
        f"{file}, line 3 is skipped: {file.parent / '9.png'} is not there.",
        f"{file}, line 6 is skipped: {file.parent / '1.png'} is listed twice.",
    ]


def test_no_tag_at_all(write):
    file = write("list.csv", "path,tags", "1.png,", "9.png,a")
    with pytest.raises(
        VertebraError, match=r"has no image with a tag\. The first of 1 problems: .*9\.png is not there"
    ):
        read(file)


# -- JSON lines


@pytest.mark.parametrize(("image", "key"), [("path", "tags"), ("file_name", "labels"), ("image", "tags")])
def test_json_lines(write, image, key):
    lines = [
        {image: "1.png", key: ["b", "a", "b"]},
        {image: "2.png", key: []},
        {image: "3.png", key: [7], "split": "val"},
    ]
    catalogue = read(write("list.jsonl", *map(json.dumps, lines)))
    assert (catalogue.format, catalogue.classes) == ("json_lines_tags", ("7", "a", "b"))
    assert (tags(catalogue), tags(catalogue, "val")) == ([["a", "b"], []], [["7"]])


def test_lines_that_are_wrong_are_listed(write):
    lines = [
        '{"path": "1.png", "tags": ["a"]}',
        '{"path": "2.png", "tags": ["a"',
        "[1]",
        '{"path": "2.png"}',
        '{"path": "2.png", "tags": "a"}',
        '{"path": "2.png", "tags": ["a", null]}',
        '{"tags": ["a"]}',
        '{"path": "2.png", "tags": ["a"], "split": "x"}',
    ]
    file = write("list.jsonl", *lines)
    problems = [problem.removeprefix(f"{file}, line ") for problem in read(file).problems]
    assert "it is no JSON (line, line 1: not valid JSON" in problems[0]
    assert problems[1:] == [
        "3 is skipped: its line is [1], a JSON object is expected.",
        "4 is skipped: it has no tags; an image without any has an empty list.",
        "5 is skipped: its tags are 'a', a list of text is expected.",
        "6 is skipped: it has no tag.",
        "7 is skipped: it has no path.",
        "8 is skipped: its split is 'x', not one of train, training, val, valid, validation, test, testing.",
    ]


def test_a_folder_of_splits(write):
    write("train/metadata.jsonl", '{"file_name": "1.png", "tags": ["a"]}', images=["train/1.png"])
    file = write("val/metadata.jsonl", '{"file_name": "2.png", "tags": ["a", "b"]}', images=["val/2.png"])
    catalogue = read(file.parent.parent)
    assert (tags(catalogue), tags(catalogue, "val")) == ([["a"]], [["a", "b"]])


# -- columns of 0 and 1


def test_columns_of_tags(write):
    file = write("list.csv", "filename,a,b,c", "1.png,1,0,1", "2.png,0,0,0", "3.png,0,1,0")
    catalogue = read(file)  # most images have not exactly one class
    assert (catalogue.format, catalogue.has, tags(catalogue)) == ("csv_classes", {"tags"}, [["a", "c"], [], ["b"]])
    assert read(file, fields={"label"}).has == {"label"}
    single = write("list.csv", "filename,a,b,c", "1.png,1,0,0", "2.png,0,0,1", "3.png,0,1,1")
    assert read(single).has == {"label"}
    assert tags(kinds.find("tags").read(single)) == [["a"], ["c"], ["b", "c"]]


def test_attributes_of_celeba(write):
    lines = [
        "3",
        "Bald Smiling Young",
        "1.jpg  1 -1  1",
        "2.jpg -1 -1 -1",
        "3.jpg -1  1  1",
        "4.jpg 1 1",
        "5.jpg 1 2 1",
    ]
    images = [f"celeba/img_align_celeba/{i}.jpg" for i in (1, 2, 3)]
    file = write("celeba/list_attr_celeba.txt", *lines, images=images)
    partition = write("celeba/list_eval_partition.txt", "1.jpg 0", "2.jpg 0", "3.jpg 2", "4.jpg 3", images=())
    for path in (file, file.parent, file.parent.parent):
        catalogue = read(path)
        assert (catalogue.format, catalogue.classes) == ("celeba", ("Bald", "Smiling", "Young"))
        assert (tags(catalogue), tags(catalogue, "test")) == ([["Bald", "Young"], []], [["Smiling", "Young"]])
        assert catalogue.problems == [
            f"{partition}, line 4 is skipped: an image and 0, 1 or 2 are expected.",
            f"{file}, line 6 is skipped: it has 2 values for 3 attributes.",
            f"{file}, line 7 is skipped: one of its values is '2', 1 or -1 is expected.",
        ]
    table = write("list_attr_celeba.csv", "image_id,Bald,Young", "1.jpg,1,-1", "2.jpg,-1,1", images=["1.jpg", "2.jpg"])
    assert tags(read(table, fields={"tags"})) == [["Bald"], ["Young"]]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["x", "Bald Young"], "line 1: the number of images is expected, and below it the attributes' names"),
        (["1"], "line 1: the number of images is expected"),
        (["1", "Bald Bald", "1.png 1 1"], "line 2: two attributes are called 'Bald'"),
    ],
)
def test_damaged_attributes(write, lines, sentence):
    with pytest.raises(VertebraError, match=sentence):
        read(write("list_attr_celeba.txt", *lines))


def test_the_task_that_fits_is_named(write):
    file = write("list.csv", "path,tags", "1.png,a;b", "2.png,a")
    for kind in ("category", "boxes"):
        with pytest.raises(VertebraError, match=r"has tags but no .*: train multilabel on it\.$"):
            kinds.find(kind).read(file)
