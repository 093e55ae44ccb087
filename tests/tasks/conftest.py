"""The smallest model of every method."""

import dataclasses

import pytest
import torch
import torchvision

from vertebra import options, tasks
from vertebra.structures import KeypointSchema

SMALL = {
    "backbone": "resnet18",
    "channels": 16,
    "neck.channels": 16,
    "roi_batch_size": 8,
    "rpn_batch_size": 32,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 10,
    "box_width": 16,
    "num_proposals": 10,
    "num_stages": 2,
    "feedforward_channels": 16,
    "dynamic_channels": 4,
    "keypoint_width": 8,
    "keypoint_num_convs": 1,
    "keypoints": KeypointSchema(("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2)),
}
"""Options that make a model small; a method takes those that it has."""


@pytest.fixture(scope="session")
def make():
    """A function that creates a small model for images of 64 pixels; ResNet-18 has one block per stage, unless the
    options or the weights say what it has."""

    def create(task="detection", method=None, *, classes=2, **chosen):
        module = tasks.find(task, method)
        known = options.names(module.Config)
        small = SMALL
        if getattr(module.Config, "head_norm", "none") == "group":  # one channel has no variance over a single cell
            small = SMALL | {"neck.channels": 64}
        chosen = {**{key: value for key, value in small.items() if key in known}, **chosen}
        if chosen.get("backbone") == "resnet18" and "weights" not in chosen:
            chosen.setdefault("backbone_options", {"depths": (1, 1, 1, 1)})
        if "preprocess" not in chosen:
            usual = tasks.plan(task, method=method, **{k: v for k, v in chosen.items() if k != "weights"}).preprocess
            chosen["preprocess"] = dataclasses.replace(usual, size=(64, 96) if usual.resize == "shortest" else (64, 64))
        torch.manual_seed(0)
        return tasks.create(task, method=method, classes=classes, **chosen)

    return create


@pytest.fixture(scope="session")
def torchvision_file(tmp_path_factory):
    """A file of torchvision's Faster R-CNN, whose norms count no batches, as in its first detectors."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    path = tmp_path_factory.mktemp("torchvision") / "a.pth"
    torch.save({k: t for k, t in model.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    return path
