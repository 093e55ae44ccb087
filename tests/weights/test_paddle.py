"""Paddle's checkpoints: read to the bit, refused where they hold code, and every tensor put in its place."""

import collections
import os
import pickle
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vertebra import weights
from vertebra.errors import VertebraError

NAMES, BIG = "StructuredToParameterName@@", "UnpackBigParamInfor@@"


class ParamBase:
    """As Paddle pickles a tensor that is not at the top of a state dict."""

    def __init__(self, name, array):
        self.name, self.array = name, array

    def __reduce__(self):
        return tuple, ((self.name, self.array),)


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)
    return {
        "conv.weight": random.normal(size=(4, 3, 2, 2)).astype("f4"),
        "norm._mean": random.normal(size=5),
        "fortran": np.asfortranarray(random.normal(size=(3, 4)).astype("f4")),
        "half": random.normal(size=6).astype("f2"),
        "index": random.integers(-(2**62), 2**62, (2, 3)),
        "bytes": random.integers(0, 255, 300).astype("u1"),
        "flag": np.array([True, False]),
        "scalar": np.float32(0.1),
        "nought": np.array(2.5, "f4"),
        "empty": np.zeros((0, 3), "f4"),
        "big_endian": np.arange(3, dtype=">f4"),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_arrays_are_read_to_the_bit(tmp_path, arrays, protocol, kind):
    content = kind(arrays) | {NAMES: {name: f"parameter_{name}" for name in arrays}}
    path = write(tmp_path / "model.pdparams", content, protocol)
    state, metadata, found = weights.read(path)
    assert (list(state), metadata, found) == (list(arrays), {}, path)
    for name, array in arrays.items():
        want = np.asarray(array)
        assert state[name].dtype == torch.from_numpy(want.astype(want.dtype.newbyteorder("="))).dtype
        assert list(state[name].shape) == list(want.shape)
        np.testing.assert_array_equal(state[name].numpy(), want)
    state["conv.weight"].zero_()  # its memory is its own


def test_names_of_numpy_2_and_of_python_2(tmp_path, arrays):
    content = pickle.dumps({"w": arrays["conv.weight"]}, 2)
    assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    for variant in (content.replace(new, old), content.replace(new, old).replace(old, new)):
        (tmp_path / "model.pdparams").write_bytes(variant)
        state, *_ = weights.read(tmp_path / "model.pdparams")
        np.testing.assert_array_equal(state["w"].numpy(), arrays["conv.weight"])
    # Python 2 wrote bytes as byte strings: BINSTRING, written here by hand.
    raw = np.arange(3, dtype="<f4").tobytes()
    text = b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt"
    text += b"R(K\x01K\x03\x85cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    text += b"T" + struct.pack("<i", len(raw)) + raw + b"tbs."
    (tmp_path / "model.pdparams").write_bytes(text)
    assert weights.read(tmp_path / "model.pdparams")[0]["w"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("protocol", [2, 4])
def test_pairs_of_name_and_array(tmp_path, arrays, protocol):
    array = arrays["conv.weight"]
    content = {"plain": ("linear_0.w_0", array), "reduced": ParamBase("linear_1.w_0", array), "epoch": 3}
    state, *_ = weights.read(write(tmp_path / "model.pdparams", content, protocol))
    assert list(state) == ["plain", "reduced"]
    for tensor in state.values():
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_slices_of_a_big_array_are_put_together(tmp_path, arrays):
    array = arrays["conv.weight"]
    flat = array.flatten()
    content = {"small": arrays["norm._mean"], "big@@.0": flat[:20], "big@@.1": flat[20:40], "big@@.2": flat[40:]}
    content[BIG] = {"big": {"OriginShape": array.shape, "slices": ["big@@.0", "big@@.1", "big@@.2"]}}
    content[NAMES] = {"small": "a", "big": "b"}
    state, *_ = weights.read(write(tmp_path / "model.pdparams", content))
    assert set(state) == {"small", "big"}
    np.testing.assert_array_equal(state["big"].numpy(), array)
    content[BIG]["big"]["slices"].append("big@@.0")
    with pytest.raises(VertebraError, match="not a whole Paddle checkpoint"):
        weights.read(write(tmp_path / "model.pdparams", content))


def test_bfloat16_comes_as_uint16(tmp_path):
    want = torch.tensor([1.0, -2.5, 3e30]).bfloat16()
    bits = want.view(torch.int16).numpy().view("u2")
    state, *_ = weights.read(write(tmp_path / "model.pdparams", {"w": bits}))
    assert torch.equal(state["w"], want)


class Call:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


class Persistent(pickle.Pickler):
    def persistent_id(self, obj):
        return "outside" if isinstance(obj, SimpleNamespace) else None


def _persistent(path):
    with path.open("wb") as file:
        Persistent(file, 2).dump({"a": SimpleNamespace()})


HOSTILE = {
    "system": (lambda: {"a": Call(os.system, "touch exploded")}, "system"),
    "top": (lambda: Call(os.system, "touch exploded"), "system"),
    "eval": (lambda: {"a": Call(eval, "open('exploded', 'w')")}, r"eval"),
    "getattr": (lambda: {"a": Call(getattr, "a", "upper")}, "getattr"),
    "lod": (lambda: {"a": Call(eval, "data", {"data": np.zeros(1)})}, "eval"),
    "objects": (lambda: {"a": np.array([{}, None], dtype=object)}, "an array of the type 'O8'"),
    "records": (lambda: {"a": np.zeros(2, [("x", "f4")])}, "an array of the type 'V4'"),
    "strings": (lambda: {"a": np.array(["x"])}, "an array of the type 'U1'"),
    "complex": (lambda: {"a": np.zeros(1, "c8")}, "an array of the type 'c8'"),
    "instance": (lambda: {"a": SimpleNamespace(x=1)}, "SimpleNamespace"),
    "tuple": (lambda: {"a": Call(tuple, range(3))}, "range"),
    "load": (lambda: {"a": Call(np.load, "x")}, "load"),
    "encode": (lambda: {"a": Call(__import__("_codecs").encode, "x", "rot13")}, "_codecs.encode for other than bytes"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_objects_are_refused_and_nothing_runs(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    make, what = HOSTILE[name]
    path = write(tmp_path / f"{name}.pdparams", make(), protocol)
    with pytest.raises(VertebraError, match=what) as caught:
        weights.read(path)
    text = str(caught.value)
    assert str(path) in text
    assert "could run code, so it was not loaded: save layer.state_dict() alone" in text
    assert os.listdir() == [path.name]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x80\x02}U\x01aP0\nsccollections\nOrderedDict\n.", "PERSID"),
        (b"\x80\x02(U\x08exploded" + b"ios\nsystem\n.", "INST"),
        (b"\x80\x02(cos\nsystem\nU\x08exploded" + b"o.", "OBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
        (b"\x80\x04\x8c\x0cnumpy.random\x8c\x11_pickle.something\x93.", "numpy.random._pickle"),
        # A __setstate__ whose type of elements is not one of ours.
        (b"\x80\x02cnumpy\ndtype\nU\x02f4\x85R(K\x03U\x01|(NNtNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.", "records"),
    ],
)
def test_handwritten_pickles_are_refused(tmp_path, content, what):
    (tmp_path / "a.pdparams").write_bytes(content)
    with pytest.raises(VertebraError, match=f"{what}.*could run code"):
        weights.read(tmp_path / "a.pdparams")


def test_references_outside_the_file_are_refused(tmp_path):
    _persistent(tmp_path / "a.pdparams")
    with pytest.raises(VertebraError, match="BINPERSID.*could run code"):
        weights.read(tmp_path / "a.pdparams")


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path):
    million = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6
    encode = b"c_codecs\nencode\n"
    again = b"0h\x00h\x01h\x02\x86R"  # pops what there is, then encodes the same string once more
    start = b"\x80\x02" + encode + b"q\x00" + million + b"q\x01X\x06\x00\x00\x00latin1q\x02"
    bombs = {
        "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",  # None, as entry 2^31 of the memo
        "encode": start + again * 1000 + b".",
        "length": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}.",
        "shape": pickle.dumps({"a": np.zeros(7, "f4")}, 2).replace(b"K\x07\x85", b"J\x00\x00\x00\x70\x85"),
    }
    array = np.zeros(10**6, "u1")
    state = (1, (10**6,), array.dtype, False, array.tobytes())
    copies = [Call(array.__reduce__()[0], np.ndarray, (0,), b"b") for _ in range(50)]  # arrays around the same bytes
    for one in copies:
        one.reduced = (*one.reduced, state)
    bombs["shared"] = pickle.dumps({str(i): one for i, one in enumerate(copies)}, 4)
    assert len(bombs["shared"]) < 2 * 10**6
    for name, content in bombs.items():
        (tmp_path / f"{name}.pdparams").write_bytes(content)
        with pytest.raises(VertebraError, match="not a whole Paddle checkpoint"):
            weights.read(tmp_path / f"{name}.pdparams")


def test_damaged_and_foreign_files_are_explained(tmp_path, arrays):
    whole = pickle.dumps(arrays, 2)
    for name, content, text in (
        ("half", whole[: len(whole) // 2], "not a whole Paddle checkpoint"),
        ("end", whole[:-1], "not a whole Paddle checkpoint"),
        ("empty", b"", "not a Paddle checkpoint"),
        ("text", b"not a checkpoint", "not a Paddle checkpoint"),
        ("zip", b"PK\x03\x04", "not a Paddle checkpoint"),
        ("list", pickle.dumps([1, 2], 2), "holds no tensors by name"),
        ("nothing", pickle.dumps({NAMES: {}}, 2), "holds no tensors by name"),
        ("short", whole.replace(b"K\x04K\x03K\x02K\x02t", b"K\x04K\x03K\x02K\x03t"), "not as long as its shape"),
    ):
        path = tmp_path / f"{name}.pdparams"
        path.write_bytes(content)
        with pytest.raises(VertebraError, match=text) as caught:
            weights.read(path)
        assert str(path) in str(caught.value)
    for end in range(1, len(whole), 97):  # whatever it is cut to
        path.write_bytes(whole[:end])
        with pytest.raises(VertebraError):
            weights.read(path)


@pytest.mark.parametrize("suffix", [".pdopt", ".pdmodel", ".pdiparams"])
def test_other_files_of_paddle_say_which_is_wanted(tmp_path, suffix):
    write(tmp_path / f"model{suffix}", {"a": np.zeros(1)})
    with pytest.raises(VertebraError, match=r"give the \.pdparams file instead"):
        weights.read(tmp_path / f"model{suffix}")
