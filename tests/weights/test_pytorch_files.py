"""Files of `torch.save`: no more is unpacked or allocated than the file justifies, and odd contents are named."""

import zipfile

import pytest
import torch
from safetensors.torch import save_file

from vertebra import weights
from vertebra.errors import VertebraError
from vertebra.weights import pytorch


@pytest.fixture(params=[True, False], ids=["zip", "old"])
def save(request, tmp_path):
    def write(content):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=request.param)
        return tmp_path / "a.pth"

    return write


def test_a_file_that_contains_itself_is_read(save):
    content = {"a": torch.ones(2)}
    content["model"] = content
    assert list(weights.read(save(content))[0]) == ["a"]
    inner = {"model": {"net": None, "a": torch.ones(2)}}
    inner["model"]["net"] = inner
    with pytest.raises(VertebraError, match="no tensors by name"):
        weights.read(save(inner))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({3: torch.zeros(2)}, "has a tensor under the key 3; expected a state_dict"),
        ({"a": torch.zeros(2), (1, 2): torch.zeros(2)}, r"under the key \(1, 2\)"),
        ({"a\nb": torch.zeros(2)}, r"has a tensor named 'a\\nb'"),
        ({"a" * 10_000: torch.zeros(2)}, "has a tensor named 'aaa"),
        ({"a": torch.zeros(1).expand(100_000, 100_000)}, r"its tensors take 40,000,000,000: 'a' has the shape"),
        ({str(i): torch.zeros(300).expand(10, 300) for i in range(50)}, "but its tensors take"),
        ({"a": torch.zeros(3, device="meta")}, "the tensor a is without data"),
        ({"a": torch.eye(3).to_sparse()}, "the tensor a is sparse"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, "the tensor a is complex"),
        ({"a": torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)}, "the tensor a is quantized"),
    ],
    ids=range(10),
)
def test_odd_tensors_are_named(save, content, sentence):
    path = save(content)
    with pytest.raises(VertebraError, match=sentence) as caught:
        weights.read(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


def test_tied_and_expanded_tensors_of_little_size_are_read(save):
    tied = torch.randn(100, 100)
    state, _, _ = weights.read(save({"a": tied, "b": tied, "c": tied.t(), "mask": torch.ones(1, 1).expand(8, 8)}))
    assert torch.equal(state["c"], tied.t())
    assert state["mask"].shape == (8, 8)


def test_attributes_of_tensors_stay_in_the_file(tmp_path):
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.detach = "not a method"
    torch.save({"a": tensor}, tmp_path / "a.pth")
    state, _, _ = weights.read(tmp_path / "a.pth")
    assert type(state["a"]) is torch.Tensor
    assert not vars(state["a"])


@pytest.mark.parametrize("member", ["a/data.pkl", "a/data/0"])
def test_a_compressed_archive_is_not_unpacked(tmp_path, monkeypatch, member):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(member, "w") as file:
        for _ in range(200):
            file.write(bytes(10**6))

    def unexpected(*_, **__):
        raise AssertionError("it was loaded")

    monkeypatch.setattr(torch, "load", unexpected)
    with pytest.raises(VertebraError, match=r"bytes that unpack to 200,000,000, and was not loaded"):
        weights.read(path)


def test_a_damaged_directory_of_an_archive(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(VertebraError, match="not a whole PyTorch checkpoint"):
        pytorch.check_archive(path)
    path.write_bytes(b"\x80\x02.")
    pytorch.check_archive(path)  # is no archive


def test_complex_tensors_of_safetensors(tmp_path):
    save_file({"a": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "a.safetensors")
    with pytest.raises(VertebraError, match=r"a.safetensors: the tensor a is complex"):
        weights.read(tmp_path / "a.safetensors")
