"""Files of Detectron2's model zoo: read to the bit, refused where they hold code."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from vertebra import weights
from vertebra.errors import VertebraError


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        "backbone.bottom_up.stem.conv1.weight": random.normal(size=(4, 3, 2, 2)).astype("f4"),
        "roi_heads.box_predictor.cls_score.bias": random.normal(size=5).astype("f4"),
        "transposed": random.normal(size=(3, 4)).astype("f4").T,
        "count": np.array(3),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_arrays_are_read_to_the_bit(tmp_path, arrays, protocol, kind):
    content = {"model": kind(arrays), "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    state, metadata, read_path = weights.read(path)
    assert (list(state), metadata, read_path) == (list(arrays), {}, path)
    for name, array in arrays.items():
        assert state[name].dtype == torch.from_numpy(array).dtype
        np.testing.assert_array_equal(state[name].numpy(), array)


def test_a_dict_of_arrays_without_a_wrapper(tmp_path, arrays):
    for key in ("blobs", None):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps({key: arrays} if key else arrays))
        assert list(weights.read(tmp_path / "model.pkl")[0]) == list(arrays)


class Call:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("content", [{"model": {"a": Call()}}, Call(), {"model": {}, "config": Call()}])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(VertebraError, match=r"model.pkl holds (posix|nt).system, .* could run code"):
        weights.read(tmp_path / "model.pkl")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "is not a checkpoint of Detectron2's model zoo"),
        (b"PK\x03\x04", "is not a checkpoint of Detectron2's model zoo"),
        (pickle.dumps({"model": {"a": np.zeros(99)}})[:-200], "is not a whole checkpoint of Detectron2's model zoo"),
        (pickle.dumps({"model": {"epoch": 3}}), "holds no tensors by name"),
        (pickle.dumps([1, 2]), "holds no tensors by name"),
    ],
)
def test_other_files_are_explained(tmp_path, raw, sentence):
    (tmp_path / "model.pkl").write_bytes(raw)
    with pytest.raises(VertebraError, match=sentence):
        weights.read(tmp_path / "model.pkl")


def test_an_array_that_says_it_is_longer_than_it_is(tmp_path):
    raw = pickle.dumps({"model": {"a": np.zeros(1000, "f4")}}, 5)
    assert b"_frombuffer" in raw
    (tmp_path / "model.pkl").write_bytes(raw.replace(b"M\xe8\x03\x85", b"M\xd0\x07\x85"))  # 2000 for 1000
    with pytest.raises(VertebraError, match="not as long as its shape says"):
        weights.read(tmp_path / "model.pkl")
