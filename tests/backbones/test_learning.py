"""Every family learns: a small variant, and each option that changes what is computed."""

import pytest
import torch

from vertebra import backbones
from vertebra.data.formats import shapes
from vertebra.structures import Preprocess

CHANCE = 1.79  # log(6)
# Backbone, options of its own, and the loss that it falls below.
LEARNERS = [
    ("resnet18", {"depths": (1, 1, 1, 1)}, 0.5),
    ("efficientnetv2_b0", {"depths": (1, 1, 1, 1, 1, 2)}, 0.9),
    ("res2net50_48w2s", {"depths": (1, 1, 1, 1)}, 0.5),
    ("dla34", {"widths": (8, 16, 32, 64, 128, 256), "depths": (1, 1, 1, 2, 1, 1)}, 0.5),
    ("blresnet50", {"depths": (3, 2, 2, 1)}, 0.5),
    ("vit_tiny_16", {"depth": 4}, 0.9),
    ("vit_tiny_16", {"depth": 4, "pool": "mean", "gelu": "tanh", "dropout": 0.1}, 0.9),
    ("deit_tiny_16_distilled", {"depth": 4}, 0.9),
    ("swin_tiny", {"width": 48, "heads": (2, 4, 8, 16), "depths": (2, 2, 2, 2)}, 0.9),
    ("swin_tiny", {"width": 48, "heads": (2, 4, 8, 16), "depths": (2, 2, 2, 2), "absolute": True, "window": 5}, 0.9),
    ("hrnet_w18_small_v1", {"blocks": 1}, 0.5),
    ("hrnet_w18_small_v1", {"view": "increased", "upsample": "bilinear", "blocks": 1, "modules": (1, 1, 1)}, 0.5),
    ("cyclemlp_b1", {"depths": (1, 1, 2, 1), "widths": (32, 64, 160, 256)}, 0.9),
    ("asmlp_mobile", {"depths": (1, 1, 2, 1), "width": 40}, 0.9),
    ("mixer_s16", {"depth": 3, "width": 256}, 0.9),
    ("resmlp_12", {"depth": 4, "width": 192}, 0.9),
    ("gmlp_ti16", {"depth": 8}, 0.9),
    ("vip_small_7", {"depths": (1, 1, 2, 1), "widths": (96, 192, 192, 192), "patch": 8}, 0.9),
    ("s2mlp_deep", {"depth": 4, "width": 192}, 0.9),
]


def test_every_family_is_here():
    assert {backbones.family(name) for name, _, _ in LEARNERS} == set(backbones.families().values())


@pytest.fixture(scope="module")
def batch():
    """[12, 3, 64, 64], normalised, and targets."""
    drawn = [shapes.draw(0, index) for index in range(12)]
    images = torch.stack([image for image, _ in drawn]).float() / 255
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    return images, [target for _, target in drawn]


@pytest.mark.parametrize(("name", "options", "below"), LEARNERS, ids=lambda value: str(value)[:24])
def test_it_learns_the_shapes(batch, name, options, below):
    from vertebra import tasks

    torch.manual_seed(0)
    task = tasks.create(
        "classification",
        backbone=name,
        classes=shapes.CLASSES,
        preprocess=Preprocess((64, 64)),
        backbone_options=options,
    )
    optimizer = torch.optim.AdamW(task.parameters(), 1e-3)
    losses = []
    while len(losses) < 2 or (len(losses) < 14 and sum(losses[-2:]) / 2 >= below):
        loss = task.loss(*batch)["classification"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.4
    assert sum(losses[-2:]) / 2 < below < CHANCE
