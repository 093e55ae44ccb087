"""Images with label maps, in every form, with every table of classes."""

import json
import math
import struct
import zlib

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
        "the value 7 in row 1, column 0 is of no class; those from 0 to 2 are",
    ),
    "values": (
        np.array([[3, 0, 5], [3, 4, 9]], np.uint8),
        r"the value 3 in row 0, column 0 is of no class \(nor are 4, 5, 9\); those from 0 to 2 are",
    ),
    "many values": (
        np.array([[9, 3, 4], [5, 6, 7]], np.uint8),
        r"the value 9 in row 0, column 0 is of no class \(nor are 3, 4, 5, 6, 7\); those",
    ),
    "wide": (
        np.array([[0, 1, 2], [0, 256, 511]], np.uint16),  # whose lower bytes are classes
        r"the value 256 in row 1, column 1 is of no class \(nor are 511\); those from 0 to 2 are",
    ),
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


NUMBERS = {
    "negative": (np.array([[0, 1, 2], [-1, 0, 0]], np.int32), "the value -1 in row 1, column 0 is of no class"),
    "fraction": (np.array([[0, 1, 2], [0.5, 0, 0]], np.float32), "the value 0.5 in row 1, column 0 is of no class"),
    "not a number": (
        np.array([[0, 1, 2], [math.nan, 0, 0]], np.float32),
        "the value nan in row 1, column 0 is of no class",
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_tiff_files(tmp_path, name):
    camvid(tmp_path)
    (tmp_path / "labels" / "train" / "a.png").unlink()
    values, sentence = NUMBERS[name]
    image(tmp_path / "labels" / "train" / "a.tif", values)
    with pytest.raises(VertebraError, match=sentence):
        maps(read(tmp_path))
    image(tmp_path / "labels" / "train" / "a.tif", LABELS.astype(values.dtype))
    assert maps(read(tmp_path))["train"][0].tolist() == LABELS.tolist()


def test_black_and_white_are_the_first_two_classes(tmp_path):
    camvid(tmp_path)
    Image.fromarray(LABELS == 1).save(tmp_path / "labels" / "train" / "a.png")  # a bit per pixel
    assert maps(read(tmp_path))["train"][0].tolist() == [[0, 0, 1], [0, 0, 0]]


def test_white_is_the_second_of_two_classes_if_no_other_pixel_is(tmp_path, monkeypatch):
    monkeypatch.setattr(label_maps, "EXAMINED", 1)
    camvid(tmp_path, (LABELS > 0).astype(np.uint8) * 255, names=["background", "crack"], ignore_index=255)
    catalogue = read(tmp_path)
    assert maps(catalogue)["train"][0].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert catalogue.notes == ["label maps have no values but 0 and 255: 255 is read as 'crack', not ignored"]
    image(tmp_path / "labels" / "val" / "a.png", np.array([[0, 0, 1], [255, 0, 0]], np.uint8))
    assert maps(read(tmp_path))["train"][0].tolist() == [[0, 0, 255], [255, 255, 255]]


def test_transparency_counts_for_nothing(tmp_path):
    camvid(tmp_path)
    Image.fromarray(np.stack([LABELS, LABELS * 0], 2)).save(tmp_path / "labels" / "train" / "a.png")
    assert maps(read(tmp_path))["train"][0].tolist() == LABELS.tolist()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts])


FILES = {
    "empty": (b"", "the file is empty (0 bytes)"),
    "text": (b"no image", "not an image in any known format, whatever its name"),
    "cut off": (png(3, 2, bytes(8))[:45], "cannot be decoded"),
    "a row missing": (png(3, 2, bytes(4)), "cut off: its data end before the last of its 3 x 2 pixels"),
    "a bomb": (png(60_000, 60_000, bytes(9)), "more than 178,956,970 pixels, the most that is decoded"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("named", [True, False])
def test_files_that_cannot_be_read_are_problems_of_their_image(tmp_path, name, named):
    content, sentence = FILES[name]
    camvid(tmp_path, (LABELS > 0).astype(np.uint8))
    if not named:  # the masks are looked at, to find out whether they have two values
        (tmp_path / "classes.json").unlink()
    file = tmp_path / "labels" / "val" / "a.png"
    file.write_bytes(content)
    catalogue = read(tmp_path, fields={"semantic"})
    assert catalogue.split("train")[0].load_target((2, 3)).semantic.tolist() == [[0, 0, 1], [1, 1, 1]]
    _, (problem,) = kinds.find("semantic").inspect_sample(catalogue.split("val")[0], (2, 3))
    assert problem.startswith(f"{file}: {sentence}")


# colours of the classes 0, 1, 2; one of no class
ROAD, SKY, CAR, OTHER = *COLOURS, [1, 2, 3]
GREYS = [[i, i, i] for i in range(256)]
PALETTES = {
    "in the order of the table": (COLOURS, [[0, 0, 1], [2, 2, 1]], [[0, 0, 1], [2, 2, 1]]),
    "in another order": ([CAR, ROAD, SKY], [[0, 0, 1], [2, 2, 1]], [[2, 2, 0], [1, 1, 0]]),
    "of the colours that occur": ([CAR, SKY], [[0, 0, 1], [0, 0, 1]], [[2, 2, 1], [2, 2, 1]]),
    "for viewing": (GREYS, [[0, 0, 1], [2, 2, 1]], [[0, 0, 1], [2, 2, 1]]),
    "for viewing, with the colour of another class": (
        [CAR, *GREYS[1:]],
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ),
    "of many, the indices no classes": ([*GREYS[:9], CAR, SKY], [[9, 9, 9], [9, 9, 10]], [[2, 2, 2], [2, 2, 1]]),
    "with an ignored colour": (
        COLOURS + [OTHER] * 253,
        [[0, 0, 1], [2, 255, 255]],
        [[0, 0, 1], [2, 255, 255]],
    ),
}


@pytest.mark.parametrize("palette", PALETTES)
def test_indexed_files_of_a_table_with_colours(tmp_path, palette):
    colours, indices, labels = PALETTES[palette]
    camvid(tmp_path, colours=COLOURS)
    indexed = Image.fromarray(np.array(indices, np.uint8))
    indexed.putpalette(np.ravel(colours).tolist())
    indexed.save(tmp_path / "labels" / "train" / "a.png")
    assert maps(read(tmp_path))["train"][0].tolist() == labels


def test_a_colour_of_no_class_in_a_palette_of_the_table(tmp_path):
    camvid(tmp_path, colours=COLOURS)
    indexed = Image.fromarray(np.array([[0, 0, 1], [2, 2, 1]], np.uint8))
    indexed.putpalette(np.ravel([CAR, ROAD, OTHER]).tolist())
    indexed.save(tmp_path / "labels" / "train" / "a.png")
    with pytest.raises(VertebraError, match=r"the colour \(1, 2, 3\) in row 1, column 0 is of none of the 3 classes"):
        maps(read(tmp_path))


def test_indexed_files_of_a_table_without_colours(tmp_path):
    camvid(tmp_path)
    indexed = Image.fromarray(LABELS)
    indexed.putpalette(np.ravel(GREYS[::-1]).tolist())
    indexed.save(tmp_path / "labels" / "train" / "a.png")
    assert maps(read(tmp_path))["train"][0].tolist() == LABELS.tolist()


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


def test_images_without_label_maps_in_a_folder_of_a_split(tmp_path):
    camvid(tmp_path)
    image(tmp_path / "images" / "test" / "b.jpg")
    catalogue = read(tmp_path)
    assert (list(catalogue.splits), catalogue.problems) == (["train", "val"], [])
    assert catalogue.notes == [f"{tmp_path}/images/test is ignored: its images have no label maps"]


def test_a_list_that_names_missing_files(tmp_path):
    camvid(tmp_path)
    (tmp_path / "train.txt").write_text(
        "images/train/b.jpg labels/train/a.png\nimages/train/a.jpg labels/train/a.png\n"
    )
    assert read(tmp_path).problems == [f"{tmp_path}/labels/train/a.png is skipped: its image b.jpg is not there."]
    (tmp_path / "train.txt").write_text("images/train/b.jpg labels/train/b.png\n")
    with pytest.raises(
        VertebraError, match=r"has no image with a label map\. .*b\.jpg is skipped: its label map b\.png"
    ):
        read(tmp_path)
    (tmp_path / "train.txt").write_text("images/train/a.jpg labels/train/a.png\nimages/train/a.jpg\n")
    with pytest.raises(VertebraError, match=r"train\.txt, line 2: an image and its label map are expected"):
        read(tmp_path)


def test_weights_of_classes_leave_out_what_cannot_be_read(tmp_path):
    camvid(tmp_path, np.array([[0, 0, 0], [0, 255, 1]], np.uint8))
    image(tmp_path / "images" / "train" / "b.jpg")
    (tmp_path / "labels" / "train" / "b.png").write_bytes(b"")
    weights = kinds.find("semantic").model_options(read(tmp_path), balance=True)["class_weights"]
    raw = [1 / math.log(1.02 + share) for share in (0.8, 0.2, 0)]
    assert weights == pytest.approx([value / (sum(raw) / 3) for value in raw], abs=1e-6)


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


WHITE = np.array([[0, 3, 250], [255, 251, 100]], np.uint8)
"""A mask as JPEG files have it."""


@pytest.mark.parametrize("place", ["images/a.jpg masks/a.png", "images/train/a.jpg masks/train/a.png"])
def test_white_masks_are_label_maps_where_the_task_needs_them(tmp_path, place):
    """Masks of instances hold small numbers, and are painted."""
    photo, mask = place.split()
    image(tmp_path / photo)
    image(tmp_path / mask, WHITE)
    catalogue = read(tmp_path, fields={"semantic"})
    assert catalogue.format == "label_maps"
    assert maps(catalogue)["train"][0].tolist() == [[0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_instance_maps_are_no_label_maps(tmp_path, dtype):
    image(tmp_path / "images" / "a.jpg")
    image(
        tmp_path / "masks" / "a.png", np.array([[0, 30, 250], [1, 250, 30]]).astype(dtype) * (1 + (dtype == np.uint16))
    )
    assert read(tmp_path, fields={"masks"}).format == "masks"
    assert not label_maps.recognise(tmp_path)
