"""FSDP2: a divided model computes as a whole one does, and what it is written as is a whole one."""

import copy

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import vertebra
from vertebra import tasks
from vertebra.engine import optim, sharding
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError
from vertebra.nn.meta import without_parameters
from vertebra.structures import Preprocess, Target

SMALL = {"backbone": "vit_tiny_16", "backbone_options": {"depth": 2}}


def small() -> tasks.Task:
    return tasks.create("classification", classes=3, preprocess=Preprocess(size=(32, 32)), **SMALL)


@pytest.fixture
def mesh():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def step(task: tasks.Task, name: str) -> tuple[float, torch.optim.Optimizer]:
    settings = resolve("classification", None, {"optimizer": name, "lr": 0.01, "base_batch_size": 0})
    optimizer = optim.optimizer(task, settings)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    total = sum(task.loss(images, [Target(label=torch.tensor(i % 3)) for i in range(4)]).values())
    total.backward()
    optimizer.step()
    return float(total.detach()), optimizer


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam", "rmsprop"])
def test_a_divided_model_is_the_whole_one(mesh: DeviceMesh, name: str) -> None:
    plain = small()
    divided = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    sharding.shard(divided, mesh, torch.device("cpu"))
    assert all(isinstance(parameter, DTensor) for parameter in divided.parameters())
    divided_blocks = [m for m in divided.modules() if isinstance(m, FSDPModule)]
    assert len(divided_blocks) == 3  # two blocks, and the rest
    (first, one), (second, other) = step(plain, name), step(divided, name)
    assert second == pytest.approx(first, abs=1e-6)
    written = sharding.whole(divided.state_dict())
    assert written.keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert not isinstance(written[name], DTensor)
        torch.testing.assert_close(written[name], tensor, atol=1e-4, rtol=0, msg=name)
    assert (divided.task_name, divided.method) == (plain.task_name, plain.method)
    values = {name: tensor + 1 for name, tensor in written.items()}
    sharding.fill(divided.state_dict(), values)
    torch.testing.assert_close(sharding.whole(divided.state_dict()), values)
    strategy = sharding.Sharded(1, None)
    kept = strategy.optimizer_state(other)
    assert kept.keys() == one.state_dict().keys()
    for number, entry in one.state_dict()["state"].items():
        for key in entry.keys() - {"step"}:
            torch.testing.assert_close(kept["state"][number][key], entry[key], atol=1e-5, rtol=0)


def test_parameters_alone_are_left_without_values() -> None:
    empty, full = without_parameters(small), small()
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert {name: p.shape for name, p in empty.named_parameters()} == {n: p.shape for n, p in full.named_parameters()}
    assert not any(buffer.is_meta for buffer in empty.buffers())
    assert not next(small().parameters()).is_meta


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, r"divides a model among several processes, and this run has one"),
        ({"processes": 2, "ema": 0.9}, "works without ema, because the average is of whole weights"),
        ({"processes": 2, "teacher": "resnet18"}, "works without teacher"),
        ({"processes": 2, "unfreeze_every": 1}, "works without unfreeze_every"),
        ({"processes": 2, "precision": "16-mixed"}, r"precision 16-mixed: choose bf16-mixed"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options: dict, reason: str) -> None:
    settings = resolve("classification", None, {"strategy": "fsdp", **options})
    with pytest.raises(VertebraError, match=reason):
        sharding.check(settings, options.get("processes", 1))


def test_models_that_cannot_be_divided_are_refused() -> None:
    task = tasks.create("classification", classes=2, backbone="resnet18")
    with pytest.raises(VertebraError, match="synchronises batch norm on GPUs alone"):
        sharding.check_task(task, torch.device("cpu"))
    sharding.check_task(task, torch.device("cuda"))
    task.unused_parameters = True  # as detectors have it
    with pytest.raises(VertebraError, match="a gradient of every parameter in every step, which classification"):
        sharding.check_task(task, torch.device("cuda"))


def test_a_process_that_never_arrives(tmp_path, photos, brightness, monkeypatch) -> None:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "run", "GROUP_RANK": "0"}
    counts = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in (place | counts).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(VertebraError, match=r"^1 of the 2 processes of this run have arrived at .* within 0.02 min"):
        vertebra.train(
            brightness, data=photos, output=tmp_path / "run", epochs=1, image_size=8, workers=0, timeout=0.02
        )
