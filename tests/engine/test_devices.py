"""Which devices a name stands for, on machines with and without GPUs."""

import pytest
import torch

from vertebra.engine import devices
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("auto", ["cuda:0", "cuda:1"]),
        ("cuda", ["cuda:0", "cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        ("1", ["cuda:1"]),
        ("cuda:1,0", ["cuda:1", "cuda:0"]),
        ("0,1", ["cuda:0", "cuda:1"]),
        ("cpu", ["cpu"]),
    ],
)
def test_names(two_gpus, name, found):
    assert [str(device) for device in devices.find(name)] == found


@pytest.mark.parametrize("name", ["cuda:2", "0,0", "gpu", "mps:0", "cuda:", "cuda:0,", "", "9" * 300, "meta"])
def test_names_of_no_device(two_gpus, monkeypatch, name):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(VertebraError, match=r"^device is '.{0,80}; this machine has cuda:0, cuda:1, cpu"):
        devices.find(name)


def test_without_a_gpu(no_gpu):
    assert devices.find("auto") == [torch.device("cpu")] == [devices.find_one(None)]
    for name in ("cuda", "cuda:0", "0", "mps"):
        with pytest.raises(VertebraError, match="this machine has cpu"):
            devices.find(name)


def test_one_device(two_gpus):
    assert str(devices.find_one("cuda")) == "cuda:0"
    assert devices.find_one(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(VertebraError, match="one model runs on one device, such as cuda:0"):
        devices.find_one("cuda:0,1")


@pytest.mark.parametrize(
    ("options", "local", "found"),
    [
        ({}, 0, ["cuda:0", "cuda:1"]),
        ({"processes": 1}, 0, ["cuda:0"]),
        ({"device": "cuda:1"}, 0, ["cuda:1"]),
        ({"device": "cpu", "processes": 2}, 0, ["cpu", "cpu"]),
        ({"device": "cpu"}, 2, ["cpu", "cpu"]),
        ({"processes": 1}, 2, ["cuda:0", "cuda:1"]),  # torchrun's number wins
        ({"processes": 3}, 0, None),
        ({"device": "cuda:0"}, 2, None),
        ({"device": "cpu", "processes": 1000}, 0, None),
    ],
)
def test_a_process_per_device(two_gpus, monkeypatch, options, local, found):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    settings = resolve("classification", None, options)
    if found:
        assert [str(device) for device in devices.run_devices(settings)] == found
    else:
        with pytest.raises(VertebraError, match=r"processes is \d+; device .* is for \d at most"):
            devices.run_devices(settings)
