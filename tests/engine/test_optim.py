"""Optimiser groups and the schedule, by hand."""

import math

import pytest
import torch

from vertebra import tasks
from vertebra.engine.optim import optimizer, parameter_groups, schedule
from vertebra.engine.settings import Settings, resolve


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


def rates_of(steps: int, epochs: int, **options) -> list[float]:
    """The learning rate of each step of a run, with a peak of 2."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, Settings("classification", epochs=epochs, **options), steps=steps)
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_warm_up_then_cosine():
    rates = rates_of(12, 6, warmup=1, final_lr_ratio=0.1)
    assert rates == rates_of(12, 6, warmup=0, warmup_steps=2, final_lr_ratio=0.1)
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert rates[7] == pytest.approx(2 * (0.1 + 0.9 * 0.5))  # halfway
    assert rates[4] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi * 0.2)) / 2))
    assert rates[12] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Two steps per epoch.
        ({"schedule": "step", "step_epochs": (1, 2.5)}, [2, 2, 0.2, 0.2, 0.2, 0.02, 0.02]),
        ({"schedule": "step", "step_epochs": (1,), "step_gamma": 0.5, "warmup_steps": 1}, [1, 2, 1, 1, 1, 1, 1]),
        ({"schedule": "poly", "poly_power": 1, "final_lr_ratio": 0.5}, [2, 11 / 6, 10 / 6, 1.5, 8 / 6, 7 / 6, 1]),
        (
            {"schedule": "poly", "poly_power": 2, "final_lr_ratio": 0, "warmup_steps": 2},
            [2 / 3, 4 / 3, 2, 2 * 0.75**2, 2 * 0.5**2, 2 * 0.25**2, 0],
        ),
        ({"schedule": "constant", "warmup_steps": 3}, [0.5, 1, 1.5, 2, 2, 2, 2]),
        (
            {"schedule": "inverse_sqrt", "warmup_steps": 1},
            [1, 2, *(2 * math.sqrt(2 / step) for step in (3, 4, 5, 6, 7))],
        ),
        (
            {"schedule": "one_cycle", "one_cycle_rise": 1 / 3, "final_lr_ratio": 0},
            [0.08, 1.04, 2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0],
        ),
        ({"schedule": "cosine", "final_lr_ratio": 0}, [1 + math.cos(math.pi * step / 6) for step in range(7)]),
    ],
)
def test_schedules_by_hand(options, expected):
    assert rates_of(6, 3, **{"warmup": 0, **options}) == pytest.approx(expected, abs=1e-9)


def test_one_step_of_each_optimiser_by_hand(brightness):
    """From 1 with the gradient 0.5, at rate 0.1 and weight decay 0.2."""
    expected = {
        "sgd": 1 - 0.1 * 1.9 * 0.7,  # Nesterov: the gradient and 0.9 times it
        "adamw": 1 - 0.1 * 0.2 - 0.1,
        "adam": 1 - 0.1,
        "rmsprop": 1 - 0.1 * 0.7 / (math.sqrt(0.1) * 0.7 + math.sqrt(0.001)),
    }
    for name, value in expected.items():
        task = tasks.create(brightness, classes=3)
        chosen = optimizer(task, Settings(brightness, optimizer=name, lr=0.1, weight_decay=0.2))
        for parameter in task.parameters():
            parameter.data.fill_(1.0)
            parameter.grad = torch.full_like(parameter, 0.5)
        chosen.step()
        matrix = next(parameter for parameter in task.parameters() if parameter.ndim > 1)
        assert float(matrix.detach().flatten()[0]) == pytest.approx(value, abs=1e-6), name
    plain = optimizer(task, Settings(brightness, nesterov=False))
    assert not plain.param_groups[0]["nesterov"]


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_optimisers_are_fused_on_a_cpu_but_where_lightning_could_not_clip(name):
    task = tasks.create("classification", backbone="resnet18", classes=3)
    settings = resolve("classification", None, {"optimizer": name})
    assert {group["fused"] for group in optimizer(task, settings).param_groups} == {True}
    settings.precision = "bf16-mixed"
    assert {group["fused"] for group in optimizer(task, settings).param_groups} == {None}
