"""COCO's JSON to samples, and a sentence for everything that can be wrong with it."""

import copy
import json
import math
import time
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.data import open_data
from vertebra.data.catalogue import Sample, map_classes
from vertebra.data.reading import read
from vertebra.errors import VertebraError
from vertebra.structures import COCO_PERSON, KeypointSchema, Target

LABELS = attrgetter("labels")

SQUARE = [[2, 1, 6, 1, 6, 5, 2, 5]]
RUNS = {"size": [8, 10], "counts": [9, 2, 6, 2, 61]}  # columns 1 and 2, rows 1 and 2
CONTENT = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 10, "height": 8},
        {"id": 3, "file_name": "b.png", "width": 10, "height": 8},
        {"id": 9, "file_name": "c.png", "width": 10, "height": 8},
    ],
    "annotations": [
        {"id": 40, "image_id": 3, "category_id": 90, "bbox": [2, 1, 4, 4], "area": 16, "segmentation": SQUARE},
        {"id": 41, "image_id": 7, "category_id": 2, "bbox": [1, 1, 2, 2], "area": 4, "segmentation": RUNS},
        {
            "id": 42,
            "image_id": 3,
            "category_id": 2,
            "bbox": [1, 1, 2, 2],
            "area": 3.5,
            "segmentation": RUNS,
            "iscrowd": 1,
        },
    ],
    "categories": [{"id": 90, "name": "zebra"}, {"id": 2, "name": "ant"}, {"id": 5, "name": "bee"}],
}


def write(
    folder: Path, content: object = CONTENT, name: str = "annotations/instances_train.json", images="images/train"
):
    """A COCO folder; its image files are empty, so whoever opens one fails."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / images).mkdir(parents=True, exist_ok=True)
    for entry in content.get("images", []) if isinstance(content, dict) else []:
        if isinstance(entry, dict) and "file_name" in entry:
            (folder / images / entry["file_name"]).touch()
    return folder


def altered(changes: dict, where: str = "annotations", place: int = 0) -> dict:
    """CONTENT with other values in one entry; None takes a key away."""
    content = copy.deepcopy(CONTENT)
    for key, value in changes.items():
        if value is None:
            content[where][place].pop(key)
        else:
            content[where][place][key] = value
    return content


def three(folder: Path, **options):
    """The samples by the names of their images, in the file's own splits."""
    catalogue = read(folder, **options)
    return catalogue, {Path(sample.image).stem: sample for sample in catalogue.split("train")}


def test_values(tmp_path):
    catalogue, samples = three(write(tmp_path), fields={"masks"})
    assert (catalogue.format, catalogue.classes, catalogue.category_ids) == (
        "coco",
        ("ant", "bee", "zebra"),
        (2, 5, 90),
    )
    assert catalogue.has == {"boxes", "masks"}
    assert catalogue.problems == catalogue.notes == []
    b = samples["b"]
    assert b.image == tmp_path / "images" / "train" / "b.png"
    assert b.target.boxes.tolist() == [[2, 1, 6, 5], [1, 1, 3, 3]]
    assert b.target.labels.tolist() == [2, 0]
    assert b.target.crowd.tolist() == [False, True]
    assert b.target.areas.tolist() == [16, 3.5]
    assert (b.target.id, b.target.size, b.annotation_ids) == (3, (8, 10), (40, 42))
    assert b.target.label is None
    target = b.load_target((8, 10))
    assert [mask.nonzero().tolist() for mask in target.masks] == [
        [[y, x] for y in range(1, 5) for x in range(2, 6)],
        [[1, 1], [1, 2], [2, 1], [2, 2]],
    ]
    assert catalogue.counts("train", LABELS) == [2, 0, 1]


def test_an_image_without_objects(tmp_path):
    _, samples = three(write(tmp_path), fields={"masks"})
    target = samples["c"].load_target((8, 10))
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == target.areas.shape == target.crowd.shape == (0,)
    assert target.labels.dtype == torch.int64
    assert target.crowd.dtype == torch.bool
    assert (len(target.masks), target.masks.size) == (0, (8, 10))


def test_opening_decodes_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("an image or mask was opened")

    monkeypatch.setattr("vertebra.images.open_image", refuse)
    monkeypatch.setattr("vertebra.data.segments.open_image", refuse)
    monkeypatch.setattr("vertebra.ops.rle.decode", refuse)
    assert len(open_data(write(tmp_path), fields={"masks"}).split("train")) == 2


def test_masks_that_are_not_needed_are_not_kept(tmp_path):
    _, samples = three(write(tmp_path), fields={"boxes"})
    assert samples["b"].segments == ()
    assert samples["b"].load_target((8, 10)).masks is None


def test_compressed_run_lengths(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    expected = np.random.default_rng(0).random((8, 10)) < 0.4
    encoded = mask.encode(np.asfortranarray(expected.astype(np.uint8)))
    runs = {"size": [8, 10], "counts": encoded["counts"].decode()}
    _, samples = three(write(tmp_path, altered({"segmentation": runs, "iscrowd": 1})), fields={"masks"})
    target = samples["b"].load_target((8, 10))
    assert np.array_equal(target.masks[0], expected)
    assert target.crowd.tolist() == [True, True]


def test_several_polygons_are_one_mask(tmp_path):
    pieces = [[1, 1, 2, 2], [0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 8, 4, 8, 6, 4, 6]]  # the first of two points only
    _, samples = three(write(tmp_path, altered({"segmentation": pieces})), fields={"masks"})
    assert int(samples["b"].load_target((8, 10)).masks[0].sum()) == 4 + 8


def test_a_polygon_that_crosses_itself(tmp_path):
    bow = [[0, 0, 8, 8, 8, 0, 0, 8]]
    catalogue, samples = three(write(tmp_path, altered({"segmentation": bow, "bbox": [0, 0, 8, 8]})), fields={"masks"})
    assert not catalogue.problems
    assert 0 < int(samples["b"].load_target((8, 10)).masks[0].sum()) < 64


def test_two_thousand_objects(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["annotations"] = [
        {"id": i, "image_id": 7, "category_id": 2, "bbox": [i % 9, i % 7, 1, 1], "area": 1, "segmentation": RUNS}
        for i in range(2000)
    ]
    _, samples = three(write(tmp_path, content), fields={"masks"})
    assert samples["a"].load_target((8, 10)).masks.dense().shape == (2000, 8, 10)


def test_two_thousand_masks_of_a_large_image_are_kept_in_their_rectangles():
    size = (3000, 4000)  # whole, they were 24 gigabytes
    squares = [[[x, x, x + 20, x, x + 20, x + 20, x, x + 20]] for x in range(2000)]
    target = Target(boxes=torch.zeros(2000, 4), labels=torch.zeros(2000).long(), size=size, path="a.png")
    masks = Sample(Path("a.png"), target, tuple(squares)).load_target(size).masks
    assert masks.size == size
    assert sum(crop.numel() for crop in masks.crops) == 2000 * 400
    assert masks.corners[7] == (7, 7)


# -- where things lie


@pytest.mark.parametrize("images", ["images/val", "val", "val2017", "images/val2017", "images", "annotations", "."])
def test_where_the_images_lie(tmp_path, images):
    write(tmp_path, name="annotations/instances_val2017.json", images=images)
    (sample, *_) = open_data(tmp_path, fields={"boxes"}).split("val")
    assert sample.image == tmp_path / images / "a.png"


def test_images_by_paths_in_the_file(tmp_path):
    content = copy.deepcopy(CONTENT)
    for entry in content["images"]:
        entry["file_name"] = f"deep/{entry['file_name']}"
    (tmp_path / "images" / "train" / "deep").mkdir(parents=True)
    (sample, *_) = read(write(tmp_path, content), fields={"boxes"}).split("train")
    assert sample.image == tmp_path / "images" / "train" / "deep" / "a.png"


def test_splits_by_the_files_names(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path, name=f"annotations/instances_{split}2017.json", images=f"{split}2017")
        write(tmp_path, name=f"annotations/captions_{split}2017.json", images=f"{split}2017")
    catalogue = open_data(tmp_path, fields={"boxes"})
    assert {name: len(samples) for name, samples in catalogue.splits.items()} == {"train": 3, "val": 3, "test": 3}
    assert catalogue.splits["val"][0].image == tmp_path / "val2017" / "a.png"


def test_a_single_file_is_the_split_in_its_name(tmp_path):
    write(tmp_path, name="my_val.json", images=".")
    assert set(open_data(tmp_path / "my_val.json", fields={"boxes"}).splits) == {"val"}
    write(tmp_path, name="mine.json", images=".")
    assert set(open_data(tmp_path / "mine.json", fields={"boxes"}).splits) == {"train", "val"}


def test_exports_with_a_file_among_the_images(tmp_path):
    for split in ("train", "valid"):
        write(tmp_path, name=f"{split}/_annotations.coco.json", images=split)
    catalogue = open_data(tmp_path, fields={"boxes"})
    assert {name: len(samples) for name, samples in catalogue.splits.items()} == {"train": 3, "val": 3}
    assert catalogue.splits["val"][0].image == tmp_path / "valid" / "a.png"


def test_without_a_val_split_images_are_divided(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["images"] = [{"id": i, "file_name": f"{i}.png", "width": 10, "height": 8} for i in range(20)]
    write(tmp_path, content)
    catalogue = open_data(tmp_path, fields={"boxes"}, val_share=0.25, seed=2)
    assert {name: len(samples) for name, samples in catalogue.splits.items()} == {"train": 15, "val": 5}
    assert catalogue.notes == ["no val split: 25% of the images set apart with seed 2"]
    ids = [sample.target.id for sample in catalogue.splits["val"]]
    assert ids == [s.target.id for s in open_data(tmp_path, fields={"boxes"}, val_share=0.25, seed=2).splits["val"]]
    assert ids != [s.target.id for s in open_data(tmp_path, fields={"boxes"}, val_share=0.25, seed=3).splits["val"]]


def test_several_files_of_one_split(tmp_path):
    write(tmp_path, name="annotations/one.json")
    (tmp_path / "annotations" / "scores.json").write_text("[1, 2]")
    catalogue = read(tmp_path, fields={"boxes"})
    assert catalogue.notes == ["ignored, not COCO's annotations: scores.json"]
    write(tmp_path, name="annotations/two.json")
    with pytest.raises(VertebraError, match=r"has 2 files of the train split \(one\.json, two\.json\); give the path"):
        open_data(tmp_path, fields={"boxes"})


def test_one_class_is_enough_and_can_be_renumbered(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["categories"] = [{"id": 2, "name": "ant"}]
    content["annotations"] = content["annotations"][1:2]
    catalogue = read(write(tmp_path, content), fields={"boxes"})
    assert catalogue.classes == ("ant",)
    (first, *_) = map_classes(catalogue.split("train"), catalogue.classes, ("bee", "ant"))
    assert first.target.labels.tolist() == [1]


def test_images_whose_size_the_file_does_not_state(tmp_path):
    content = altered({"width": None}, "images", 0)
    write(tmp_path, content)
    Image.new("RGB", (10, 8)).save(tmp_path / "images" / "train" / "a.png")
    _, samples = three(tmp_path, fields={"boxes"})
    assert samples["a"].target.size == (8, 10)


def test_an_image_of_another_size_than_annotated(tmp_path):
    _, samples = three(write(tmp_path), fields={"boxes"})
    with pytest.raises(VertebraError, match=r"a\.png: the image is 9 x 10 pixels, its annotations are for 8 x 10"):
        samples["a"].load_target((9, 10))
    with pytest.raises(VertebraError, match="perhaps because its EXIF tag turns it"):
        samples["a"].load_target((10, 8))


def test_a_file_beside_its_images(tmp_path):
    write(tmp_path, name="result.json", images=".")
    assert len(open_data(tmp_path, fields={"boxes"}).split("train")) == 2
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(VertebraError, match=r"if other\.json is such, give its own path"):
        open_data(tmp_path, fields={"boxes"})  # which of the two?


# -- what the data does not have


@pytest.mark.parametrize("field", ["label", "masks", "keypoints"])
def test_fields_that_the_data_lacks(tmp_path, field):
    content = copy.deepcopy(CONTENT)
    for entry in content["annotations"]:
        entry["segmentation"] = []
    assert open_data(write(tmp_path, content), fields={field}).has == {"boxes"}


def test_an_object_without_a_mask_among_others(tmp_path):
    write(tmp_path, altered({"segmentation": None}))
    catalogue, samples = three(tmp_path, fields={"masks"})
    file = tmp_path / "annotations" / "instances_train.json"
    assert catalogue.problems == [f"{file}, annotation 40 is skipped: it has a box but no mask."]
    assert samples["b"].annotation_ids == (42,)
    catalogue, samples = three(tmp_path)
    assert catalogue.notes == [f"objects without a mask: 1, {file}, annotation 40 for one"]
    assert samples["b"].segments == ([], RUNS)
    assert samples["b"].load_target((8, 10)).masks.areas().tolist() == [0, 4]
    assert three(tmp_path, fields={"boxes"})[0].problems == []


# -- keypoints


def with_points(names: list[str], points: list[float], **category) -> dict:
    content = altered({"keypoints": points})
    content["categories"][0] |= {"keypoints": names, **category}
    return content


def test_keypoints(tmp_path):
    names = ["nose", "Left ear", "right ear"]
    content = with_points(names, [1, 2, 2, 3, 4, 1, 0, 0, 0], skeleton=[[1, 2], [3, 1]], sigmas=[0.1, 0.2, 0.3])
    catalogue, samples = three(write(tmp_path, content), fields={"keypoints"})
    assert catalogue.has == {"boxes", "masks", "keypoints"}
    assert catalogue.keypoints == KeypointSchema(tuple(names), ((0, 1), (2, 0)), (0, 2, 1), (0.1, 0.2, 0.3))
    assert samples["b"].target.keypoints.tolist() == [[[1, 2, 2], [3, 4, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    assert samples["c"].target.keypoints.shape == (0, 3, 3)
    assert three(tmp_path, fields={"boxes"})[1]["b"].target.keypoints is None


def test_cocos_person_is_known(tmp_path):
    content = with_points(list(COCO_PERSON.names), [1, 2, 2] * 17)
    assert three(write(tmp_path, content), fields={"keypoints"})[0].keypoints == COCO_PERSON
    del content["categories"][0]["keypoints"]
    assert three(write(tmp_path, content), fields={"keypoints"})[0].keypoints == COCO_PERSON
    assert all(COCO_PERSON.names[j].replace("left", "right") == COCO_PERSON.names[i].replace("left", "right")
               for i, j in enumerate(COCO_PERSON.flip_indices))  # fmt: skip


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        ([1, 2, 2], "its keypoints are 3 numbers, not three for each of 2"),
        ([1, 2, 2, math.nan, 4, 2], "its keypoint 'right' is at [nan, 4], not two numbers up to 1e9"),
        ([1, 2, 2, 1e300, 4, 2], "its keypoint 'right' is at [1e+300, 4], not two numbers up to 1e9"),
        (
            [1, 2, True, 3, 4, 2],
            "the visibility of its keypoint 'left' is True, not 0 (not labelled), 1 (occluded) or 2 (visible)",
        ),
        (
            [1, 2, 2, 300, 4, 2],
            "its keypoint 'right' at 300, 4 reaches further beyond the image (10 x 8 pixels) than its side",
        ),
        (
            [1, 2, 2, 3, 4, 7],
            "the visibility of its keypoint 'right' is 7, not 0 (not labelled), 1 (occluded) or 2 (visible)",
        ),
        ("none", "its keypoints are 'none', not a list of numbers up to 1e9"),
        (5, "its keypoints are 5, not a list of numbers up to 1e9"),
    ],
)
def test_keypoints_that_are_invalid_are_skipped(tmp_path, points, fault):
    content = with_points(["left", "right"], points)
    content["annotations"][1]["keypoints"] = [0] * 6
    catalogue, samples = three(write(tmp_path, content), fields={"keypoints"})
    file = tmp_path / "annotations" / "instances_train.json"
    assert catalogue.problems == [f"{file}, annotation 40 is skipped: {fault}."]
    assert samples["b"].annotation_ids == (42,)


@pytest.mark.parametrize("point", [[-999, -999], [math.nan, None], [1e300, 0]])
def test_what_stands_where_a_keypoint_is_not_labelled_does_not_matter(tmp_path, point):
    content = with_points(["left", "right"], [1, 2, 2, *point, 0])
    catalogue, samples = three(write(tmp_path, content), fields={"keypoints"})
    assert catalogue.problems == []
    assert [[1, 2, 2], [0, 0, 0]] in [points for s in samples.values() for points in s.target.keypoints.tolist()]


def test_what_one_category_states_of_its_keypoints_holds_for_all(tmp_path):
    content = with_points(["a", "b"], [1, 2, 2, 3, 4, 2])
    content["categories"][1] |= {"keypoints": ["a", "b"], "flip_idx": [1, 0], "skeleton": [[1, 2]]}
    catalogue = three(write(tmp_path, content), fields={"keypoints"})[0]
    assert catalogue.keypoints == KeypointSchema(("a", "b"), ((0, 1),), (1, 0))
    assert not any("differ" in note for note in catalogue.notes)
    content["categories"][0] |= {"skeleton": [[2, 1]]}
    catalogue = three(write(tmp_path, content), fields={"keypoints"})[0]
    assert catalogue.keypoints.skeleton in (((0, 1),), ((1, 0),))
    assert any(note.startswith("skeleton differ from category to category") for note in catalogue.notes)


def test_two_keypoints_of_one_name(tmp_path):
    write(tmp_path, with_points(["p", "P"], [1, 2, 2, 3, 4, 2]))
    with pytest.raises(VertebraError, match=r"instances_train\.json, category \d+: two keypoints are called 'p'"):
        three(tmp_path, fields={"keypoints"})


def test_categories_with_different_keypoints(tmp_path):
    content = with_points(["left", "right"], [1, 2, 2, 3, 4, 2])
    content["categories"][1]["keypoints"] = ["tip"]
    write(tmp_path, content)
    with pytest.raises(VertebraError, match=r"instances_train\.json: its categories have different keypoints"):
        open_data(tmp_path, fields={"keypoints"})
    catalogue = read(tmp_path, fields={"boxes"})
    assert catalogue.notes == ["keypoints are ignored, because its categories have different ones"]


def test_a_skeleton_of_no_use(tmp_path):
    content = with_points(["left", "right"], [1, 2, 2, 3, 4, 2], skeleton=[[1, 3]])
    catalogue = read(write(tmp_path, content), fields={"keypoints"})
    assert "category 90: its skeleton is ignored, it joins keypoints other than 1 to 2" in catalogue.notes[0]
    assert catalogue.keypoints.skeleton == ()


@pytest.mark.parametrize("sigma", [0, -0.1, 11, 1e300, math.inf, math.nan, 10**400, True, "0.1", None])
def test_sigmas_that_are_invalid_are_explained(tmp_path, sigma):
    content = with_points(["left", "right"], [1, 2, 2, 3, 4, 2], sigmas=[0.1, sigma])
    with pytest.raises(VertebraError, match=r"its sigmas are \[0\.1, .*; 2 numbers from 0\.0001 to 10 are"):
        open_data(write(tmp_path, content), fields={"keypoints"})


@pytest.mark.parametrize("skeleton", [5, [1, 2], [[1]], [[1, math.inf]], [[1, 1.5]], [[1, "2"]], [[True, 2]], {"1": 2}])
def test_skeletons_that_are_invalid_are_explained(tmp_path, skeleton):
    content = with_points(["left", "right"], [1, 2, 2, 3, 4, 2], skeleton=skeleton)
    with pytest.raises(VertebraError, match=r"category 90: its skeleton is .*, not a list of pairs"):
        open_data(write(tmp_path, content), fields={"keypoints"})


def test_too_many_keypoints(tmp_path):
    content = altered({"keypoints": [0] * 3003})
    with pytest.raises(VertebraError, match=r"instances_train\.json: its objects have 1,001 keypoints; at most 1,000"):
        open_data(write(tmp_path, content), fields={"keypoints"})


def test_a_hundred_thousand_categories_with_roots(tmp_path):
    """Time grows with their number, not with its square: minutes otherwise."""
    content = json.loads(json.dumps(CONTENT))
    content["categories"] += [{"id": 1000 + i, "name": f"c{i}", "supercategory": f"s{i}"} for i in range(50_000)]
    content["categories"] += [{"id": 100_000 + i, "name": f"s{i}"} for i in range(50_000)]
    begin = time.process_time()
    catalogue = read(write(tmp_path, content), fields={"boxes"})
    assert time.process_time() - begin < 20
    assert len(catalogue.classes) == len(CONTENT["categories"]) + 50_000


# -- files of no use


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            json.dumps(CONTENT)[:-40],
            r"FILE, line 1: not valid JSON \(.* at character [\d,]+ of [\d,]+\)",
        ),
        ("", r"FILE, line 1: not valid JSON"),
        ("[" * 100_000, r"FILE: lists and objects are nested too deeply"),
        ({"images": []}, r"FILE is not a COCO annotation file: it has no list of annotations \(a mapping of images"),
        ([1, 2], r"FILE is not a COCO annotation file: it has no list of images"),
        ({"images": {}, "annotations": [], "categories": []}, r"it has no list of images"),
        ({**CONTENT, "categories": []}, r"FILE has no categories"),
        ({**CONTENT, "images": [], "annotations": []}, r"has no images"),
        ({**CONTENT, "annotations": []}, r"has images but not one object"),
        ({**CONTENT, "images": [5]}, r"FILE, images\[0\]: it has no 'id'"),
        (altered({"id": None}), r"FILE, annotations\[0\]: it has no 'id'"),
        (altered({"id": True}), r"FILE, annotations\[0\]: its id is True, a whole number is expected"),
        (altered({"id": 10**400}), r"FILE, annotations\[0\]: its id is inf, a whole number is expected"),
        (altered({"id": 2**63}), r"FILE, annotations\[0\]: its id is 9223372036854775808, a whole number is"),
        (altered({"name": " "}, "categories"), r"FILE, category 90: its name is ' '"),
        (altered({"width": 10**10}, "images"), r"FILE, image 7: its width is 10000000000"),
        (altered({"id": "x"}), r"FILE, annotations\[0\]: its id is 'x', a whole number is expected"),
        (altered({"id": 41}), r"FILE: the id 41 is given to two annotations; it must be unique"),
        (altered({"id": 3}, "images"), r"FILE: the id 3 is given to two images"),
        (altered({"id": 5}, "categories"), r"FILE: the id 5 is given to two categories"),
        (altered({"name": "bee"}, "categories"), r"FILE, category 90: another category is called 'bee'"),
        (altered({"name": None}, "categories"), r"FILE, category 90: it has no 'name'"),
        (altered({"file_name": None}, "images"), r"FILE, image 7: it has no 'file_name'"),
        (altered({"width": "10"}, "images"), r"FILE, image 7: its width is '10', a whole number is expected"),
        (altered({"height": 0}, "images"), r"FILE, image 7: its height is 0"),
        (altered({"image_id": 70}), r"FILE, annotation 40: there is no image 70 in the file"),
        (altered({"category_id": 91}), r"FILE, annotation 40: there is no category 91 in the file"),
        (altered({"category_id": None}), r"FILE, annotation 40: it has no 'category_id'"),
        (altered({"bbox": None}), r"FILE, annotation 40: it has no 'bbox'"),
    ],
)
def test_files_that_are_invalid_are_explained(tmp_path, content, sentence):
    write(tmp_path, content)
    file = str(tmp_path / "annotations" / "instances_train.json")
    for path in (tmp_path, file):
        with pytest.raises(VertebraError, match=sentence.replace("FILE", file)) as caught:
            open_data(path, fields={"boxes"})
        assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    (write(tmp_path) / "annotations" / "instances_train.json").write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(VertebraError, match=r"instances_train\.json is not a text file in UTF-8"):
        open_data(tmp_path, fields={"boxes"})


def test_splits_that_contradict_each_other(tmp_path):
    write(tmp_path)
    write(tmp_path, altered({"name": "cat"}, "categories"), "annotations/instances_val.json", "images/val")
    with pytest.raises(VertebraError, match=r"instances_val\.json, category 90: 'cat' is not so in .*'zebra'"):
        open_data(tmp_path, fields={"boxes"})


def test_images_that_are_not_there(tmp_path):
    write(tmp_path)
    (tmp_path / "images" / "train" / "b.png").unlink()
    catalogue, samples = three(tmp_path, fields={"boxes"})
    file, image = tmp_path / "annotations" / "instances_train.json", tmp_path / "images" / "train" / "b.png"
    assert catalogue.problems == [f"{file}, image 3 is skipped with its 2 annotations: {image} is not there."]
    assert set(samples) == {"a", "c"}
    for name in ("a", "c"):
        (tmp_path / "images" / "train" / f"{name}.png").unlink()
    with pytest.raises(VertebraError, match=r"none of its 3 images is there, a\.png for one; they were looked for in"):
        open_data(tmp_path, fields={"boxes"})


# -- annotations of no use

NEITHER = "its segmentation is neither a list of polygons nor run lengths (size and counts)"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"bbox": [2, 1, 0, 4]}, "its box is 0 x 4 pixels (width x height)"),
        ({"bbox": [6, 1, -4, 4]}, "its box is -4 x 4 pixels (width x height)"),
        ({"bbox": [2, math.nan, 4, 4]}, "its box is [2, nan, 6, nan], not four numbers up to 1e9"),
        ({"bbox": [2, 1, math.inf, 4]}, "its box is [2, 1, inf, 5], not four numbers up to 1e9"),
        ({"bbox": [2, 1, 10**400, 4]}, "its box is [2, 1, inf, 5], not four numbers up to 1e9"),
        ({"bbox": [2, 1, True, 4]}, "its box is [2, 1, True, 4], not four numbers up to 1e9"),
        (
            {"bbox": [-1e6, 1, 2e6, 4]},
            "its box from -1e+06, 1 to 1e+06, 5 reaches further beyond the image (10 x 8 pixels) than its side",
        ),
        ({"bbox": [12, 1, 4, 4]}, "its box from 12, 1 to 16, 5 is outside the image (10 x 8 pixels)"),
        ({"bbox": [-9, -9, 4, 4]}, "its box from -9, -9 to -5, -5 is outside the image (10 x 8 pixels)"),
        ({"bbox": [2, 1, 4]}, "its box is [2, 1, 4], not four numbers up to 1e9"),
        ({"bbox": ["2", 1, 4, 4]}, "its box is ['2', 1, 4, 4], not four numbers up to 1e9"),
        ({"bbox": "left"}, "its box is 'left', not four numbers up to 1e9"),
        ({"area": math.nan}, "its area is nan, not 0 to 720 square pixels"),
        ({"area": -3}, "its area is -3, not 0 to 720 square pixels"),
        ({"area": 1e300}, "its area is 1e+300, not 0 to 720 square pixels"),
        ({"area": 10**400}, "its area is inf, not 0 to 720 square pixels"),
        ({"area": True}, "its area is True, not 0 to 720 square pixels"),
        ({"iscrowd": "maybe"}, "its mark as crowd or difficult is 'maybe', 0 or 1 is expected"),
        ({"iscrowd": 2}, "its mark as crowd or difficult is 2, 0 or 1 is expected"),
        ({"iscrowd": [1]}, "its mark as crowd or difficult is [1], 0 or 1 is expected"),
        ({"segmentation": [[2, 1, 6, 5]]}, "its polygon has 2 points, three or more make an area"),
        ({"segmentation": [[2, 1, 6, 5, 3]]}, "a polygon of it has 5 numbers, which are no pairs of x and y"),
        ({"segmentation": [[2, 1, 6, math.nan, 3, 4]]}, "a polygon of it has a point that is not a number"),
        (
            {"segmentation": [[2, 1, 6, 1e9, 3, 4]]},
            "a polygon of it reaches further beyond the image (10 x 8 pixels) than its side",
        ),
        ({"segmentation": [2, 1, 6, 1, 3, 4]}, NEITHER),
        ({"segmentation": "all"}, NEITHER),
        (
            {"segmentation": {"size": [10, 8], "counts": [80]}},
            "its mask is of size [10, 8], the image [8, 10] (height, width)",
        ),
        (
            {"segmentation": {"size": [8, 10], "counts": [3, 4]}},
            "its run lengths add up to 7 pixels, not to the image's 80",
        ),
        ({"segmentation": {"size": [8, 10], "counts": [-1, 81]}}, "its run lengths are not all whole numbers"),
        ({"segmentation": {"size": [8, 10]}}, "its run lengths are missing (counts)"),
        (
            {"segmentation": {"size": [8, 10], "counts": "zzzz"}},
            "its run lengths are not in COCO's compressed form",
        ),
        (
            {"segmentation": {"size": [8, 10], "counts": "11"}},
            "its run lengths add up to 2 pixels, not to the image's 80",
        ),
    ],
)
def test_annotations_that_are_invalid_are_skipped(tmp_path, change, fault):
    catalogue, samples = three(write(tmp_path, altered(change)), fields={"masks"})
    file = tmp_path / "annotations" / "instances_train.json"
    assert catalogue.problems == [f"{file}, annotation 40 is skipped: {fault}."]
    assert samples["b"].annotation_ids == (42,)
    assert samples["b"].load_target((8, 10)).masks.dense().shape == (1, 8, 10)


@pytest.mark.parametrize(("value", "crowd"), [(0, False), ("0", False), (1, True), (True, True), ("1", True)])
def test_crowd_as_a_word(tmp_path, value, crowd):
    _, samples = three(write(tmp_path, altered({"iscrowd": value})), fields={"boxes"})
    assert samples["b"].target.crowd.tolist()[0] is crowd


def test_boxes_are_cut_at_the_border(tmp_path):
    content = altered({"bbox": [-0.5, 1, 4, 4]})
    content["annotations"][2]["bbox"] = [5, 6, 9, 9]
    catalogue, samples = three(write(tmp_path, content), fields={"boxes"})
    assert samples["b"].target.boxes.tolist() == [[0, 1, 3.5, 5], [5, 6, 10, 8]]
    assert catalogue.problems == []
    assert catalogue.notes == ["boxes clipped to their image, which they left by more than a pixel: 1"]


def test_without_an_area_it_is_the_boxes(tmp_path):
    _, samples = three(write(tmp_path, altered({"area": None})), fields={"boxes"})
    assert samples["b"].target.areas.tolist() == [16, 3.5]


# -- real data


@pytest.mark.parametrize(
    ("name", "field", "train", "val"),
    [
        ("bccd", "boxes", (205, 2804), (87, 1137)),
        ("nuclei", "masks", (209, 8966), (65, 2676)),
        ("coco128", "masks", (76, 634), (20, 103)),
        ("keypoints", "keypoints", (3, 9), (1, 5)),
    ],
)
def test_real_sets(data_folder, name, field, train, val):
    catalogue = open_data(data_folder / name, fields={field})
    counts = {
        split: (len(samples), sum(catalogue.counts(split, LABELS))) for split, samples in catalogue.splits.items()
    }
    assert counts == {"train": train, "val": val}
    assert catalogue.problems == []


def test_real_classes(data_folder):
    assert open_data(data_folder / "bccd", fields={"boxes"}).counts("train", LABELS) == [2381, 214, 209]
    catalogue = open_data(data_folder / "coco128", fields={"boxes"})
    assert len(catalogue.classes) == 80
    assert (catalogue.classes[0], catalogue.classes[-1], catalogue.category_ids[-1]) == ("person", "toothbrush", 90)
    assert sum(int(sample.target.crowd.sum()) for sample in catalogue.split("train")) == 7
    catalogue = open_data(data_folder / "keypoints", fields={"keypoints"})
    assert catalogue.keypoints == COCO_PERSON
    seen = [sample.target.keypoints[..., 2] > 0 for samples in catalogue.splits.values() for sample in samples]
    assert sum(int(points.sum()) for points in seen) == 181


def test_real_masks_are_pycocotools(data_folder):
    coco = pytest.importorskip("pycocotools.coco")
    for name in ("nuclei", "coco128"):
        path = data_folder / name / "annotations" / "instances_val.json"
        reference = coco.COCO(str(path))
        for sample in read(path, fields={"masks"}).split("val")[:8]:
            target = sample.load_target(sample.target.size)
            for number, mask in zip(sample.annotation_ids, target.masks, strict=True):
                assert np.array_equal(reference.annToMask(reference.anns[number]).astype(bool), mask)


# -- how other tools write it


@pytest.mark.parametrize("subset", ["default", "Train"])
def test_cvats_folders(tmp_path, subset):
    write(tmp_path, name=f"annotations/instances_{subset}.json", images=f"images/{subset}")
    assert len(read(tmp_path, fields={"boxes"}).split("train")) == 3


def test_backslashes_in_file_names(tmp_path):
    write(tmp_path)
    content = copy.deepcopy(CONTENT)
    for entry in content["images"]:
        entry["file_name"] = "images\\train\\" + entry["file_name"]
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    assert len(read(tmp_path, fields={"boxes"}).split("train")) == 3


def test_crowds_alone_are_an_error(tmp_path):
    content = copy.deepcopy(CONTENT)
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    with pytest.raises(VertebraError, match=r"all its 3 objects are marked as crowd .* set iscrowd to 0"):
        open_data(write(tmp_path, content), fields={"masks"})


def test_many_crowds_are_noted(tmp_path):
    catalogue = read(write(tmp_path, altered({"iscrowd": 1})), fields={"boxes"})
    assert catalogue.notes == [
        "2 of 3 objects are marked as crowd (iscrowd, difficult): they are ignored in training and evaluation"
    ]


def test_a_root_above_the_categories_is_skipped(tmp_path):
    root = {"id": 0, "name": "ant", "supercategory": "none"}
    content = copy.deepcopy(CONTENT)
    content["categories"] = [root, *({**entry, "supercategory": "ant"} for entry in CONTENT["categories"])]
    catalogue = read(write(tmp_path, content), fields={"boxes"})
    assert (catalogue.classes, catalogue.category_ids) == (("ant", "bee", "zebra"), (2, 5, 90))
    assert catalogue.notes == ["category 0 ('ant') is ignored: it is above others and has no object"]
    content["annotations"][0]["category_id"] = 0
    with pytest.raises(VertebraError, match="category 2: another category is called 'ant' as well"):
        read(write(tmp_path, content), fields={"boxes"})


def test_files_beside_the_one_that_is_read_are_named(tmp_path):
    write(tmp_path)
    write(tmp_path, name="annotations/person_keypoints_train.json")
    (note,) = read(tmp_path).notes
    assert note.startswith("ignored beside instances_train.json: person_keypoints_train.json")
