"""Optimiser groups and the schedule, by hand."""

import math

import pytest
import torch

from vertebra import tasks
from vertebra.engine.optim import optimizer, parameter_groups, schedule
from vertebra.engine.settings import resolve


def test_groups_by_depth_and_dimension():
    task = tasks.create("classification", backbone="resnet18", classes=3)
    groups = parameter_groups(task, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    place = {id(p): group for group in groups for p in group["params"]}
    assert len(place) == len(list(task.parameters()))
    head, stem = place[id(task.head.weight)], place[id(task.backbone.stem[0].conv.weight)]
    assert (head["lr"], head["weight_decay"]) == (1.0, 0.1)
    assert stem["lr"] == 0.5**9  # the stem is the first of nine layers: itself and eight blocks
    assert place[id(task.head.bias)]["weight_decay"] == 0
    assert place[id(task.backbone.stem[0].norm.weight)]["weight_decay"] == 0
    last = task.backbone.stages[3][1].conv2.conv.weight
    assert place[id(last)]["lr"] == 0.5


def test_frozen_parameters_are_in_no_group():
    task = tasks.create("classification", backbone="resnet18", classes=3)
    task.backbone.requires_grad_(False)
    held = [p for group in parameter_groups(task, lr=1, weight_decay=0) for p in group["params"]]
    assert {id(p) for p in held} == {id(task.head.weight), id(task.head.bias)}


def test_a_task_without_a_backbone(brightness):
    task = tasks.create(brightness, classes=3)
    (matrices, rest) = parameter_groups(task, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    assert (matrices["lr"], matrices["weight_decay"], len(matrices["params"])) == (1.0, 0.1, 2)
    assert (rest["lr"], rest["weight_decay"], len(rest["params"])) == (1.0, 0.0, 2)


def test_parameters_that_the_task_excludes_from_weight_decay(brightness):
    task = tasks.create(brightness, classes=3)
    task.no_weight_decay = ("weight",)
    (group,) = parameter_groups(task, lr=1.0, weight_decay=0.1)
    assert group["weight_decay"] == 0


def test_warm_up_then_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, steps=12, warmup=2, final_lr_ratio=0.1)
    rates = []
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert rates[7] == pytest.approx(2 * (0.1 + 0.9 * 0.5))  # halfway
    assert rates[4] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi * 0.2)) / 2))
    assert rates[12] == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimisers_are_fused_on_a_cpu_but_where_lightning_could_not_clip(name):
    task = tasks.create("classification", backbone="resnet18", classes=3)
    settings = resolve("classification", None, {"optimizer": name})
    assert {group["fused"] for group in optimizer(task, settings).param_groups} == {True}
    settings.precision = "bf16-mixed"
    assert {group["fused"] for group in optimizer(task, settings).param_groups} == {None}
