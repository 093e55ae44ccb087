"""From a path to a catalogue: recognising the format, setting a val split apart, and sentences for wrong paths."""

import dataclasses
import json
from operator import attrgetter
from pathlib import Path

import pytest
from PIL import Image

from vertebra.data import formats, open_data
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.reading import read
from vertebra.errors import VertebraError
from vertebra.images import read_image
from vertebra.structures import Target

LABEL = attrgetter("label")


def fill(folder: Path, *names: str) -> Path:
    """Empty files; formats look at names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(samples: list[Sample], folder: Path) -> list[tuple[str, int]]:
    return [(str(sample.image.relative_to(folder)), sample.label) for sample in samples]


def test_wrong_paths_are_explained(tmp_path):
    fill(tmp_path, "photos/a/1.png", "letter.txt")
    with pytest.raises(VertebraError, match=rf"photo is not there\. Did you mean {tmp_path / 'photos'}\?"):
        open_data(tmp_path / "photo")
    with pytest.raises(VertebraError, match=rf"The folder {tmp_path} exists, but has no 'zzz'"):
        open_data(tmp_path / "zzz" / "deeper")
    with pytest.raises(VertebraError, match=r"letter\.txt is a file of no known format\. Known formats are texts with"):
        open_data(tmp_path / "letter.txt")
    with pytest.raises(VertebraError, match=r"letter\.txt/x is not there"):
        open_data(tmp_path / "letter.txt" / "x")


# -- the split


def many(folder: Path) -> Path:
    return fill(folder, *(f"{name}/{i}.png" for name, count in (("a", 40), ("b", 10), ("c", 2)) for i in range(count)))


def test_the_split_is_stratified(tmp_path):
    catalogue = open_data(many(tmp_path), val_share=0.25)
    assert catalogue.counts("val", LABEL) == [10, 2, 1]  # a rare class gets at least one
    assert catalogue.counts("train", LABEL) == [30, 8, 1]
    both = named(catalogue.split("train"), tmp_path) + named(catalogue.split("val"), tmp_path)
    assert len(set(both)) == 52


def test_the_split_depends_on_the_seed_alone(tmp_path):
    many(tmp_path)
    first, again = (named(open_data(tmp_path, seed=3).split("val"), tmp_path) for _ in range(2))
    assert first == again
    assert named(open_data(tmp_path, seed=4).split("val"), tmp_path) != first


def test_a_class_of_one_image_is_trained_on(tmp_path):
    fill(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    catalogue = open_data(tmp_path)
    assert catalogue.counts("train", LABEL) == [1, 1]
    assert catalogue.counts("val", LABEL) == [0, 1]


def test_a_split_that_is_not_there(tmp_path):
    fill(tmp_path, "a/1.png", "b/1.png")
    catalogue = open_data(tmp_path)
    with pytest.raises(VertebraError, match=r"no images in its val split; it has train \(2\), val \(0\)"):
        catalogue.split("val")
    with pytest.raises(VertebraError, match="no images in its test split"):
        catalogue.split("test")


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_an_invalid_share(tmp_path, share):
    with pytest.raises(VertebraError, match=f"val_share is {share}; it must lie between 0 and 1"):
        open_data(many(tmp_path), val_share=share)


def test_what_is_listed_can_be_read(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (4, 4), (i * 50, 0, 0)).save(tmp_path / name / f"{i}.png")
    for samples in open_data(tmp_path).splits.values():
        assert all(read_image(sample.image).shape == (3, 4, 4) for sample in samples)


# -- fields


def test_folders_of_classes_have_labels_alone(tmp_path):
    fill(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    for fields in (None, {"label"}, {"boxes"}):
        assert open_data(tmp_path, fields=fields).has == {"label"}


def test_unknown_fields(tmp_path):
    with pytest.raises(
        VertebraError, match=r"fields is 'mask'; there are label, tags, boxes, .* Did you mean 'masks'\?"
    ):
        open_data(tmp_path, fields={"mask"})


def test_one_image_at_least_stays_in_train(tmp_path):
    fill(tmp_path, "annotations/x.json", *(f"images/{i}.png" for i in range(2)))
    images = [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in range(2)]
    rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4} for i in range(2)]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "annotations" / "x.json").write_text(json.dumps(content))
    for share in (0.01, 0.99):
        catalogue = open_data(tmp_path, fields={"boxes"}, val_share=share)
        assert (len(catalogue.splits["train"]), len(catalogue.splits["val"])) == (1, 1)


# -- the folder of one split alone


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (10, 8), 255).save(path)


def coco_export(folder: Path) -> None:
    save_image(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(content))


def voc(folder: Path) -> None:
    save_image(folder / "a.png")
    box = "<xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax>"
    text = f"<annotation><object><name>a</name><bndbox>{box}</bndbox></object></annotation>"
    (folder / "a.xml").write_text(text)


def masks(folder: Path) -> None:
    save_image(folder / "images" / "a.png")
    save_image(folder / "masks" / "a.png")


def yolo(folder: Path) -> None:
    save_image(folder / "images" / "a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (folder.parent / "data.yaml").write_text(f"{folder.name}: {folder.name}/images\nnames: [a]\n")


def class_folders(folder: Path) -> None:
    save_image(folder / "a" / "1.png")


@pytest.mark.parametrize("name", ["test", "val", "train"])
@pytest.mark.parametrize("write", [coco_export, voc, masks, yolo, class_folders])
def test_the_folder_of_one_split_alone_is_that_split(tmp_path, write, name):
    write(tmp_path / name)
    assert {split: len(samples) for split, samples in read(tmp_path).splits.items()} == {name: 1}


# -- data further down


def test_the_only_data_set_further_down_is_read(tmp_path):
    for split in ("train", "val"):
        coco_export(tmp_path / "cells" / "cells" / split)
    catalogue = read(tmp_path, fields={"boxes"})
    assert (catalogue.format, catalogue.path, set(catalogue.splits)) == ("coco", str(tmp_path), {"train", "val"})
    assert catalogue.notes == [
        f"read from {tmp_path / 'cells'}, the only data set in {tmp_path}",
        f"read from {tmp_path / 'cells' / 'cells'}, the only data set in {tmp_path / 'cells'}",
    ]


@pytest.mark.parametrize("fields", [None, {"label"}])
def test_class_folders_further_down(tmp_path, fields):
    fill(tmp_path, "pets/cat/1.png", "pets/dog/2.png", "__MACOSX/pets/._cat", "readme.txt")
    catalogue = read(tmp_path, fields=fields)
    assert (catalogue.format, catalogue.classes) == ("folder", ("cat", "dog"))
    assert catalogue.notes == [f"read from {tmp_path / 'pets'}, the only data set in {tmp_path}"]


def test_one_class_is_no_folder_further_down(tmp_path):
    assert read(fill(tmp_path, "cat/1.png")).classes == ("cat",)


def test_annotations_beside_other_folders_are_read(tmp_path):
    voc(tmp_path / "export")
    fill(tmp_path, "documents/manual.txt")
    catalogue = read(tmp_path, fields={"boxes"})
    assert catalogue.notes == [f"read from {tmp_path / 'export'}, the only data set in {tmp_path}"]


@pytest.mark.parametrize("fields", [None, {"boxes"}])
def test_several_data_sets_further_down_are_named(tmp_path, fields):
    for name in ("a", "b", "c"):
        masks(tmp_path / name / "train")
    with pytest.raises(VertebraError, match=rf"holds 3 data sets: give the path of {tmp_path / 'a'}, or of b or c\."):
        read(tmp_path, fields=fields)


def test_data_too_far_down_is_not_searched(tmp_path):
    voc(tmp_path / "a" / "b" / "c" / "d" / "e")
    assert read(tmp_path, fields={"boxes"}).has == {"label"}


# -- splits that are data sets of their own


def coco_folder(folder: Path, classes=("a",)) -> None:
    save_image(folder / "images" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": [1, 1, i, 2]} for i, _ in enumerate(classes, 1)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, 1)],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(content))


def yolo_folder(folder: Path) -> None:
    save_image(folder / "images" / "a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (folder / "shapes.yaml").write_text("train: images\nnames: [a]\n")


@pytest.mark.parametrize("write", [coco_folder, yolo_folder])
@pytest.mark.parametrize("names", [("test",), ("train",), ("train", "valid", "test")])
def test_folders_of_splits_that_are_whole_data_sets(tmp_path, write, names):
    for name in names:
        write(tmp_path / name)
    catalogue = read(tmp_path, fields={"boxes"})
    expected = {"valid": "val"}
    assert {split: len(s) for split, s in catalogue.splits.items()} == {expected.get(name, name): 1 for name in names}
    assert catalogue.path == str(tmp_path)


def test_their_classes_are_joined(tmp_path):
    coco_folder(tmp_path / "train", ("b", "c"))
    coco_folder(tmp_path / "val", ("c", "a"))
    catalogue = read(tmp_path, fields={"boxes"})
    assert catalogue.classes == ("b", "c", "a")
    assert [catalogue.splits[split][0].target.labels.tolist() for split in ("train", "val")] == [[0, 1], [1, 2]]


# -- what is not known


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (
            ["1.png", "2.png", "1.foo", "2.foo", "3.foo"],
            r" is of no known format: it has no class folders but 2 loose images and 3 \.foo files\. To classify "
            r"images, put those of each class into a folder named after it\. Known formats are texts with a class, .*"
            r"CVAT XML, .*LabelMe JSON, .*COCO JSON, COCO panoptic JSON, COCO captions JSON, YOLO, .* and a folder per "
            r"class\.",
        ),
        (["readme.txt"], r"no class folders but 1 \.txt file\. Known"),
        ([], "no class folders but no images"),
        (["docs/readme.txt"], "no class folders but no images"),
        (["a.tfrecord"], r"a\.tfrecord is TensorFlow's TFRecord, which is not read: export the data anew"),
        (["cells.zip"], r"cells\.zip is an archive: unpack it"),
        (["1.jpg", "labels.mat"], r"labels\.mat is MATLAB's, which is not read"),
    ],
)
def test_folders_of_no_known_format(tmp_path, files, sentence):
    fill(tmp_path, *files)
    for fields in (None, {"label"}):
        with pytest.raises(VertebraError, match=sentence):
            read(tmp_path, fields=fields)


def test_a_file_that_can_be_read_alone_is_named(tmp_path):
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\n")
    with pytest.raises(VertebraError, match=r"1 \.csv file\. \S*list\.csv can be read as CSV lists: give the path of"):
        read(tmp_path, fields={"label"})
    with pytest.raises(VertebraError, match=r"1 \.csv file\. Known formats"):
        read(tmp_path, fields={"masks"})


def test_files_of_no_known_format(tmp_path):
    fill(tmp_path, "train.lmdb")
    with pytest.raises(VertebraError, match=r"file of no known format\. train\.lmdb is a container of images, which"):
        read(tmp_path / "train.lmdb")


def test_recognition_opens_few_files(tmp_path, monkeypatch):
    fill(tmp_path, *(f"{name}/{i}.{suffix}" for name in "ab" for i in range(200) for suffix in ("png", "json", "xml")))
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: opened.append(self) or real(self, *a, **k))
    for module in formats.formats().values():
        module.recognise(tmp_path)
        module.recognise(tmp_path / "a")
    assert len(opened) < 20


# -- formats


def test_the_order_of_recognition():
    csv = ["via", "csv_classes", "csv_tags", "json_lines_tags", "pairs", "celeba", "hugging_face"]
    csv += ["captions", "csv_boxes", "deeplabcut", "landmarks", "csv"]
    tools = ["cvat", "labelme", "label_studio", "createml", "datumaro"]
    others = ["coco", "coco_panoptic", "coco_captions", "yolo", "voc", "masks", "label_maps", "coco_file"]
    others += ["hugging_face_tables", "webdataset", "webdataset_maps", "folder"]
    assert list(formats.formats()) == ["dates", "reviews", "shapes", "stories", "texts", *csv, "idx", *tools, *others]
    assert list(formats.writable()) == ["coco", "yolo", "voc", "masks", "label_maps"]


def test_what_every_format_has():
    for name, module in formats.formats().items():
        assert {entry.name for entry in dataclasses.fields(Target)} >= module.FIELDS, name
        assert getattr(module, "GENERATED", False) or module.TITLE, name


@pytest.mark.parametrize("path", ["nothing", "shapes", "file.xyz"])
def test_no_format_recognises_what_is_not_there(tmp_path, path):
    assert not any(module.recognise(tmp_path / path) for module in formats.formats().values())


def test_the_built_in_set_goes_by_its_name_alone(tmp_path, monkeypatch):
    fill(tmp_path, "shapes/a/1.png", "shapes/b/2.png")
    monkeypatch.chdir(tmp_path)
    assert read("./shapes").format == "folder"
    monkeypatch.setattr(formats.formats()["shapes"], "COUNTS", {"train": 1, "val": 1})
    assert read("shapes").format == "shapes"


def test_a_format_is_one_file(tmp_path, monkeypatch):
    """A module that lies among the formats reads data without any other change."""
    (tmp_path / "toy.py").write_text(
        "from vertebra.data.catalogue import Catalogue\n"
        "PRIORITY = 5\n"
        "FIELDS = frozenset({'boxes'})\n"
        "TITLE = 'toys'\n"
        "def recognise(path):\n"
        "    return path.suffix == '.toy' and path.is_file()\n"
        "def read(path, options):\n"
        "    return Catalogue(str(path), 'toy', ('a',), {'train': [], 'val': []})\n"
    )
    (tmp_path / "data.toy").touch()
    (tmp_path / "data.txt").touch()
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    formats.formats.cache_clear()
    try:
        catalogue = read(tmp_path / "data.toy")
        assert isinstance(catalogue, Catalogue)
        assert catalogue.format == "toy"
        with pytest.raises(VertebraError, match=r"Known formats are toys, texts with a class, VIA JSON"):
            read(tmp_path / "data.txt")
    finally:
        formats.formats.cache_clear()
