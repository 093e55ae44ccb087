"""Hugging Face's ImageFolder with metadata.jsonl or metadata.csv to samples."""

import json

import pytest

from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError


@pytest.fixture
def hugging_face(tmp_path, save_image):
    """Writes rows to a metadata file and the images that they name, and returns the folder of all."""

    def write(*rows, folder=".", file="metadata.jsonl", images=True):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / folder / file).write_text("\n".join(lines) + "\n")
        for row in rows if images else ():
            if isinstance(row, dict) and isinstance(row.get("file_name"), str):
                save_image(f"{folder}/{row['file_name']}")
        return tmp_path

    return write


def objects(bbox=((2, 3, 4, 5),), key="categories", names=(1,), **more):
    return {"bbox": [list(box) for box in bbox], key: list(names), **more}


@pytest.mark.parametrize("key", ["categories", "category", "label"])
def test_boxes_are_cocos(hugging_face, read_one, key):
    path = hugging_face({"file_name": "a.png", "objects": objects([(2, 3, 4, 5), (1, 1, 2, 2)], key, [1, 0])})
    catalogue, sample = read_one(path)
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("hugging_face", ("0", "1"), {"boxes"})
    assert sample.target.boxes.tolist() == [[2, 3, 6, 8], [1, 1, 3, 3]]
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.target.areas.tolist() == [20, 4]


def test_objects_one_by_one_with_masks(hugging_face, read_one, mask_of):
    polygon = [[2, 3, 6, 3, 6, 5, 2, 5]]
    item = {"bbox": [2, 3, 4, 2], "category": "cat", "segmentation": polygon, "area": 8.0, "iscrowd": 0}
    _, sample = read_one(hugging_face({"file_name": "a.png", "objects": [item]}), "masks")
    assert mask_of(sample, 0)[3:5] == ["..####" + 14 * "."] * 2
    assert sample.target.areas.tolist() == [8]


def test_keypoints(hugging_face, read_one):
    keypoints = [[[3, 4, 2], [0, 0, 0]]]
    path = hugging_face({"file_name": "a.png", "objects": objects(keypoints=keypoints)})
    catalogue, sample = read_one(path, "keypoints")
    assert catalogue.keypoints.names == ("0", "1")
    assert sample.target.keypoints.tolist() == [[[3, 4, 2], [0, 0, 0]]]


def test_labels(hugging_face):
    path = hugging_face(*({"file_name": f"{name}.png", "label": name} for name in ("dog", "cat")))
    catalogue = read(path)
    assert (catalogue.classes, catalogue.has) == (("cat", "dog"), {"label"})
    assert [sample.label for sample in catalogue.splits["train"]] == [1, 0]


def test_csv(hugging_face, save_image):
    save_image("a.png")
    save_image("b, c.png")
    path = hugging_face("file_name,label,text", "a.png,1,one", '"b, c.png",0,"two, three"', file="metadata.csv")
    assert read(path).classes == ("0", "1")
    assert read(path / "metadata.csv").format == "hugging_face"


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "validation", "test"], {"train", "val", "test"}),
        (["test"], {"test"}),
        (["data"], {"train"}),
        (["data/train", "data/val"], {"train", "val"}),
    ],
)
def test_splits_by_folder(hugging_face, folders, splits):
    for folder in folders:
        path = hugging_face({"file_name": "a.png", "objects": objects()}, folder=folder)
    assert set(read(path).splits) == splits


def test_splits_by_the_names_of_files(hugging_face):
    rows = [{"file_name": f"{split}/a.png", "label": split} for split in ("train", "valid")]
    assert set(read(hugging_face(*rows)).splits) == {"train", "val"}


def test_metadata_without_labels_leaves_folders_of_classes(hugging_face):
    rows = [{"file_name": f"{name}/1.png", "text": "a caption"} for name in ("cat", "dog")]
    assert read(hugging_face(*rows)).format == "folder"


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"file_name": "b.png", "objects": objects(names=[1, 2])}, "its 'categories' has 2 values for 1 boxes"),
        ({"file_name": "b.png", "objects": objects(key="kind")}, "object 1 is skipped: it has no category"),
        ({"file_name": "b.png", "objects": objects([(1, 2, 3)])}, "its bbox is [1, 2, 3], [x, y, width, height] is"),
        ({"file_name": "b.png", "objects": objects([(1, 2, "x", 4)])}, "its bbox is 'x', a number is expected"),
        ({"file_name": "b.png", "objects": objects([(1, 2, 0, 4)])}, "its box is 0 x 4 pixels (width x height)"),
        ({"file_name": "b.png", "objects": objects(keypoints=[[1, 2]])}, "its keypoints are not three numbers each"),
        (
            {"file_name": "b.png", "objects": objects(keypoints=[[1, 2, 5]])},
            "the visibility of its keypoint '0' is 5.0, not",
        ),
        ({"file_name": "b.png", "objects": 5}, "its objects is 5, a JSON object is expected"),
        ({"file_name": "b.png", "label": ["x"], "objects": {}}, "its label is ['x'], text is expected"),
        ({"file_name": 5, "objects": {}}, "its file_name is 5, text is expected"),
        ({"objects": {}}, "it has no file_name"),
        ([], "its row is [], a JSON object is expected"),
    ],
)
def test_rows_that_are_invalid_are_skipped(hugging_face, wrong, fault):
    path = hugging_face({"file_name": "a.png", "objects": objects()}, wrong)
    (problem,) = read(path).problems
    assert problem.startswith(f"{path / 'metadata.jsonl'}, line 2")
    assert fault in problem


def test_images_that_are_not_there(hugging_face):
    path = hugging_face({"file_name": "a.png", "objects": objects()})
    with (path / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "b.png", "objects": {"bbox": [], "categories": []}}\n')
    assert read(path).problems == [f"{path / 'metadata.jsonl'}, line 2 is skipped: {path / 'b.png'} is not there."]


def test_a_line_that_is_not_json(hugging_face):
    path = hugging_face({"file_name": "a.png", "label": "x"}, '{"file_name": "b')
    with pytest.raises(VertebraError, match=r"metadata\.jsonl, row 2, line 1: not valid JSON"):
        read(path)


def test_conversion(hugging_face, tmp_path, capsys):
    path = hugging_face({"file_name": "a.png", "objects": objects()}, folder="x/train") / "x"
    main(["data", str(path)])
    assert "hugging_face" in capsys.readouterr().out
    main(["data", "convert", str(path), "--to=coco", f"--save={tmp_path / 'coco'}"])
    (sample,) = read(tmp_path / "coco").splits["train"]
    assert sample.target.boxes.tolist() == [[2, 3, 6, 8]]
