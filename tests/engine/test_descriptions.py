"""Descriptions in checkpoints of ours that are wrong: one sentence that names the file and the entry, before anything
is built."""

import copy
import json
import math
import struct

import pytest
import torch
from safetensors.torch import save_file

import vertebra
from vertebra import tasks, weights
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.structures import KeypointSchema, Preprocess

OPTIONS = {"patch": 16, "width": 8, "depth": 1, "heads": 1}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The description and the tensors of a small classifier."""
    task = tasks.create(
        "classification",
        backbone="vit_tiny_16",
        backbone_options=OPTIONS,
        classes=["cat", "dog"],
        preprocess=Preprocess((32, 32)),
    )
    path = tmp_path_factory.mktemp("small") / "best.safetensors"
    checkpoint.save(task, path, metrics={"top1": 0.5}, epoch=3)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


@pytest.fixture
def write(small, tmp_path):
    """Saves the classifier with entries of its description replaced, by dotted path; `...` removes one."""

    def save(changes):
        header, data = copy.deepcopy(small[0]), small[1]
        about = json.loads(header["__metadata__"]["vertebra"])
        for entry, value in changes.items():
            *parents, last = entry.split(".")
            owner = about
            for parent in parents:
                owner = owner[parent]
            if value is ...:
                del owner[last]
            else:
                owner[last] = value
        header["__metadata__"]["vertebra"] = json.dumps(about)
        text = json.dumps(header).encode()
        path = tmp_path / "best.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return path

    return save


def test_unchanged_and_later_entries_are_read(write):
    task, about = checkpoint.load(write({"remarks": {"of": ["a later version"]}}), device="cpu")
    assert about["remarks"] == {"of": ["a later version"]}
    assert task.config.backbone_options["width"] == 8


WRONG = [
    ({"task": 5}, "task is 5; it must be a string"),
    ({"task": "zz"}, "task is 'zz'; there are"),
    ({"task": ...}, "has no task"),
    ({"method": "zz"}, "no method 'zz'"),
    ({"method": None}, "method is None"),
    ({"method": ...}, "has no method"),
    ({"model": None}, "model is None; it must be a mapping"),
    ({"model": []}, "model is"),
    ({"metrics": 5}, "metrics is 5; it must be a mapping"),
    ({"metrics": {"threshold": "zz"}}, "metrics.threshold is 'zz'"),
    ({"metrics": {"threshold": math.nan}}, "metrics.threshold is nan"),
    ({"metrics": {"threshold": 7}}, "metrics.threshold is 7"),
    ({"epoch": "zz"}, "epoch is 'zz'; it must be an integer"),
    ({"data": 5}, "data is 5"),
    ({"data": {"path": 5}}, "data.path is 5"),
    ({"data": {"seed": "zz"}}, "data.seed is 'zz'"),
    ({"classes": ...}, "has no classes"),
    ({"classes": 2}, "classes is 2; it must be a list of strings"),
    ({"classes": []}, "classes is empty"),
    ({"classes": ["cat", 5]}, "classes is"),
    ({"classes": ["cat", "cat"]}, "'cat' more than once"),
    ({"classes": ["cat", "d\0g"]}, r"classes has 'd\\x00g'"),
    ({"classes": ["cat", "dog", "emu"]}, r"head.weight: its shape is \[2, 8\], the model's \[3, 8\]"),
    (
        {"classes": [str(i) for i in range(1_000_000)]},
        r"head.weight: its shape is \[2, 8\], the model's \[1000000, 8\]",
    ),
    ({"preprocess": None}, "preprocess is None"),
    ({"preprocess.size": None}, "preprocess.size is None; it must be 2 integers"),
    ({"preprocess.size": [32]}, r"preprocess.size is \(32,\)"),
    ({"preprocess.size": [32, 1e9]}, "preprocess.size is"),
    ({"preprocess.size": [10**9, 10**9]}, "preprocess.size is 1.*; it must lie between 1 and"),
    ({"preprocess.size": [0, 32]}, "preprocess.size is 0"),
    ({"preprocess.size": [True, 32]}, "preprocess.size is"),
    ({"preprocess.crop": 0}, "preprocess.crop is 0"),
    ({"preprocess.crop": math.nan}, "preprocess.crop is nan"),
    ({"preprocess.resize": "zz"}, "preprocess.resize is 'zz'"),
    ({"preprocess.resize": 5}, "preprocess.resize is 5"),
    ({"preprocess.interpolation": "zz"}, "preprocess.interpolation is 'zz'"),
    ({"preprocess.rounding": "up"}, "preprocess.rounding is 'up'"),
    ({"preprocess.divisor": 0}, "preprocess.divisor is 0"),
    ({"preprocess.mean": [math.nan] * 3}, "preprocess.mean is"),
    ({"preprocess.mean": [math.inf] * 3}, "preprocess.mean is inf; it must lie between -1,000 and 1,000"),
    ({"preprocess.mean": [0, -1e300, 0]}, "preprocess.mean is -1e.300; it must lie between"),
    ({"preprocess.mean": []}, "preprocess.mean has 0 numbers"),
    ({"preprocess.mean": [0.5]}, "preprocess.mean has 1 numbers"),
    ({"preprocess.std": [0, 0, 0]}, "preprocess.std is 0; it must lie between 1e-06 and 1,000"),
    ({"preprocess.std": [-1, 1, 1]}, "preprocess.std is"),
    ({"preprocess.zz": 1}, "preprocess has no option 'zz'"),
    ({"preprocess.mean": [0.5] * 5, "preprocess.std": [0.5] * 5}, r"the model's \[8, 5, 16, 16\]"),
    ({"model.backbone": "zz"}, "no backbone is named 'zz'"),
    ({"model.backbone": 5}, "model.backbone is 5"),
    ({"model.backbone": "resnet18"}, "has no option"),
    ({"model.backbone_options": 5}, "model.backbone_options is 5"),
    ({"model.backbone_options": None}, "model.backbone_options is None"),
    ({"model.backbone_options.zz": 5}, "has no option 'zz'"),
    ({"model.backbone_options.depth": "zz"}, "depth is 'zz'; it must be an integer"),
    ({"model.backbone_options.depth": 1e9}, "'model.backbone_options.depth' is 1000000000.0; no number"),
    ({"model.backbone_options.depth": 10**9}, "'model.backbone_options.depth' is 1000000000; no number"),
    ({"model.backbone_options.depth": 500_000}, "far more parts than its tensors fill"),
    ({"model.backbone_options.depth": -1}, "best.safetensors"),
    ({"model.backbone_options.width": 1_000_000}, "of [0-9,]+ bytes; its tensors have"),
    ({"model.backbone_options.width": -8}, "its options make no model"),
    ({"model.backbone_options.width": 9}, r"the model's \[9\]"),
    ({"model.backbone_options.heads": 0}, "heads is 0; it must be a divisor of the width 8"),
    ({"model.backbone_options.channels": 1e12}, "no number there is beyond"),
    ({"model.backbone_options.channels": 7}, r"the model's \[8, 7, 16, 16\]"),
    ({"model.backbone_options.pool": "zz"}, "pool is 'zz'"),
    ({"model.backbone_options.image_size": [32]}, "image_size is"),
    ({"model.backbone_options.image_size": [0, 32]}, "image_size is 0; it must lie between 1 and"),
    ({"model.backbone_options.channels": 0}, "channels is 0; it must be 1 or more"),
    ({"model.backbone_options.image_size": [[32], 32]}, "image_size is"),
    ({"model.dropout": 5}, "dropout is 5; it must lie between 0 and 1"),
    ({"model.dropout": None}, "dropout is None"),
    ({"model.dropout": math.nan}, "'model.dropout' is nan"),
    ({"model.class_weights": [1]}, "1 class weights for 2 classes"),
    ({"model.class_weights": "zz"}, "class_weights is 'zz'; it must be a list of numbers or null"),
    ({"model.weights": "/tmp/other.pth"}, "no option 'weights'"),
    ({"model.source": "timm"}, "no option 'source'"),
    ({"model.classes": 5}, "no option 'classes'"),
    ({"model.zz": 5}, "no option 'zz'"),
    ({"version": 5}, "version is 5"),
]


@pytest.mark.parametrize(
    ("changes", "sentence"), WRONG, ids=[json.dumps(changes, default=str)[:60] for changes, _ in WRONG]
)
def test_wrong_entries_are_named(write, changes, sentence):
    path = write(changes)
    with pytest.raises(VertebraError, match=sentence) as caught:
        vertebra.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["", "5", "null", "[" * 100_000, '{"task": 1e', '{"a": ' * 100_000])
def test_a_description_that_is_no_mapping(small, tmp_path, text):
    header = {**small[0], "__metadata__": {"vertebra": text}}
    raw = json.dumps(header).encode()
    (tmp_path / "best.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + small[1])
    with pytest.raises(VertebraError, match=r"best.safetensors describes its model in a way"):
        vertebra.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.backbone": "zz"}, "best.safetensors: no backbone is named"),
        ({"model.dropout": "zz"}, "best.safetensors: dropout is 'zz'"),
        ({"model.backbone_options.depth": "zz"}, "best.safetensors: depth is 'zz'"),
        ({"model.backbone_options.depth": 500_000}, "best.safetensors: its options make a model of far more parts"),
        ({"model.backbone_options.width": 1_000_000}, "best.safetensors: its options make a model of"),
    ],
)
def test_wrong_entries_are_named_where_training_starts_from_the_file(write, changes, sentence):
    path = write(changes)
    with pytest.raises(VertebraError, match=sentence):
        vertebra.create("classification", classes=["a", "b", "c"], weights=path)
    if "backbone_options" in str(changes):
        with pytest.raises(VertebraError, match=sentence):
            vertebra.backbone("vit_tiny_16", weights=path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(write, value):
    path = write({})
    task, _ = checkpoint.load(path, device="cpu")
    before = task.head.weight.clone()
    state, metadata, _ = weights.read(path)
    state["head.weight"][1, 3] = value
    save_file(state, path, metadata)
    with pytest.raises(VertebraError, match=r"head.weight has values that are NaN or infinite"):
        vertebra.load(path)
    with pytest.raises(VertebraError, match=r"head.weight has values that are NaN or infinite"):
        task.load(path)
    assert torch.equal(task.head.weight, before)


def test_weights_of_whole_numbers_are_refused(write):
    path = write({})
    state, metadata, _ = weights.read(path)
    state["head.weight"] = state["head.weight"].long()
    save_file(state, path, metadata)
    with pytest.raises(VertebraError, match=r"head.weight is of torch.int64, the model's of torch.float32"):
        vertebra.load(path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "no names"),
        ({"names": 5}, "keypoints.names is 5"),
        ({"names": ["a", "b"], "skeleton": [[0, 5]]}, r"keypoints.skeleton joins \(0, 5\); there are 2 keypoints"),
        ({"names": ["a", "b"], "skeleton": [[0, math.inf]]}, "keypoints.skeleton is"),
        ({"names": ["a", "b"], "skeleton": 5}, "keypoints.skeleton is 5"),
        ({"names": ["a", "b"], "flip_indices": [0, 0]}, "keypoints.flip_indices is"),
        ({"names": ["a", "b"], "sigmas": [0.1, math.inf]}, "keypoints.sigmas is"),
        ({"names": ["a", "b"], "sigmas": [0.1]}, "keypoints.sigmas is"),
        ({"names": ["a"], "zz": 5}, "keypoints has no option 'zz'"),
    ],
)
def test_wrong_keypoints_are_named(fields, sentence):
    with pytest.raises(VertebraError, match=sentence):
        KeypointSchema.from_dict(fields)
