"""Pascal VOC's XML to samples, and a sentence for everything that can be wrong with it."""

import os
from operator import attrgetter
from pathlib import Path

import pytest
from PIL import Image

from vertebra.data import open_data
from vertebra.data.reading import read
from vertebra.errors import VertebraError

LABELS = attrgetter("labels")


def thing(name="cat", box=("3", "2", "6", "5"), extra="") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<object><name>{name}</name>{extra}<bndbox>{''.join(f'<{t}>{v}</{t}>' for t, v in tags)}</bndbox></object>"


def xml(*things: str, size="<size><width>10</width><height>8</height></size>", filename="") -> str:
    return f"<annotation><filename>{filename}</filename>{size}{''.join(things)}</annotation>"


def voc(folder: Path, files: dict[str, str], lists: dict[str, str] | None = None) -> Path:
    """A VOC folder whose image files are empty."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / "Annotations" / f"{name}.xml").write_text(text)
        (folder / "JPEGImages" / f"{name}.jpg").touch()
    for name, text in (lists or {}).items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return folder


def test_values(tmp_path):
    hard = thing("ant", ("1", "1", "10", "8"), "<difficult>1</difficult>")
    voc(tmp_path, {"a": xml(thing(), hard), "b": xml()}, {"train": "a\n\n", "val": "b  1\n"})
    catalogue = open_data(tmp_path, fields={"boxes"})
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("voc", ("ant", "cat"), {"boxes"})
    (a,), (b,) = catalogue.splits["train"], catalogue.splits["val"]
    assert a.image == tmp_path / "JPEGImages" / "a.jpg"
    assert a.target.boxes.tolist() == [[2, 1, 6, 5], [0, 0, 10, 8]]  # counted from 1, the last pixel included
    assert a.target.labels.tolist() == [1, 0]
    assert a.target.crowd.tolist() == [False, True]
    assert a.target.areas.tolist() == [16, 80]
    assert a.target.size == (8, 10)
    assert b.target.boxes.shape == (0, 4)
    assert catalogue.problems == catalogue.notes == []


def test_lists(tmp_path):
    voc(tmp_path, {name: xml(thing()) for name in "abcd"}, {"trainval": "a\nb\n", "test": "c\nx\n"})
    catalogue = read(tmp_path, fields={"boxes"})
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 2, "test": 1}
    (skipped,) = catalogue.problems
    assert skipped.endswith(f"test.txt, line 2 is skipped: {tmp_path / 'Annotations' / 'x.xml'} is not there.")
    assert "1 XML files" in catalogue.notes[0]
    assert "d.xml for one" in catalogue.notes[0]


def test_without_lists_images_are_divided(tmp_path):
    catalogue = open_data(voc(tmp_path, {str(i): xml(thing()) for i in range(10)}), fields={"boxes"})
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 8, "val": 2}


@pytest.mark.parametrize("places", [("", ""), ("annotations", "images"), ("Annotations", "images")])
def test_other_places(tmp_path, places):
    for split in ("train", "valid"):
        for place in places:
            (tmp_path / split / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / split / places[0] / "a.xml").write_text(xml(thing()))
        (tmp_path / split / places[1] / "a.PNG").touch()
    catalogue = open_data(tmp_path, fields={"boxes"})
    assert [s.image for s in catalogue.splits["val"]] == [tmp_path / "valid" / places[1] / "a.PNG"]


def test_an_image_of_another_name(tmp_path):
    voc(tmp_path, {"a": xml(thing(), filename="C:\\images\\other.jpg")})
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "JPEGImages" / "other.jpg")
    (sample,) = read(tmp_path, fields={"boxes"}).splits["train"]
    assert sample.image.name == "other.jpg"


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_the_file_does_not_state(tmp_path, size):
    voc(tmp_path, {"a": xml(thing(), size=size)})
    image = Image.new("RGB", (20, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # turned a quarter
    image.save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    (sample,) = read(tmp_path, fields={"boxes"}).splits["train"]
    assert sample.target.size == (20, 30)


def test_images_that_are_not_there(tmp_path):
    voc(tmp_path, {"a": xml(thing()), "b": xml(thing())})
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    catalogue = read(tmp_path, fields={"boxes"})
    assert len(catalogue.splits["train"]) == 1
    file, image = tmp_path / "Annotations" / "b.xml", tmp_path / "JPEGImages" / "b"
    assert catalogue.problems == [f"{file} is skipped: {image} is not there."]


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        (("5", "2", "3", "6"), "its box is -1 x 5 pixels (width x height)"),
        (("nan", "2", "3", "6"), "its box is [nan, 1.0, 3.0, 6.0], not four numbers up to 1e9"),
        (("30", "2", "33", "6"), "its box from 29, 1 to 33, 6 is outside the image (10 x 8 pixels)"),
    ],
)
def test_objects_that_are_invalid_are_skipped(tmp_path, box, fault):
    voc(tmp_path, {"a": xml(thing(), thing("dog", box))})
    catalogue = read(tmp_path, fields={"boxes"})
    assert catalogue.problems == [f"{tmp_path / 'Annotations' / 'a.xml'}, object 2 (dog) is skipped: {fault}."]
    assert catalogue.counts("train", LABELS) == [1, 0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (xml(thing())[:-30], r"a\.xml, line 1: not valid XML \(.*\); the file may be cut short"),
        ("", r"a\.xml, line 1: not valid XML"),
        ("<html/>", r"a\.xml is not a VOC annotation: its root is <html>, not <annotation>"),
        (xml(thing("")), r"a\.xml, object 1: it has no <name>"),
        (
            xml(thing(), "<object><name>dog</name></object>"),
            r"a\.xml, object 2 \(dog\): it has no <xmin> in a <bndbox>",
        ),
        (xml(thing(box=("x", "2", "3", "4"))), r"object 1 \(cat\): its <xmin> is 'x', a number is expected"),
        (
            xml(size="<size><width>ten</width><height>8</height></size>"),
            r"a\.xml: its <width> is 'ten', a whole number is expected",
        ),
        (xml(size=f"<size><width>{'9' * 400}</width></size>"), r"a\.xml: its <width> is '9{20,}.*, a whole number is"),
        (xml(thing(box=("1_0", "2", "3", "4"))), r"object 1 \(cat\): its <xmin> is '1_0', a number is expected"),
        (xml(), r"has images but not one object"),
    ],
)
def test_files_that_are_invalid_are_explained(tmp_path, text, sentence):
    with pytest.raises(VertebraError, match=sentence):
        open_data(voc(tmp_path, {"a": text}), fields={"boxes"})


def test_there_are_no_masks(tmp_path):
    assert open_data(voc(tmp_path, {"a": xml(thing())}), fields={"masks"}).has == {"boxes"}


def test_names_with_spaces_in_lists(tmp_path):
    voc(tmp_path, {"a shot 1": xml(thing()), "b": xml(thing())}, {"train": "a shot 1\n", "val": "b -1\n"})
    catalogue = open_data(tmp_path, fields={"boxes"})
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 1, "val": 1}


def test_objects_keep_their_place_in_the_file(tmp_path):
    voc(tmp_path, {"a": xml(thing(box=("5", "2", "3", "6")), thing())})
    (sample,) = read(tmp_path, fields={"boxes"}).splits["train"]
    assert sample.where(0) == f"{tmp_path / 'JPEGImages' / 'a.jpg'}, annotation 2"


@pytest.mark.parametrize(("word", "crowd"), [("0", False), ("1", True), ("true", True), ("", False), ("maybe", None)])
def test_difficult_is_yes_or_no(tmp_path, word, crowd):
    voc(tmp_path, {"a": xml(thing(), thing("dog").replace("</name>", f"</name><difficult>{word}</difficult>"))})
    catalogue = read(tmp_path, fields={"boxes"})
    if crowd is None:
        assert "object 2 (dog) is skipped: its mark as crowd or difficult is 'maybe'" in catalogue.problems[0]
    else:
        assert catalogue.splits["train"][0].target.crowd.tolist() == [False, crowd]


def test_entities_do_not_multiply(tmp_path):
    levels = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    bomb = f'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">{levels}]>' + xml(thing("&i;"))
    with pytest.raises(VertebraError, match=r"a\.xml, line 1: not valid XML"):
        open_data(voc(tmp_path, {"a": bomb}), fields={"boxes"})


def test_a_pipe_is_not_read(tmp_path):
    voc(tmp_path, {"a": xml(thing())})
    os.mkfifo(tmp_path / "Annotations" / "b.xml")
    with pytest.raises(VertebraError, match=r"b\.xml is a pipe or a device, not a file"):
        open_data(tmp_path, fields={"boxes"})
