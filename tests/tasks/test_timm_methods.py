"""Models of timm under every method: a training step, and a prediction."""

from dataclasses import replace

import pytest
import torch

from vertebra import tasks
from vertebra.data.formats import shapes
from vertebra.options import names as option_names
from vertebra.structures import Frame, Preprocess
from vertebra.text import END

SIDE = 64
BACKBONES = {  # a pyramid with and without batch norm, a single map, and a model of one size, made small
    "regnetx_002": {},
    "convnext_atto": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
    "vit_tiny_patch16_224": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "hiera_tiny_224": {"stages": (1, 1, 1, 1), "embed_dim": 16},
}
METHODS = [
    (task, method)
    for task in tasks.names()
    for method in tasks.methods(task)
    if "backbone" in option_names(tasks.find(task, method).Config)
]


@pytest.mark.parametrize("number", range(len(METHODS)), ids=[method for _, method in METHODS])
def test_every_method(make, number):
    task, method = METHODS[number]
    model = list(BACKBONES)[number % len(BACKBONES)]
    counts = () if task == "classification" else ((1, 3),)
    drawn = [shapes.draw(0, i, SIDE, *counts) for i in range(2)]
    images = torch.stack([image for image, _ in drawn]).float() / 255
    options = {"keypoints": shapes.KEYPOINTS} if task in ("keypoints", "pose") else {}
    classes = tasks.find(task, method).MODEL.fixed_classes or ("background", *shapes.CLASSES)
    targets = [target for _, target in drawn]
    if task == "captioning":
        targets = [replace(target, tokens=torch.tensor([60, END])) for target in targets]
    if len(classes) == 2:
        targets = [replace(target, semantic=target.semantic.clamp(max=1)) for target in targets]
    extra = tasks.find(task, method).MODEL.extra_channels
    images = torch.cat((images, torch.randn(2, extra, SIDE, SIDE).sign()), 1)
    preprocess = Preprocess(
        (SIDE, SIDE), resize={"classification": "crop", "multilabel": "squash", "pose": "box"}.get(task, "fit")
    )
    mean, std = (*preprocess.mean, *(0.5,) * extra), (*preprocess.std, *(0.5,) * extra)
    made = make(
        task,
        method,
        classes=classes,
        backbone=f"timm:{model}",
        backbone_options={"arguments": BACKBONES[model]},
        preprocess=replace(preprocess, mean=mean, std=std),
        **options,
    ).train()
    total = sum(made.loss(images, targets).values())
    total.backward()
    assert torch.isfinite(total)
    assert any(p.grad is not None and p.grad.any() for p in made.backbone.parameters())
    with torch.inference_mode():
        predictions = made.eval().infer(images, [Frame((96, 96), (SIDE, SIDE))] * 2)
    assert len(predictions) == 2
