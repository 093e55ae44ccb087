"""Models that a file fills draw nothing at random where it has all parameters, and else what they drew without it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vertebra import backbones, tasks
from vertebra.engine import checkpoint
from vertebra.nn.meta import build_to_fill, on_meta

SMALL = {"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1)}}


class Layers(nn.Module):
    """Parameters and buffers that start in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(5), std=0.02))
        self.far = nn.Parameter(nn.init.trunc_normal_(torch.empty(5), mean=1.0, std=0.1, a=0.9, b=1.1))
        self.register_buffer("steps", torch.arange(3.0), persistent=False)
        self.register_buffer("noise", torch.randn(3), persistent=False)
        nn.init.trunc_normal_(self.linear.weight, mean=1.0, std=0.1, a=0.9, b=1.1)


def seeded(build):
    torch.manual_seed(0)
    return build()


def test_a_module_that_is_filled_whole_draws_no_parameter():
    made = seeded(lambda: build_to_fill(Layers, on_meta(Layers), ["norm.running_mean"]))
    assert not made.linear.bias.any()  # drawn by torch
    assert made.norm.weight.eq(1).all()
    assert made.steps.tolist() == [0, 1, 2]
    assert made.noise.any()
    assert made.linear.weight.requires_grad


def test_bounds_without_zero_are_kept():
    """Values are drawn again until they are within them."""
    made = build_to_fill(Layers, on_meta(Layers), [])
    assert made.linear.weight.ge(0.9).all()


def test_a_new_parameter_is_drawn_as_without_a_file():
    made = seeded(lambda: build_to_fill(Layers, on_meta(Layers), ["linear.bias"]))
    expected = seeded(Layers).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in made.state_dict().items())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "best.safetensors"
    checkpoint.save(tasks.create("classification", classes=2, **SMALL), path)
    return path


def test_loading_draws_nothing(saved):
    state = torch.get_rng_state()
    loaded, _ = checkpoint.load(saved, device="cpu")
    created = tasks.create("classification", classes=2, weights=saved)
    alone = backbones.create("resnet18", weights=saved)
    assert torch.equal(torch.get_rng_state(), state)
    stored = load_file(saved)
    for model, prefix in ((loaded, ""), (created, ""), (alone, "backbone.")):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, stored[prefix + name]), name


def test_other_classes_have_a_new_head_though_they_are_as_many(tmp_path):
    """In another order they keep their rows; numbers may stand for any."""
    old = tasks.create("classification", classes=("a", "b", "c"), **SMALL)
    torch.nn.init.normal_(old.head.bias)
    checkpoint.save(old, tmp_path / "best.safetensors")

    def bias(*classes):
        task = tasks.create("classification", classes=classes, weights=tmp_path / "best.safetensors")
        assert task.report.new == ([] if set(classes) != {"x", "y", "z"} else ["head.weight", "head.bias"])
        return task.head.bias.tolist()

    a, b, c = old.head.bias.tolist()
    assert bias("c", "a", "b") == [c, a, b]
    assert bias("0", "1", "2") == bias("a", "b", "c") == [a, b, c]
    assert not set(bias("x", "y", "z")) & {a, b, c}


def test_a_new_head_is_drawn_as_without_a_checkpoint(saved):
    plain = seeded(lambda: tasks.create("classification", classes=3, **SMALL)).state_dict()
    task = seeded(lambda: tasks.create("classification", classes=3, weights=saved))
    assert task.report.new == ["head.weight", "head.bias"]
    stored = load_file(saved)
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, (plain if name in task.report.new else stored)[name]), name
