"""COCO's panoptic format to label maps, and a sentence for everything that can be wrong with it."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from vertebra import kinds
from vertebra.data.catalogue import map_classes
from vertebra.data.reading import read
from vertebra.errors import VertebraError

CONTENT = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 3, "height": 2}],
    "annotations": [
        {
            "image_id": 7,
            "file_name": "a.png",
            "segments_info": [
                {"id": 5, "category_id": 200, "iscrowd": 0, "area": 2, "bbox": [0, 0, 2, 1]},
                {"id": 66_051, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [2, 0, 1, 1]},
                {"id": 768, "category_id": 1, "iscrowd": 1, "area": 1, "bbox": [0, 1, 1, 1]},
                {"id": 9, "category_id": 4, "iscrowd": 0, "area": 1, "bbox": [1, 1, 1, 1]},  # not in the PNG
            ],
        }
    ],
    "categories": [
        {"id": 200, "name": "sky", "isthing": 0},
        {"id": 1, "name": "car", "isthing": 1},
        {"id": 4, "name": "bus", "isthing": 1},
    ],
}
# 66,051 = 3 + 256 * 2 + 65,536 * 1; 768 = 256 * 3
PIXELS = [[[5, 0, 0], [5, 0, 0], [3, 2, 1]], [[0, 3, 0], [0, 0, 0], [3, 2, 1]]]
LABELS = [[0, 0, 1], [255, 255, 1]]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(path)


def write(folder, split="train2017", *, maps="annotations/panoptic_{}", images="{}", json_file="", content=CONTENT):
    file = folder / (json_file or f"annotations/panoptic_{split}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    save(folder / maps.format(split) / "a.png", PIXELS)
    save(folder / images.format(split) / "a.jpg", np.zeros((2, 3, 3)))
    return folder


def label_maps(catalogue):
    return {
        split: [sample.load_target((2, 3)).semantic.tolist() for sample in samples]
        for split, samples in catalogue.splits.items()
    }


def test_every_segment_has_the_class_of_its_category(tmp_path):
    write(tmp_path)
    write(tmp_path, "val2017")
    catalogue = read(tmp_path)
    assert (catalogue.format, catalogue.has, catalogue.problems) == ("coco_panoptic", {"semantic"}, [])
    assert catalogue.classes == ("sky", "car", "bus")  # as in the file, not by their ids
    assert catalogue.category_ids == (200, 1, 4)
    assert label_maps(catalogue) == {"train": [LABELS], "val": [LABELS]}
    assert catalogue.split("train")[0].target.id == 7


PLACES = {
    "of coco": {},
    "images in images/": {"images": "images/{}"},
    "of detectron2": {"maps": "panoptic_{}"},
    "unpacked into a folder": {"maps": "annotations/panoptic_{0}/panoptic_{0}"},
    "in the folder itself": {"json_file": "panoptic_train.json", "maps": "panoptic_train"},
    "of another name": {"json_file": "city_train.json", "maps": "city_train"},
}


@pytest.mark.parametrize("place", PLACES)
def test_places_of_the_files(tmp_path, place):
    write(tmp_path, **PLACES[place])
    assert label_maps(read(tmp_path, fields={"semantic"})) == {"train": [LABELS]}


@pytest.mark.parametrize("place", ["of coco", "of detectron2", "of another name"])
def test_one_file(tmp_path, place):
    write(tmp_path, **PLACES[place])
    file = tmp_path / PLACES[place].get("json_file", "annotations/panoptic_train2017.json")
    assert label_maps(read(file)) == {"train": [LABELS]}


def test_the_task_decides_between_objects_and_label_maps(tmp_path):
    write(tmp_path)
    content = CONTENT | {"annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 2, 2]}]}
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    assert read(tmp_path).format == "coco"
    assert read(tmp_path, fields={"boxes"}).format == "coco"
    assert kinds.find("semantic").read(tmp_path).format == "coco_panoptic"


def test_classes_are_renumbered_to_those_of_a_model(tmp_path):
    catalogue = read(write(tmp_path))
    (sample,) = map_classes(catalogue.split("train"), catalogue.classes, ("bus", "car", "sky"))
    assert sample.load_target((2, 3)).semantic.tolist() == [[2, 2, 1], [255, 255, 1]]


def test_an_id_that_is_not_in_the_json(tmp_path):
    write(tmp_path)
    file = tmp_path / "annotations" / "panoptic_train2017" / "a.png"
    pixels = copy.deepcopy(PIXELS)
    pixels[1][2] = [1, 1, 0]
    save(file, pixels)
    (sample,) = read(tmp_path).split("train")
    _, problems = kinds.find("semantic").inspect_sample(sample, (2, 3))
    assert problems == [f"{file}: the id 257 in row 1, column 2 is of none of the segments in segments_info."]
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(file)
    with pytest.raises(VertebraError, match=r"a\.png: an image of Pillow's mode L; ids of segments are in RGB"):
        sample.load_target((2, 3))


def test_what_is_not_there_is_skipped(tmp_path):
    content = copy.deepcopy(CONTENT)
    content["images"] += [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2, 3)]
    content["annotations"] += [{"image_id": n, "file_name": f"{n}.png", "segments_info": []} for n in (1, 2)]
    write(tmp_path, content=content)
    for n in (2, 3):
        save(tmp_path / "train2017" / f"{n}.jpg", np.zeros((2, 3, 3)))
    catalogue = read(tmp_path)
    file = tmp_path / "annotations" / "panoptic_train2017"
    assert label_maps(catalogue) == {"train": [LABELS]}
    assert catalogue.problems == [
        f"{file}.json, image 1 is skipped: {tmp_path / 'train2017' / '1.jpg'} is not there.",
        f"{file}.json, image 2 is skipped: its label map {file / '2.png'} is not there.",
        f"{file}.json, image 3 is skipped: it has no annotation.",
    ]


SEGMENT = ("annotations", 0, "segments_info", 0)
AT = r"annotations\[0\], segments_info\[0\]: "
FAULTS = {
    "no annotations": (("annotations",), {}, "is not a COCO panoptic file: it has no list of annotations"),
    "no categories": (("categories",), [], "has 0 categories; label maps have 1 to 255 classes"),
    "many categories": (
        ("categories",),
        [{"id": i, "name": str(i)} for i in range(256)],
        "has 256 categories; label maps have 1 to 255 classes",
    ),
    "a name twice": (("categories", 1, "name"), "sky", "two classes are called 'sky'"),
    "no image id": (("annotations", 0, "image_id"), None, r"annotations\[0\]: it has no 'image_id'"),
    "another image": (("annotations", 0, "image_id"), 8, "its image is 8, but there is none in the file"),
    "an image twice": (
        ("annotations",),
        CONTENT["annotations"] * 2,
        r"annotations\[1\]: its image is 7, but it is annotated twice",
    ),
    "a name that is a number": (("annotations", 0, "file_name"), 3, "its file_name is 3, text is expected"),
    "segments that are no list": (("annotations", 0, "segments_info"), 3, "its segments_info is 3, a list is expected"),
    "a segment that is a number": (SEGMENT, 3, f"{AT}it has no 'id'"),
    "a segment of no category": ((*SEGMENT, "category_id"), 3, f"{AT}there is no category 3 in the file"),
    "id 0": ((*SEGMENT, "id"), 0, f"{AT}its id is 0, 1 to 16,777,215 is expected"),
    "an id of four bytes": ((*SEGMENT, "id"), 1 << 24, f"{AT}its id is 16777216, 1 to 16,777,215"),
    "an id twice": ((*SEGMENT, "id"), 768, r"segments_info\[2\]: another segment of the image has the id 768 as well"),
    "no crowd": ((*SEGMENT, "iscrowd"), [], f"{AT}its iscrowd is \\[\\], 0 or 1 is expected"),
    "other PNG files": (
        ("annotations", 0, "file_name"),
        "b.png",
        r"none of its 1 label maps is there, b\.png for one; they were looked for in .*panoptic_train2017 and ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(tmp_path, fault):
    (*keys, last), value, sentence = FAULTS[fault]
    content = copy.deepcopy(CONTENT)
    place = content
    for key in keys:
        place = place[key]
    place[last] = value
    write(tmp_path, content=content)
    with pytest.raises(VertebraError, match=sentence) as error:
        read(tmp_path)
    assert str(tmp_path / "annotations" / "panoptic_train2017.json") in str(error.value)


def test_splits_of_other_categories_and_two_files_of_a_split(tmp_path):
    write(tmp_path)
    other = CONTENT | {"categories": [{"id": i, "name": str(i)} for i in (200, 1, 4)]}
    write(tmp_path, "val2017", content=other)
    with pytest.raises(VertebraError, match=r"panoptic_val2017\.json: its categories are not those of .*train2017"):
        read(tmp_path)
    write(tmp_path, "train2018")
    with pytest.raises(VertebraError, match=r"two files of the train split \(panoptic_train2017\.json, panoptic_train"):
        read(tmp_path)
