"""Every family learns: the smallest variant, and each way of building one that computes otherwise."""

import pytest
import torch

from vertebra import backbones, tasks
from vertebra.data import shapes
from vertebra.structures import Preprocess

CHANCE = 1.79  # log(6)
# Backbone, options of its own, and the loss that it falls below.
LEARNERS = [
    ("resnet18", {}, 0.5),
    ("efficientnetv2_b0", {}, 0.9),
    ("res2net50_48w2s", {"depths": (1, 1, 1, 1)}, 0.5),
    ("dla34", {}, 0.5),
    ("blresnet50", {}, 0.5),
    ("vit_tiny_16", {}, 0.9),
    ("vit_tiny_16", {"pool": "mean", "gelu": "tanh", "dropout": 0.1}, 0.9),
    ("deit_tiny_16_distilled", {}, 0.9),
    ("swin_tiny", {"width": 48, "heads": (2, 4, 8, 16), "depths": (2, 2, 2, 2)}, 0.9),
    ("swin_tiny", {"width": 48, "heads": (2, 4, 8, 16), "depths": (2, 2, 2, 2), "absolute": True, "window": 5}, 0.9),
    ("hrnet_w18_small_v1", {}, 0.5),
    ("hrnet_w18_small_v1", {"view": "increased", "upsample": "bilinear"}, 0.5),
    ("cyclemlp_b1", {}, 0.9),
    ("asmlp_mobile", {}, 0.9),
    ("mixer_s16", {"depth": 4}, 0.9),
    ("resmlp_12", {}, 0.9),
    ("gmlp_ti16", {"depth": 12}, 0.9),
    ("vip_small_7", {"depths": (1, 1, 2, 1), "patch": 8}, 0.9),
    ("s2mlp_deep", {"depth": 8}, 0.9),
]


def test_every_family_is_here():
    assert {backbones.family(name) for name, _, _ in LEARNERS} == set(backbones.families().values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "below"), LEARNERS, ids=lambda value: str(value)[:24])
def test_it_learns_the_shapes(name, options, below):
    torch.manual_seed(0)
    preprocess = Preprocess((64, 64))
    task = tasks.create(
        "classification", backbone=name, classes=shapes.CLASSES, preprocess=preprocess, backbone_options=options
    )
    optimizer = torch.optim.AdamW(task.parameters(), 1e-3)
    scenes = [shapes.draw(0, index) for index in range(48)]
    images = torch.stack([torch.as_tensor(scene.picture).permute(2, 0, 1) for scene in scenes]).float() / 255
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    losses = []
    for step in range(24):
        part = slice(step % 2 * 24, step % 2 * 24 + 24)
        loss = task.loss(images[part], [scene.target for scene in scenes[part]])["classification"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.4
    assert sum(losses[-2:]) / 2 < below < CHANCE
