"""From one format to another and back: what both hold is the same, what one cannot hold is said."""

import json
import math
import os
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vertebra.data import open_data
from vertebra.data.convert import convert
from vertebra.data.formats import shapes
from vertebra.data.reading import read
from vertebra.errors import VertebraError

HOLE = [[1, 1, 9, 1, 9, 9, 1, 9]]
RING = {"size": [12, 20], "counts": [13, 3, 9, 1, 1, 1, 9, 3, 200]}  # 3 x 3 pixels without the middle one
PIECES = [[0, 0, 4, 0, 4, 4, 0, 4], [10, 6, 14, 6, 14, 10, 10, 10]]
POINTS = [1.25, 2.5, 2, 3, 4, 1]


def source(folder: Path) -> Path:
    """COCO with everything: gaps in the ids, a crowd, holes, pieces, keypoints, a class without an object."""
    rows = [
        (11, 1, 30, [1.25, 1, 7.5, 8.3], HOLE, 0, 61.125, POINTS),
        (5, 1, 4, [1, 1, 3, 3], RING, 1, 8, [0] * 6),
        (12, 8, 4, [1, 1, 3, 3], RING, 0, 8, [0, 0, 0, 5, 6, 2]),
        (13, 8, 30, [0, 0, 14, 10], PIECES, 0, 32, [0] * 6),
    ]
    keys = ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area", "keypoints")
    points = {"keypoints": ["left", "right"], "skeleton": [[1, 2]], "sigmas": [0.1, 0.2]}
    names = ((4, "ant"), (17, "bee"), (30, "cat"))
    content = {
        "images": [{"id": i, "file_name": f"p{i}.jpg", "width": 20, "height": 12} for i in (8, 1, 3)],
        "annotations": [dict(zip(keys, row, strict=True)) for row in rows],
        "categories": [{"id": i, "name": name} | points for i, name in names],
    }
    pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3)).astype(np.uint8)
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        for image in content["images"]:
            Image.fromarray(pixels).save(folder / "images" / split / image["file_name"])
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def pairs(one, other):
    """The samples of two catalogues by the names of their images, with their targets."""
    assert set(one.splits) == set(other.splits)
    for split in one.splits:
        by_name = {sample.image.stem: sample for sample in other.splits[split]}
        assert len(by_name) == len(one.splits[split])
        for sample in one.splits[split]:
            twin = by_name[sample.image.stem]
            assert twin.image.read_bytes() == sample.image.read_bytes()  # never encoded again
            yield sample, twin, sample.load_target((12, 20)), twin.load_target((12, 20))


def test_coco_to_coco_is_all_the_same(tmp_path):
    source(tmp_path / "a")
    _, lost = convert(tmp_path / "a", "coco", tmp_path / "b")
    assert lost == []
    one, other = (read(tmp_path / name) for name in "ab")
    assert (one.classes, one.category_ids, one.keypoints) == (other.classes, other.category_ids, other.keypoints)
    for sample, twin, a, b in pairs(one, other):
        assert (sample.annotation_ids, sample.segments, a.id) == (twin.annotation_ids, twin.segments, b.id)
        for field in ("boxes", "labels", "keypoints", "crowd", "areas"):
            assert torch.equal(getattr(a, field), getattr(b, field))
        assert torch.equal(a.masks.dense(), b.masks.dense())
    first, second = (json.loads((tmp_path / name / "annotations" / "instances_val.json").read_text()) for name in "ab")
    by_id = {annotation["id"]: annotation for annotation in second["annotations"]}
    for annotation in first["annotations"]:
        assert by_id[annotation["id"]].items() >= annotation.items()
    assert [image["id"] for image in second["images"]] == [8, 1, 3]


def test_to_voc_and_back(tmp_path):
    source(tmp_path / "a")
    written, lost = convert(tmp_path / "a", "voc", tmp_path / "b")
    assert lost == ["masks", "keypoints", "areas", "ids", "the classes without an object (bee)"]
    # VOC has one folder for all splits, so names that two splits share get a number.
    assert sorted(path.stem for path in (tmp_path / "b" / "Annotations").iterdir()) == [
        *("p1", "p1-2", "p3", "p3-2", "p8", "p8-2"),
    ]
    other = read(tmp_path / "b", fields={"boxes"})
    assert other.classes == ("ant", "cat")
    for split in ("train", "val"):
        for sample, twin in zip(written.splits[split], other.splits[split], strict=True):
            assert torch.allclose(sample.target.boxes, twin.target.boxes, atol=1e-3)
            names = [written.classes[i] for i in sample.target.labels]
            assert names == [other.classes[i] for i in twin.target.labels]
            assert torch.equal(sample.target.crowd, twin.target.crowd)
            assert sample.target.size == twin.target.size


def test_to_yolo_and_back_with_keypoints(tmp_path):
    source(tmp_path / "a")
    _, lost = convert(tmp_path / "a", "yolo", tmp_path / "b")
    assert lost == ["2 crowd regions", "masks beside keypoints", "skeleton", "sigmas", "areas", "ids"]
    one, other = (read(tmp_path / name) for name in "ab")
    assert one.classes == other.classes
    assert (other.keypoints.names, other.keypoints.flip_indices) == (("left", "right"), (1, 0))
    for _, _, a, b in pairs(one, other):
        kept = ~a.crowd
        assert torch.allclose(a.boxes[kept], b.boxes, atol=1e-4)
        assert torch.allclose(a.keypoints[kept], b.keypoints, atol=1e-4)
        assert torch.equal(a.labels[kept], b.labels)


def test_flip_indices_are_kept_where_the_names_do_not_give_them(tmp_path):
    convert(source(tmp_path / "a"), "yolo", tmp_path / "b")
    path = tmp_path / "b" / "data.yaml"
    content = yaml.safe_load(path.read_text())
    del content["kpt_names"]
    path.write_text(yaml.safe_dump(content))
    _, lost = convert(tmp_path / "b", "coco", tmp_path / "c")
    assert lost == []
    convert(tmp_path / "c", "yolo", tmp_path / "d")
    for name in "bcd":
        schema = read(tmp_path / name).keypoints
        assert (schema.names, schema.flip_indices) == (("0", "1"), (1, 0))


def test_an_area_that_is_not_annotated_is_the_masks(tmp_path):
    for path in (source(tmp_path / "a") / "annotations").iterdir():
        content = json.loads(path.read_text())
        for entry in content["annotations"]:
            del entry["area"]
        path.write_text(json.dumps(content))
    samples = read(tmp_path / "a", fields={"boxes"}).splits["train"]
    assert sorted(area for sample in samples for area in sample.target.areas.tolist()) == [8, 8, 32, 64]


def without_points(folder: Path) -> Path:
    for path in (source(folder) / "annotations").iterdir():
        content = json.loads(path.read_text())
        for entry in content["annotations"] + content["categories"]:
            del entry["keypoints"]
        path.write_text(json.dumps(content))
    return folder


def test_to_yolo_and_back_with_masks(tmp_path):
    without_points(tmp_path / "a")
    _, lost = convert(tmp_path / "a", "yolo", tmp_path / "b")
    assert lost == ["2 crowd regions", "boxes other than around the masks", "areas", "ids"]
    one, other = (read(tmp_path / name, fields={"masks"}) for name in "ab")
    for _, _, a, b in pairs(one, other):
        assert torch.equal(a.masks.dense()[~a.crowd], b.masks.dense())  # holes and pieces too
        assert torch.equal(a.labels[~a.crowd], b.labels)


def test_to_masks_and_back(tmp_path):
    without_points(tmp_path / "a")
    _, lost = convert(tmp_path / "a", "masks", tmp_path / "b")
    assert lost == ["2 crowd regions", "boxes other than around the masks", "ids"]
    _, lost = convert(tmp_path / "b", "coco", tmp_path / "c")
    assert lost == []
    one, two, three = (read(tmp_path / name, fields={"masks"}) for name in "abc")
    assert one.classes == two.classes == three.classes  # the empty class's folder is there
    for other in (two, three):
        for _, _, a, b in pairs(one, other):
            rank = b.labels.argsort(stable=True)
            expected = (~a.crowd).nonzero()[:, 0]
            expected = expected[a.labels[expected].argsort(stable=True)]
            assert torch.equal(a.masks.dense()[expected], b.masks.dense()[rank])
            assert torch.equal(a.labels[expected], b.labels[rank])


def test_numbers_in_files_to_coco(tmp_path):
    for name, values in (("a", [[1, 2], [0, 2]]), ("b", [[2, 2], [1, 1]])):
        for kind, array in (("images", np.zeros((2, 2, 3), np.uint8)), ("masks", np.array(values, np.uint8))):
            (tmp_path / "a" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "a" / kind / f"{name}.png")
    convert(tmp_path / "a", "coco", tmp_path / "b")
    samples = read(tmp_path / "b", fields={"masks"}).splits["train"]
    assert [sample.annotation_ids for sample in samples] == [(1, 2), (3, 4)]  # both files count from 1
    assert samples[0].load_target((2, 2)).masks.dense().tolist() == [
        [[True, False], [False, False]],
        [[False, True]] * 2,
    ]


def test_the_shapes(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS", {"train": 3, "val": 2})
    _, lost = convert("shapes", "coco", tmp_path / "a", seed=4)
    assert lost == []
    for needed in ("masks", "keypoints"):
        drawn = open_data("shapes", fields={needed}, seed=4)
        written = open_data(tmp_path / "a", fields={needed})
        assert (drawn.classes, drawn.keypoints) == (written.classes, written.keypoints)
        for split in ("train", "val"):
            for sample, twin in zip(drawn.splits[split], written.splits[split], strict=True):
                assert np.array_equal(np.asarray(Image.open(twin.image)), sample.image.permute(1, 2, 0))
                a, b = sample.load_target((128, 128)), twin.load_target((128, 128))
                for field in ("boxes", "labels", "areas", "crowd"):
                    assert torch.equal(getattr(a, field), getattr(b, field))
                if needed == "masks":
                    assert torch.equal(a.masks.dense(), b.masks.dense())
                else:
                    assert torch.equal(a.keypoints[..., 2], b.keypoints[..., 2])
                    labelled = a.keypoints[..., 2:] > 0
                    assert torch.allclose(a.keypoints * labelled, b.keypoints, atol=1e-3)
    _, lost = convert("shapes", "yolo", tmp_path / "b")
    assert lost == ["masks beside keypoints", "skeleton", "sigmas"]
    assert len(open_data(tmp_path / "b", fields={"keypoints"}).split("val")) == 2


def test_invalid_annotations_are_not_written(tmp_path):
    path = source(tmp_path / "a") / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [math.nan, 1, 2, 3]
    path.write_text(json.dumps(content))
    written, _ = convert(tmp_path / "a", "coco", tmp_path / "b")
    assert len(written.problems) == 1
    assert read(tmp_path / "b").counts("val", attrgetter("labels")) == [2, 0, 1]


def test_what_cannot_be_converted_is_explained(tmp_path):
    source(tmp_path / "a")
    with pytest.raises(VertebraError, match="is in use; --save takes a folder that is empty or not there"):
        convert(tmp_path / "a", "coco", tmp_path / "a")
    with pytest.raises(VertebraError, match="to is 'cocoa'; there are coco, yolo, voc, masks, label_maps"):
        convert(tmp_path / "a", "cocoa", tmp_path / "b")
    convert(tmp_path / "a", "voc", tmp_path / "voc")
    with pytest.raises(VertebraError, match="has boxes but no masks: convert it to coco, yolo or voc"):
        convert(tmp_path / "voc", "masks", tmp_path / "b")
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "classes" / name / "1.png").touch()
    with pytest.raises(
        VertebraError,
        match="has classes of whole images but no boxes; coco, yolo, voc, masks, label_maps hold objects in images",
    ):
        convert(tmp_path / "classes", "coco", tmp_path / "b")
    for path in (tmp_path / "a" / "annotations").iterdir():
        path.write_text(path.read_text().replace('"bee"', '"b/ee"'))
    with pytest.raises(VertebraError, match=r"class 'b/ee' cannot be the name of a folder of masks; rename it"):
        convert(tmp_path / "a", "masks", tmp_path / "c")


def test_turned_images_are_not_written(tmp_path):
    source(tmp_path / "a")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 12)).save(tmp_path / "a/images/val/p1.jpg", exif=exif)
    written, _ = convert(tmp_path / "a", "voc", tmp_path / "b")
    (skipped,) = written.problems
    assert "p1.jpg: the image is 20 x 12 pixels, its annotations are for 12 x 20 (height x width), perhaps" in skipped
    assert len(read(tmp_path / "b", fields={"boxes"}).split("val")) == 2


def test_masks_are_not_taken_for_another_images(tmp_path):
    for name, values in (("scan", [[1, 0], [0, 2]]), ("scan_1", [[0, 3], [3, 3]])):
        for kind, array in (("images", np.zeros((2, 2, 3), np.uint8)), ("masks", np.array(values, np.uint8))):
            (tmp_path / "a" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "a" / kind / f"{name}.png")
    convert(tmp_path / "a", "masks", tmp_path / "b")
    samples = read(tmp_path / "b", fields={"masks"}).split("train")
    areas = {sample.image.stem: sample.load_target((2, 2)).masks.areas().tolist() for sample in samples}
    assert areas == {"scan": [1, 1], "scan_1": [3]}


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\ud800b", "a\uffffb"])
def test_class_names_that_are_no_text(tmp_path, name, to):
    """XML, YAML and file systems cannot hold them."""
    file = source(tmp_path / "coco") / "annotations" / "instances_train.json"
    file.write_text(json.dumps(json.loads(file.read_text().replace('"ant"', json.dumps(name)))))
    with pytest.raises(VertebraError, match=r"class 'a.*b' has characters that are no text; rename it"):
        convert(file, to, tmp_path / "out")


def test_file_names_that_are_no_text(tmp_path):
    source(tmp_path / "coco")
    folder = tmp_path / "coco" / "images" / "train"
    file = tmp_path / "coco" / "annotations" / "instances_train.json"
    names = {"p1.jpg": os.fsdecode(b"\xff.jpg"), "p8.jpg": "a\nb.jpg"}
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["file_name"] = names.get(image["file_name"], image["file_name"])
    file.write_text(json.dumps(content))
    for old, new in names.items():
        (folder / old).rename(folder / new)
    convert(file, "voc", tmp_path / "voc")
    samples = read(tmp_path / "voc", fields={"boxes"}).splits["train"]
    assert sorted(sample.image.name for sample in samples) == ["a_b.jpg", "p3.jpg", "\ufffd.jpg"]


def test_no_memory_for_an_image_as_large_as_its_file_says(tmp_path):
    """The area of a mask is computed where the file has none."""
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100_000, "height": 100_000}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 9, 9],
                "segmentation": {"size": [100_000, 100_000], "counts": [0, 10**10]},
            },
        ],
    }
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(content))
    catalogue = read(tmp_path / "a.json")
    assert "annotation 2 is skipped: its mask is of an image of 100000 x 100000 pixels" in catalogue.problems[0]
