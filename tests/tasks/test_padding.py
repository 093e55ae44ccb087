"""A prediction does not depend on the other images of a call, which would be padding around it."""

import numpy as np
import pytest
import torch

from vertebra import kinds, options, tasks
from vertebra.heads.reppoints import RepPointsHead
from vertebra.tasks.dense_detector import DenseDetector

NORMS = ("batch", "group", "frozen")
CASES = [
    (task, method, norm)
    for task in tasks.names()
    for method in tasks.methods(task)
    if kinds.find(tasks.find(task, method).MODEL.kind).reads_images
    for norm in (NORMS if "norm" in options.names(tasks.find(task, method).Config) else (None,))
]
BACKBONE = {"depths": (1, 1, 1, 1), "zero_init_residual": True}  # small numbers, of small rounding errors
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
LARGER = np.random.default_rng(1).integers(0, 256, (70, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize(("task", "method", "norm"), CASES)
def test_an_image_alone_and_among_others(make, task, method, norm):
    has_boxes = "score_threshold" in options.names(tasks.find(task, method).Config)
    chosen = {"score_threshold": 0.05, "max_detections": 8} if has_boxes else {}
    chosen |= {} if norm is None else {"norm": norm}
    if norm == "group" and method == "retinanet":  # whose heads have norms too
        chosen |= {"neck.norm": "group", "head_norm": "group", "neck.channels": 64}
    model = make(task, method, backbone_options=BACKBONE, **chosen)
    if isinstance(model, DenseDetector):
        torch.nn.init.zeros_(model.dense.classify.bias)  # initial scores are 0.01
        if isinstance(model.dense, RepPointsHead):
            torch.nn.init.normal_(model.dense.refine_points.weight, std=0.5)  # initial boxes are hardly a pixel large
    if method == "sparse_rcnn":
        torch.nn.init.zeros_(model.dynamic.stages[-1].classify.bias)
    if method == "vitpose":  # upsampled maps have plateaus, whose highest cell is up to rounding
        model.decoder.final.register_forward_hook(
            lambda _, __, y: y + torch.linspace(0, 1, y[0, 0].numel()).view_as(y[0, 0])
        )
    image, larger = (np.concatenate((x, x[..., : model.extra_channels]), -1) for x in (IMAGE, LARGER))
    (alone,) = model.predict([image])
    together, other = model.predict([image, larger])
    (again,) = model.predict(larger)
    for one, two in ((alone, together), (again, other)):
        for name, value in vars(one).items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(getattr(two, name), value, atol=1e-4, rtol=1e-4, msg=name)
        if one.masks is not None:
            assert torch.equal(two.masks.dense(), one.masks.dense())
        if has_boxes:
            assert len(one.boxes)
