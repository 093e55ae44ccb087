"""`vertebra data` on objects, and `vertebra data convert`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = "annotations/instances_{}.json"


@pytest.fixture
def coco(tmp_path) -> Path:
    """Four images to train, two to validate, all but one with objects of 10 and 50 pixels and a crowd of 100."""
    folder = tmp_path / "coco"
    random = np.random.default_rng(0)
    for split, numbers in (("train", (1, 2, 3, 4)), ("val", (5, 6))):
        (folder / "images" / split).mkdir(parents=True)
        for i in numbers:
            pixels = random.integers(0, 255, (120, 160, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{i}.png")
        rows = [
            (10 * i + j, i, 1 + j % 2, [4, 4, side, side], j == 2)
            for i in numbers
            for j, side in enumerate((10, 50, 100))
            if i != 4
        ]
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 160, "height": 120} for i in numbers],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                    "segmentation": [[4, 4, 4 + box[2], 4, 4 + box[2], 4 + box[3], 4, 4 + box[3]]],
                }
                for number, image, category, box, crowd in rows
            ],
            "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dust"}, {"id": 9, "name": "none"}],
        }
        path = folder / FOLDER.format(split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def alter(folder: Path, split: str, place: int, **changes) -> Path:
    path = folder / FOLDER.format(split)
    content = json.loads(path.read_text())
    content["annotations"][place] |= changes
    path.write_text(json.dumps(content))
    return path


def lines(out: str) -> list[str]:
    """Without the borders of tables."""
    return [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]


def test_a_report(coco, run_vertebra):
    found = lines(run_vertebra("data", coco))
    assert "(coco: boxes, masks)" in " ".join(found)
    assert "cell 6 66.7% 3 4 66.7% 2" in found  # objects, their share, images that have one
    assert "dust 3 33.3% 3 2 33.3% 2" in found
    assert "none 0 0.0% 0 0 0.0% 0" in found
    assert "all 9 4 6 2" in found
    assert "per image 0 to 3, median 3 3 to 3, median 3" in found
    assert "images without any 1 0" in found
    assert "crowd regions 3 2" in found
    assert "box width 10 to 100, median 50 10 to 100, median 50" in found
    for word in ("small, area < 32²", "medium", "large, area ≥ 96²"):
        assert f"{word} 33.3% 33.3%" in found
    assert "height: 120 to 120 pixels, median 120" in found
    assert "note: 1 of 3 classes have no object in train: none" in found
    assert "6 images read, 0 problems" in found


def test_problems(coco, run_vertebra):
    file = alter(coco, "train", 0, bbox=[4, 4, 0, 5])
    alter(coco, "train", 1, segmentation={"size": [120, 160], "counts": "zzz"})
    alter(coco, "train", 3, segmentation=[[1.2, 1.2, 1.3, 1.2, 1.3, 1.3]], bbox=[4, 4, 100, 100], category_id=1)
    alter(coco, "val", 0, bbox=[4, 4, 50, 50], category_id=2)
    images = coco / "images"
    shutil.copy(images / "train" / "1.png", images / "val" / "6.png")
    Image.new("RGB", (120, 160)).save(images / "train" / "3.png")
    (images / "train" / "4.png").write_text("no image")
    problems = [line.removeprefix("problem: ") for line in lines(run_vertebra("data", coco)) if "problem: " in line]
    expected = [
        f"{file}, annotation 10 is skipped: its box is 0 x 5 pixels (width x height).",
        f"{file}, annotation 11 is skipped: its run lengths are not in COCO's compressed form.",
        f"{images / 'train' / '2.png'}, annotation 20: its mask has no pixel.",
        f"{images / 'train' / '2.png'}, annotation 22 has the class and box of annotation 20.",
        f"{images / 'train' / '3.png'}: the image is 160 x 120 pixels, its annotations are for 120 x 160 (height x "
        "width), perhaps because its EXIF tag turns it.",
        f"{images / 'train' / '4.png'}: not an image in any known format, whatever its name.",
        f"{images / 'val' / '5.png'}, annotation 51 has the class and box of annotation 50.",
        f"{images / 'val' / '6.png'} and {images / 'train' / '1.png'}: the same pixels, but other objects, in both",
    ]
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(beginning)


def test_masks_in_files(coco, tmp_path, run_vertebra):
    out = run_vertebra("data", "convert", coco, "--to=masks", f"--save={tmp_path / 'masks'}")
    assert "note: masks cannot hold 5 crowd regions, boxes other than around the masks, ids; they are dropped" in out
    Image.new("L", (160, 120)).save(tmp_path / "masks" / "val" / "masks" / "cell" / "5_9.png")
    found = lines(run_vertebra("data", tmp_path / "masks"))
    assert "cell 3 50.0% 3 3 60.0% 2" in found
    assert "box width 10 to 50, median 30 10 to 50, median 30" in found
    assert any(line.endswith("val/images/5.png, object 2: its mask has no pixel.") for line in found)


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "masks"])
def test_every_format_can_be_looked_at(coco, tmp_path, run_vertebra, to):
    out = run_vertebra("data", "convert", coco, f"--to={to}", f"--save={tmp_path / 'new'}")
    assert f"{tmp_path / 'new'} holds {coco} as {to}: train 4 images and 9 objects, val 2 images and 6 obj" in out
    assert ("note: " in out) == (to != "coco")
    assert "6 images read, 0 problems" in run_vertebra("data", tmp_path / "new")


def test_unreadable_annotations_are_told_when_converting(coco, tmp_path, run_vertebra):
    file = alter(coco, "train", 0, bbox=[4, 4, 0, 5])
    out = run_vertebra("data", "convert", coco, "--to=voc", f"--save={tmp_path / 'new'}")
    assert f"problem: {file}, annotation 10 is skipped: its box is 0 x 5 pixels (width x height)." in out


def test_mistakes(coco, photos, tmp_path, complaint):
    save = f"--save={tmp_path / 'new'}"
    assert "has classes of whole images but no boxes" in complaint("data", "convert", photos, "--to=coco", save)
    assert "is in use" in complaint("data", "convert", coco, "--to=coco", f"--save={coco}")
    assert "to is 'kitti'; there are coco, yolo, voc" in complaint("data", "convert", coco, "--to=kitti", save)
    assert "Did you mean '--save'?" in complaint("data", "convert", coco, "--to=coco", "--safe=x")
    assert "is not there" in complaint("data", "convert", tmp_path / "nowhere", "--to=coco", save)
    for missing in (["--to=coco"], [save]):
        complaint("data", "convert", coco, *missing)


def test_a_contact_sheet(coco, tmp_path, run_vertebra):
    path = tmp_path / "sheets" / "sheet.png"
    out = run_vertebra("data", coco, f"--save={path}")
    assert "6 images read, 0 problems" in out
    assert f"6 images with their annotations in {path}" in out
    with Image.open(path) as file:
        assert file.width == 6 * 336 + 16  # of 320 pixels, twice as large as the images


def test_the_built_in_shapes_as_a_sheet_or_a_folder(tmp_path, few_shapes, run_vertebra):
    out = run_vertebra("data", "shapes", f"--save={tmp_path / 'sheet.jpg'}")
    assert "(shapes: boxes, masks, keypoints)" in out
    assert f"18 images with their annotations in {tmp_path / 'sheet.jpg'}" in out
    assert (tmp_path / "sheet.jpg").is_file()
    run_vertebra("data", "shapes", f"--save={tmp_path / 'sheet.tif'}")
    assert (tmp_path / "sheet.tif" / "train").is_dir()


@pytest.mark.parametrize("name", ["sheet", "sheet.tif", "sheet.html"])
def test_a_sheet_of_another_format(tmp_path, complaint, name):
    """It is refused before anything is read."""
    sentence = complaint("data", tmp_path / "nowhere", f"--save={tmp_path / name}")
    assert "a contact sheet ends in .png, .jpg, .jpeg, .webp (a folder is for the built-in images" in sentence
    assert not (tmp_path / name).exists()


def test_real_sets(data_folder, run_vertebra):
    found = lines(run_vertebra("data", data_folder / "keypoints"))
    assert "4 images read, 0 problems" in found
    assert "person 9 100.0% 3 5 100.0% 1" in found
    assert "keypoints: 2 visible, 1 occluded, 0 not labelled" in found
    assert "left_hip 6 2 1 4 0 1" in found
    (note,) = [line for line in found if "objects without a labelled keypoint: " in line]
    assert "labelled keypoint: 2 (" in note
    assert "000000196141.jpg, annotation 508900)" in note
    assert not any("swapped" in line or "outside" in line for line in found)


def test_a_box_without_area_is_skipped_with_its_keypoints(coco, run_vertebra):
    file = alter(coco, "train", 0, bbox=[4, 4, 0, 0], keypoints=[4, 4, 2])
    alter(coco, "train", 1, keypoints=[4, 4, 1])
    found = lines(run_vertebra("data", coco))
    assert f"problem: {file}, annotation 10 is skipped: its box is 0 x 0 pixels (width x height)." in found
    assert "0 0 1 4 0 0 4" in found  # keypoint 0, of five and four objects that are no crowd regions
