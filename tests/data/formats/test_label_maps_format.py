"""Images with label maps, in every form, with every table of classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import kinds
from vertebra.data.convert import convert
from vertebra.data.formats import label_maps, shapes
from vertebra.data.reading import read
from vertebra.errors import VertebraError

LABELS = np.array([[0, 0, 1], [2, 2, 255]], np.uint8)
COLOURS = [[128, 64, 128], [70, 130, 180], [0, 0, 142]]


def image(path, pixels=None, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((2, 3, 3), np.uint8) if pixels is None else pixels
    Image.fromarray(np.asarray(pixels), mode).save(path)
    return path


def camvid(folder, labels=LABELS, **table):
    table = {"names": ["road", "sky", "car"], **table}
    (folder / "classes.json").write_text(json.dumps(table))
    for split in ("train", "val"):
        image(folder / "images" / split / "a.jpg")
        image(folder / "labels" / split / "a.png", labels)
    return folder


def maps(catalogue):
    return {
        split: [sample.load_target((2, 3)).semantic for sample in samples]
        for split, samples in catalogue.splits.items()
    }


def test_folders_with_a_table(tmp_path):
    catalogue = read(camvid(tmp_path))
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("label_maps", ("road", "sky", "car"), {"semantic"})
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 1, "val": 1}
    assert all(torch.equal(found[0], torch.from_numpy(LABELS)) for found in maps(catalogue).values())


def test_one_value_may_be_ignored(tmp_path):
    catalogue = read(camvid(tmp_path, ignore_index=1))
    assert catalogue.classes == ("road", "car")
    assert maps(catalogue)["train"][0].tolist() == [[0, 0, 255], [1, 1, 255]]


def test_colours(tmp_path):
    pixels = np.array(COLOURS, np.uint8)[[[0, 0, 1], [2, 2, 1]]]
    catalogue = read(camvid(tmp_path, pixels, colours=COLOURS))
    assert maps(catalogue)["val"][0].tolist() == [[0, 0, 1], [2, 2, 1]]
    pixels[1, 2] = (1, 2, 3)
    image(tmp_path / "labels" / "val" / "a.png", pixels)
    with pytest.raises(VertebraError, match=r"a\.png: the colour \(1, 2, 3\) in row 1, column 2 is of none of the 3"):
        maps(read(tmp_path))


def test_list_files(tmp_path):
    camvid(tmp_path)
    image(tmp_path / "images" / "train" / "not_listed.jpg")
    (tmp_path / "train.txt").write_text("images/train/a.jpg labels/train/a.png\nimages/val/a.jpg labels/val/gone.png\n")
    catalogue = read(tmp_path)
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 1}
    assert catalogue.problems == [f"{tmp_path}/images/val/a.jpg is skipped: its label map gone.png is not there."]


FORMS = {
    "split folders": ("train/images/a.jpg", "train/masks/a.png"),
    "cityscapes": ("leftImg8bit/train/x/a_leftImg8bit.png", "gtFine/train/x/a_gtFine_labelTrainIds.png"),
    "voc": ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
    "endings": ("images/a.jpg", "labels/a_mask.png"),
    "side by side": ("train/a.jpg", "train/a_mask.png"),
    "duts": ("DUTS-TR-Image/a.jpg", "DUTS-TR-Mask/a.png"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path, form):
    photo, label_map = FORMS[form]
    image(tmp_path / photo)
    image(tmp_path / label_map, LABELS)
    (tmp_path / "classes.json").write_text('["road", "sky", "car"]')
    if form == "voc":
        (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
        (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    catalogue = read(tmp_path, fields={"semantic"})
    assert maps(catalogue)["train"][0].tolist() == LABELS.tolist()
    assert not catalogue.problems


TABLES = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180::\ncar:0,0,142::\n",
    "_classes.csv": "Pixel Value, Class\n0, road\n1, sky\n2, car\n",
    "class_dict.csv": "name,r,g,b\nroad,128,64,128\nsky,70,130,180\ncar,0,0,142\n",
    "label_colors.txt": "128 64 128\troad\n70 130 180\tsky\n0 0 142\tcar\n",
    "classes.txt": "road\nsky\ncar\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    image(tmp_path / "images" / "a.jpg")
    image(tmp_path / "labels" / "a.png", LABELS)
    (tmp_path / name).write_text(TABLES[name])
    catalogue = read(tmp_path, fields={"semantic"})
    assert catalogue.classes == ("road", "sky", "car")
    assert maps(catalogue)["train"][0].tolist() == LABELS.tolist()


def test_ade20k_has_no_class_0(tmp_path):
    image(tmp_path / "images" / "training" / "a.jpg")
    image(tmp_path / "annotations" / "training" / "a.png", LABELS % 255)
    rows = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0\t1\t1\t0\twall\n2\t0\t1\t1\t0\tdoor, wood\n"
    (tmp_path / "objectInfo150.txt").write_text(rows)
    catalogue = read(tmp_path)
    assert catalogue.classes == ("wall", "door")
    assert maps(catalogue)["train"][0].tolist() == [[255, 255, 0], [1, 1, 255]]


def test_masks_of_two_values_need_no_names(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    image(tmp_path / "gt" / "a.png", (LABELS > 0).astype(np.uint8) * 255)
    catalogue = kinds.find("saliency").read(tmp_path)
    assert catalogue.classes == ("background", "salient object")
    assert maps(catalogue)["train"][0].tolist() == [[0, 0, 1], [1, 1, 1]]


def test_grey_masks_are_cut(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    image(tmp_path / "gt" / "a.jpg", np.array([[0, 3, 250], [255, 140, 100]], np.uint8))
    catalogue = read(tmp_path, fields={"semantic"})
    assert catalogue.notes == ["masks have grey values: those of 128 and more are foreground, the others background"]
    (labels,) = maps(catalogue)["train"]
    assert labels[1].tolist()[0] == 1
    assert labels[0].tolist()[0] == 0


def test_many_values_need_names(tmp_path):
    image(tmp_path / "images" / "a.jpg", np.zeros((6, 10, 3), np.uint8))
    image(tmp_path / "gt" / "a.png", np.arange(60, dtype=np.uint8).reshape(6, 10) * 4)
    with pytest.raises(VertebraError, match=r"60 values, up to 236, and nothing that names the classes: write a class"):
        read(tmp_path, fields={"semantic"})


FAULTS = {
    "size": (np.zeros((3, 3), np.uint8), "the label map is 3 x 3 pixels, its image 2 x 3"),
    "value": (
        np.where(LABELS == 2, 7, LABELS).astype(np.uint8),
        "the value 7 in row 1, column 0 is of no class; those from 0 to 255 are",
    ),
    "wide": (LABELS.astype(np.uint16) + 300, "the value 300 in row 0, column 0 is of no class"),
    "colour": (np.zeros((2, 3, 3), np.uint8), "the label map is in colour, and no colours are given"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(tmp_path, fault):
    labels, sentence = FAULTS[fault]
    catalogue = read(camvid(tmp_path, labels))
    sample = catalogue.split("train")[0]
    with pytest.raises(VertebraError, match=sentence):
        sample.load_target((2, 3))
    target, problems = kinds.find("semantic").inspect_sample(sample, (2, 3))
    assert target.semantic is None
    assert len(problems) == 1


def test_jpeg_files_have_no_exact_values(tmp_path):
    camvid(tmp_path)
    (tmp_path / "labels" / "train" / "a.png").unlink()
    image(tmp_path / "labels" / "train" / "a.jpg", LABELS)
    with pytest.raises(VertebraError, match="saved as JPEG"):
        maps(read(tmp_path))


def test_lonely_files_are_named(tmp_path):
    camvid(tmp_path)
    image(tmp_path / "images" / "val" / "b.jpg")
    image(tmp_path / "labels" / "val" / "c.png", LABELS)
    problems = read(tmp_path).problems
    assert problems == [
        f"{tmp_path}/images/val/b.jpg is skipped: it has no label map.",
        f"{tmp_path}/labels/val/c.png is skipped: it has no image.",
    ]


TABLE_FAULTS = {
    '{"names": []}': "the names of the classes is expected",
    '{"names": ["a", "a"]}': "two classes are called 'a'",
    '{"names": ["a", "b"], "colours": [[0, 0, 0]]}': "a colour for each of the 2 names",
    '{"names": ["a", "b"], "colours": [[0, 0, 0], [0, 0, 0]]}': "two classes have the colour",
    '{"names": ["a", "b"], "colours": [[0, 0, 0], [0, 0, 999]]}': "is not red, green and blue from 0 to 255",
    '{"names": ["a", "b"], "ignore_index": true}': "ignore_index is True",
}


@pytest.mark.parametrize("text", TABLE_FAULTS)
def test_faults_of_tables(tmp_path, text):
    camvid(tmp_path)
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(VertebraError, match=TABLE_FAULTS[text]):
        read(tmp_path)


@pytest.fixture
def few_shapes(monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 2, "val": 2})


def test_instance_masks_are_painted(tmp_path, few_shapes):
    shapes.write_coco(tmp_path / "coco", size=32, objects=(1, 3))
    (tmp_path / "coco" / "semantic").rename(tmp_path / "semantic")
    catalogue = kinds.find("semantic").read(tmp_path / "coco")
    assert catalogue.classes == ("background", *shapes.CLASSES)
    sample = catalogue.split("val")[0]
    drawn = np.asarray(Image.open(tmp_path / "semantic" / "val" / sample.image.name))
    assert torch.equal(sample.load_target((32, 32)).semantic, torch.from_numpy(drawn.copy()))


def test_writing_is_painting(tmp_path, few_shapes):
    shapes.write_coco(tmp_path / "coco", size=32, objects=(1, 3))
    _, lost = convert(tmp_path / "coco", "label_maps", tmp_path / "maps")
    assert lost == ["which object a pixel belongs to, and objects beneath others", "keypoints"]
    catalogue = read(tmp_path / "maps")
    assert catalogue.classes == ("background", *shapes.CLASSES)
    sample = catalogue.split("val")[0]
    drawn = np.asarray(Image.open(tmp_path / "coco" / "semantic" / "val" / sample.image.name))
    assert torch.equal(sample.load_target((32, 32)).semantic, torch.from_numpy(drawn.copy()))


def test_recognition_leaves_other_formats_alone(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert not label_maps.recognise(tmp_path)
