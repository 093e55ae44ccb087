"""Samples and catalogues, and the classes and keypoints of data and model."""

from pathlib import Path

import pytest
import torch

from vertebra.data.catalogue import Catalogue, Sample, check_keypoints, describe_fields, map_classes
from vertebra.errors import VertebraError
from vertebra.structures import KeypointSchema, Masks, Target


def test_map_classes():
    samples = [Sample(torch.zeros(3, 2, 2), Target(label=torch.tensor(i), path=str(i))) for i in (0, 1, 1)]
    assert map_classes(samples, ("a", "b"), ("a", "b")) == samples
    mapped = map_classes(samples, ("a", "b"), ("x", "b", "a"))
    assert [s.label for s in mapped] == [2, 1, 1]
    assert [s.target.path for s in mapped] == ["0", "1", "1"]
    with pytest.raises(VertebraError, match=r"class 'dogs' that the model does not know. Did you mean 'dog'\?"):
        map_classes(samples, ("cat", "dogs"), ("cat", "dog"))


def test_keypoints_of_a_model_and_of_data():
    data = Catalogue("hands", "coco", ("hand",), {}, keypoints=KeypointSchema(("tip", "root")))
    check_keypoints(data, KeypointSchema(("tip", "root")))
    check_keypoints(data, KeypointSchema(("0", "1")))  # a checkpoint that does not name them
    for other, difference in (
        (("root", "tip"), "they stand in another order: tip, root"),
        (("tip",), "the model does not know root"),
        (("tip", "nail"), "the model does not know root; the data lacks nail"),
        (("0",), "the model does not know tip, root; the data lacks 0"),
    ):
        with pytest.raises(VertebraError, match=rf"hands has 2 keypoints, the model {len(other)}, .*: {difference}\."):
            check_keypoints(data, KeypointSchema(other))


def test_boxes_from_masks():
    """A dataset of masks alone: the boxes are the masks', and a mask without a pixel is dropped."""
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:5] = masks[2, 5, 7] = True
    sample = Sample(Path("a.png"), Target(labels=torch.tensor([4, 5, 6]), path="a.png"), tuple(masks))
    target = sample.load_target((6, 8))
    assert target.boxes.tolist() == [[2, 1, 5, 3], [7, 5, 8, 6]]
    assert target.areas.tolist() == [6, 1]
    assert target.labels.tolist() == [4, 6]
    assert torch.equal(target.masks.dense(), masks[[0, 2]])
    assert sample.target.masks is None


def test_masks_of_a_target_stay_as_they_are():
    masks = Masks((6, 8), [(1, 2)], [torch.ones(2, 3, dtype=torch.bool)])
    for labels in ([3], []):
        sample = Sample(torch.zeros(3, 6, 8), Target(labels=torch.tensor(labels), masks=masks))
        assert sample.load_target((6, 8)).masks is masks


def test_fields_in_words():
    assert describe_fields({"masks", "boxes"}) == "boxes and masks"
    assert describe_fields({"label"}) == "classes of whole images"
    assert describe_fields(()) == ""


def test_one_line():
    """Neither a catalogue nor a sample prints all that it holds."""
    target = Target(boxes=torch.zeros(300, 4), path="in/a.png", size=(480, 640))
    sample = Sample(Path("in/a.png"), target)
    catalogue = Catalogue("my_coco", "coco", ("a", "b"), {"train": [sample] * 960, "val": [sample] * 240})
    assert repr(catalogue) == "Catalogue(my_coco: 960 train, 240 val images, 2 classes)"
    assert repr(sample) == "Sample(Target(a.png, 640x480: 300 objects))"
    assert repr(Target(label=torch.tensor(2), path="b.png")) == "Target(b.png: class 2)"
