"""Paddle's checkpoints: read to the bit, refused where they hold code, and every tensor put in its place."""

import collections
import os
import pickle
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vertebra
from vertebra import weights
from vertebra.errors import VertebraError
from vertebra.nn.res2 import Res2Conv
from vertebra.weights.rules import choose

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
    state, metadata, read_path = weights.read(path)
    assert (list(state), metadata, read_path) == (list(arrays), {}, path)
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
    text += (
        b"R(K\x01K\x03\x85cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    text += b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tbs."
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
    with pytest.raises(VertebraError, match=r"BINPERSID.*could run code"):
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
    deep = b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s."  # a mapping with tuples in tuples for its key
    mapping = pickle.dumps({str(i): i for i in range(10**5)}, 2)[:-1] + b"q\xff0"
    ordered = b"ccollections\nOrderedDict\nq\xfe0"
    raw = b"\x96" + struct.pack("<Q", 10**6) + b"a" * 10**6 + b"q\xfe0"
    call = b"cnumpy._core.numeric\n_frombuffer\nq\xfd0" + b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\xfc0"
    again = b"h\xfd(h\xfeh\xfcJ" + struct.pack("<i", 10**6) + b"\x85X\x01\x00\x00\x00CtR0"
    bombs["copies of bytes"] = b"\x80\x05" + raw + call + again * 1000 + b"}."
    bombs["axes"] = pickle.dumps({"a": np.zeros((1,) * 3, "f4")}, 2).replace(
        b"K\x01K\x01K\x01\x87", b"(" + b"K\x01" * 65 + b"t"
    )
    refused = {"deep": deep, "copies of a mapping": mapping + ordered + b"h\xfeh\xff\x85R0" * 1000 + b"}."}
    for name, content in refused.items():
        (tmp_path / f"{name}.pdparams").write_bytes(content)
        with pytest.raises(VertebraError, match="a mapping of other than names, which weights do not need"):
            weights.read(tmp_path / f"{name}.pdparams")
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


def test_slices_of_the_same_bytes_are_counted(tmp_path):
    one = np.zeros(10**5, "u1")
    content = {str(i): one for i in range(50)}  # a pickle holds it once
    content[BIG] = {"whole": {"OriginShape": (50 * 10**5,), "slices": [str(i) for i in range(50)]}}
    with pytest.raises(VertebraError, match="it unpacks to more than its own size"):
        weights.read(write(tmp_path / "model.pdparams", content))


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


# What follows writes down PaddleClas's models by name and shape, attribute by attribute as its sources define them.

_50, _101, _152, _200 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3), (3, 12, 48, 3)


def norm(name, width):
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "_mean", "_variance")}


def conv(name, inputs, outputs, kernel, groups=1, parts=("conv", "bn")):
    weight = {f"{name}.{parts[0]}.weight": (outputs, inputs // groups, kernel, kernel)}
    return weight | norm(f"{name}.{parts[1]}", outputs)


def old_conv(*args, **kwargs):
    return conv(*args, parts=("_conv", "_batch_norm"), **kwargs)


def linear(name, inputs, outputs, bias=True):
    return {f"{name}.weight": (inputs, outputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def layer_norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def resnet(depths, classes, vd=False):
    state, inputs, number = {}, 64, 0
    stem = [(3, 32, 3), (32, 32, 3), (32, 64, 3)] if vd else [(3, 64, 7)]
    for i, sizes in enumerate(stem):
        state |= conv(f"stem.{i}", *sizes)
    for stage, depth in enumerate(depths):
        width = (64, 128, 256, 512)[stage]
        for i in range(depth):
            state |= conv(f"blocks.{number}.conv0", inputs, width, 1)
            state |= conv(f"blocks.{number}.conv1", width, width, 3)
            state |= conv(f"blocks.{number}.conv2", width, 4 * width, 1)
            if i == 0:
                state |= conv(f"blocks.{number}.short", inputs, 4 * width, 1)
            inputs, number = 4 * width, number + 1
    return state | linear("fc", inputs, classes)


def old_stem(vd, plain):
    if not vd:
        return old_conv(plain, 3, 64, 7)
    return old_conv("conv1_1", 3, 32, 3) | old_conv("conv1_2", 32, 32, 3) | old_conv("conv1_3", 32, 64, 3)


def resnext(depths, classes, cardinality=1, vd=False, se=False):
    """SE_ResNet_vd has a cardinality of 1."""
    state, inputs = old_stem(vd, "conv"), 64
    for stage, depth in enumerate(depths):
        width = {1: 64, 32: 128, 64: 256}[cardinality] * 2**stage
        outputs = 256 * 2**stage
        for i in range(depth):
            name = f"bb_{stage}_{i}"
            state |= old_conv(f"{name}.conv0", inputs, width, 1)
            state |= old_conv(f"{name}.conv1", width, width, 3, cardinality)
            state |= old_conv(f"{name}.conv2", width, outputs, 1)
            if se:
                state |= linear(f"{name}.scale.squeeze", outputs, outputs // 16)
                state |= linear(f"{name}.scale.excitation", outputs // 16, outputs)
            if i == 0:
                state |= old_conv(f"{name}.short", inputs, outputs, 1)
            inputs = outputs
    return state | linear("out", inputs, classes)


def wsl(depths, classes, width):
    def old_conv(*args, **kwargs):
        return conv(*args, parts=("_conv", "_bn"), **kwargs)

    state, inputs = old_conv("_conv_stem", 3, 64, 7), 64
    for stage, depth in enumerate(depths):
        inside, outputs = 32 * width * 2**stage, 256 * 2**stage
        for i in range(depth):
            name = f"_conv{stage + 1}_{i}"
            state |= old_conv(f"{name}._conv0", inputs, inside, 1)
            state |= old_conv(f"{name}._conv1", inside, inside, 3, 32)
            state |= old_conv(f"{name}._conv2", inside, outputs, 1)
            if i == 0:
                state |= old_conv(f"{name}._short._conv", inputs, outputs, 1)
            inputs = outputs
    return state | linear("_out", inputs, classes)


def res2net(depths, classes, width, scales, vd=False):
    state, inputs = old_stem(vd, "conv1"), 64
    for stage, depth in enumerate(depths):
        inside, outputs = width * scales * 2**stage, 256 * 2**stage
        for i in range(depth):
            numbered = stage == 2 and depth > 6  # the third stage of the deep ones runs out of letters
            letter = ("a" if i == 0 else f"b{i}") if numbered else chr(ord("a") + i)
            name = f"bb_{stage}_{i}"
            state |= old_conv(f"{name}.conv0", inputs, inside, 1)
            for s in range(1, scales):
                state |= old_conv(f"{name}.res{stage + 2}{letter}_branch2b_{s}", inside // scales, inside // scales, 3)
            state |= old_conv(f"{name}.conv2", inside, outputs, 1)
            if i == 0:
                state |= old_conv(f"{name}.short", inputs, outputs, 1)
            inputs = outputs
    return state | linear("out", inputs, classes)


def hrnet(width, classes, modules=(1, 4, 3)):
    def bottleneck(name, inputs, width, down):
        state = conv(f"{name}.conv1", inputs, width, 1) | conv(f"{name}.conv2", width, width, 3)
        state |= conv(f"{name}.conv3", width, 4 * width, 1)
        return state | (conv(f"{name}.conv_down", inputs, 4 * width, 1) if down else {})

    state = conv("conv_layer1_1", 3, 64, 3) | conv("conv_layer1_2", 64, 64, 3)
    for i in range(4):
        state |= bottleneck(f"layer1.{i}", 256 if i else 64, 64, i == 0)
    state |= conv("conv_tr1_1", 256, width, 3) | conv("conv_tr1_2", 256, 2 * width, 3)
    state |= conv("conv_tr2", 2 * width, 4 * width, 3) | conv("conv_tr3", 4 * width, 8 * width, 3)
    for stage, count in zip((2, 3, 4), modules, strict=True):
        widths = [width * 2**i for i in range(stage)]
        for module in range(count):
            name = f"st{stage}.stage_func_list.{module}"
            for branch, w in enumerate(widths):
                for i in range(4):
                    state |= conv(f"{name}.basic_block_list.{branch}.{i}.conv1", w, w, 3)
                    state |= conv(f"{name}.basic_block_list.{branch}.{i}.conv2", w, w, 3)
            number = 0
            for i in range(stage):
                for j in range(stage):
                    if j > i:
                        state |= conv(f"{name}.fuse_func.residual_func_list.{number}", widths[j], widths[i], 1)
                        number += 1
                    for k in range(i - j):
                        out = widths[i] if k == i - j - 1 else widths[j]
                        state |= conv(f"{name}.fuse_func.residual_func_list.{number}", widths[j], out, 3)
                        number += 1
    for i, w in enumerate((32, 64, 128, 256)):
        state |= bottleneck(f"last_cls.func_list.{i}", width * 2**i, w, True)
    for i, w in enumerate((128, 256, 512)):
        state |= conv(f"cls_head_conv_list.{i}", w, 2 * w, 3)
    return state | conv("conv_last", 1024, 2048, 1) | linear("fc", 2048, classes)


def transformer(name, width, hidden):
    state = layer_norm(f"{name}.norm1", width) | layer_norm(f"{name}.norm2", width)
    state |= linear(f"{name}.attn.qkv", width, 3 * width) | linear(f"{name}.attn.proj", width, width)
    return state | linear(f"{name}.mlp.fc1", width, hidden) | linear(f"{name}.mlp.fc2", hidden, width)


def swin(width, depths, heads, classes, window=7, size=224):
    state = {"patch_embed.proj.weight": (width, 3, 4, 4), "patch_embed.proj.bias": (width,)}
    state |= layer_norm("patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        w, side = width * 2**stage, size // 4 // 2**stage
        for i in range(depth):
            name = f"layers.{stage}.blocks.{i}"
            state |= transformer(name, w, 4 * w)
            state[f"{name}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads[stage])
            state[f"{name}.attn.relative_position_index"] = (window**2, window**2)
            if i % 2 and side > window:
                state[f"{name}.attn_mask"] = ((side // window) ** 2, window**2, window**2)
        if stage < 3:
            state |= linear(f"layers.{stage}.downsample.reduction", 4 * w, 2 * w, bias=False)
            state |= layer_norm(f"layers.{stage}.downsample.norm", 4 * w)
    return state | layer_norm("norm", 8 * width) | linear("head", 8 * width, classes)


def vit(width, depth, patch, classes, distilled=False, size=224):
    state = {"pos_embed": (1, (size // patch) ** 2 + 1 + distilled, width), "cls_token": (1, 1, width)}
    state |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        state |= transformer(f"blocks.{i}", width, 4 * width)
    state |= layer_norm("norm", width) | linear("head", width, classes)
    if distilled:
        state |= {"dist_token": (1, 1, width)} | linear("head_dist", width, classes)
    return state


WHOLE = {
    "resnet50": (resnet(_50, 1000), {}),
    "resnet101": (resnet(_101, 1000), {}),
    "resnet152": (resnet(_152, 1000), {}),
    "resnet50_vd": (resnet(_50, 1000, vd=True), {}),
    "resnet101_vd": (resnet(_101, 1000, vd=True), {}),
    "resnet152_vd": (resnet(_152, 1000, vd=True), {}),
    "resnet200_vd": (resnet(_200, 1000, vd=True), {}),
    "resnext50_32x4d": (resnext(_50, 1000, 32), {}),
    "resnext50_64x4d": (resnext(_50, 1000, 64), {"name": "resnext50_32x4d", "groups": 64}),
    "resnext50_vd_32x4d": (resnext(_50, 1000, 32, vd=True), {"name": "resnext50_32x4d", "deep": True}),
    "resnext101_32x4d": (resnext(_101, 1000, 32), {}),
    "resnext101_64x4d": (resnext(_101, 1000, 64), {}),
    "resnext101_32x8d_wsl": (wsl(_101, 1000, 8), {}),
    "resnext101_32x16d_wsl": (wsl(_101, 1000, 16), {}),
    "resnext101_32x32d_wsl": (wsl(_101, 1000, 32), {}),
    "resnext101_32x48d_wsl": (wsl(_101, 1000, 48), {}),
    "se_resnext50_32x4d": (resnext(_50, 1000, 32, se=True), {}),
    "se_resnext101_32x4d": (resnext(_101, 1000, 32, se=True), {"name": "resnext101_32x4d", "se": 16}),
    "se_resnet50_vd": (resnext(_50, 1000, vd=True, se=True), {"name": "se_resnet50", "deep": True}),
    "res2net50_26w_4s": (res2net(_50, 1000, 26, 4), {}),
    "res2net50_14w_8s": (res2net(_50, 1000, 14, 8), {}),
    "res2net50_vd_26w_4s": (res2net(_50, 1000, 26, 4, vd=True), {"name": "res2net50_v1b"}),
    "res2net101_vd_26w_4s": (res2net(_101, 1000, 26, 4, vd=True), {"name": "res2net101_v1b"}),
    "res2net200_vd_26w_4s": (res2net(_200, 1000, 26, 4, vd=True), {}),
    **{f"hrnet_w{w}": (hrnet(w, 1000), {"bias": False}) for w in (18, 30, 32, 40, 44, 48, 64)},
    "swin_tiny": (swin(96, (2, 2, 6, 2), (3, 6, 12, 24), 1000), {}),
    "swin_large_384": (swin(192, (2, 2, 18, 2), (6, 12, 24, 48), 1000, 12, 384), {}),
    "vit_base_16": (vit(768, 12, 16, 1000), {}),
    "vit_base_32_384": (vit(768, 12, 32, 1000, size=384), {}),
    "vit_large_16_384": (vit(1024, 24, 16, 1000, size=384), {}),
    "deit_tiny_16": (vit(192, 12, 16, 1000), {}),
    "deit_base_16_distilled": (vit(768, 12, 16, 1000, distilled=True), {}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_tensor_of_the_published_models_has_its_place(name):
    """By names and shapes alone, without memory for the numbers."""
    shapes, options = WHOLE[name]
    options = {"name": name, "embedding": True} | options
    with torch.device("meta"):
        model = vertebra.backbone(**options)
        state = {k: torch.empty(shape) for k, shape in shapes.items()}
        heads = {"head.weight": (1000, model.width // model.num_classifiers), "head.bias": (1000,)}
        if model.num_classifiers == 2:
            heads = {k.replace("head", f"head.{i}"): shape for i in range(2) for k, shape in heads.items()}
    own = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert choose(state, model.tables(), None, model.state_dict()) == "paddle"
    converted, dropped = weights.convert(state, model.tables()["paddle"])
    assert {k: tuple(v.shape) for k, v in converted.items()} == own | heads
    assert set(dropped.values()) <= {"computed from the sizes"}


TINY = (1, 2, 1, 1)
# State, backbone, its options, and where some tensors go: `T` is transposed, `F` is that and a 1x1 convolution.
SMALL = {
    "resnet": (
        resnet(TINY, 5),
        "resnet50",
        {"depths": TINY},
        {
            "stem.0.conv.weight": "stem.0.conv.weight",
            "blocks.1.short.bn._mean": "stages.1.0.shortcut.1.norm.running_mean",
            "blocks.2.conv1.conv.weight": "stages.1.1.conv2.conv.weight",
            "blocks.3.conv0.bn._variance": "stages.2.0.conv1.norm.running_var",
            "fc.weight": "T head.weight",
        },
    ),
    "resnet_vd": (
        resnet(TINY, 5, vd=True),
        "resnet50_vd",
        {"depths": TINY},
        {
            "stem.1.conv.weight": "stem.1.conv.weight",
            "blocks.2.conv2.bn.bias": "stages.1.1.conv3.norm.bias",
            "fc.weight": "T head.weight",
        },
    ),
    "se_resnext": (
        resnext(TINY, 5, 32, se=True),
        "se_resnext50_32x4d",
        {"depths": TINY},
        {
            "conv._conv.weight": "stem.0.conv.weight",
            "bb_1_1.conv1._conv.weight": "stages.1.1.conv2.conv.weight",
            "bb_3_0.scale.squeeze.weight": "F stages.3.0.gate.0.reduce.weight",
            "bb_3_0.scale.excitation.weight": "F stages.3.0.gate.0.expand.weight",
            "bb_3_0.scale.excitation.bias": "stages.3.0.gate.0.expand.bias",
            "out.weight": "T head.weight",
        },
    ),
    "res2net": (
        res2net(TINY, 5, 26, 4),
        "res2net50_26w4s",
        {"depths": TINY},
        {
            "conv1._conv.weight": "stem.0.conv.weight",
            "bb_1_1.conv0._conv.weight": "stages.1.1.conv1.conv.weight",
            "bb_1_1.res3b_branch2b_1._conv.weight": "stages.1.1.conv2.convs.0.conv.weight",
            "bb_1_1.res3b_branch2b_3._batch_norm._mean": "stages.1.1.conv2.convs.2.norm.running_mean",
            "out.weight": "T head.weight",
        },
    ),
    "res2net_vd": (
        res2net(TINY, 5, 26, 4, vd=True),
        "res2net50_v1b",
        {"depths": TINY},
        {"conv1_3._conv.weight": "stem.2.conv.weight", "out.weight": "T head.weight"},
    ),
    "hrnet": (
        hrnet(8, 5, (1, 1, 1)),
        "hrnet_w18",
        {"width": 8, "modules": (1, 1, 1), "bias": False},
        {
            "conv_tr1_1.conv.weight": "transitions.0.0.conv.weight",
            "conv_tr3.bn._mean": "transitions.2.3.norm.running_mean",
            "st3.stage_func_list.0.basic_block_list.2.3.conv1.conv.weight": "stages.1.0.branches.2.3.conv1.conv.weight",
            # Targets 0 and 1 of four branches take three each, then 2 <- 0 in two steps, 2 <- 1 and 2 <- 3.
            **{
                f"st4.stage_func_list.0.fuse_func.residual_func_list.{number}.conv.weight": (
                    f"stages.2.0.exchange.paths.{path}.conv.weight"
                )
                for number, path in {2: "0.3", 3: "1.0.0", 7: "2.0.1", 9: "2.3", 12: "3.0.2", 15: "3.2.0"}.items()
            },
            "last_cls.func_list.1.conv_down.conv.weight": "increase.1.shortcut.1.conv.weight",
            "cls_head_conv_list.2.conv.weight": "down.2.conv.weight",
            "conv_last.bn.weight": "final.norm.weight",
            "fc.weight": "T head.weight",
        },
    ),
    "swin": (
        swin(24, (2, 2, 2, 2), (3, 6, 12, 24), 5),
        "swin_tiny",
        {"width": 24, "depths": (2, 2, 2, 2)},
        {
            "patch_embed.proj.weight": "stem.patches.weight",
            "layers.2.blocks.1.attn.qkv.weight": "T stages.2.1.attention.qkv.weight",
            "layers.2.blocks.1.attn.proj.weight": "T stages.2.1.attention.project.weight",
            "layers.2.blocks.1.attn.relative_position_bias_table": "stages.2.1.attention.bias_table",
            "layers.1.downsample.reduction.weight": "T merges.1.reduction.weight",
            "head.weight": "T head.weight",
        },
    ),
    "vit": (
        vit(192, 2, 16, 5),
        "deit_tiny_16",
        {"depth": 2},
        {
            "patch_embed.proj.weight": "stem.patches.weight",
            "blocks.1.attn.proj.weight": "T blocks.1.attention.project.weight",
            "blocks.1.mlp.fc2.weight": "T blocks.1.mlp.project.weight",
            "head.weight": "T head.weight",
        },
    ),
    "deit": (
        vit(192, 2, 16, 5, distilled=True),
        "deit_tiny_16_distilled",
        {"depth": 2},
        {"dist_token": "stem.distill_token", "head.weight": "T head.0.weight", "head_dist.weight": "T head.1.weight"},
    ),
}


def fabricate(shapes):
    random = np.random.default_rng(1)
    arrays = {name: random.random(shape, "f4") for name, shape in shapes.items()}
    return arrays | {NAMES: {name: name for name in shapes}}


@pytest.mark.parametrize("family", SMALL)
def test_models_load_strictly(tmp_path, family):
    shapes, name, options, places = SMALL[family]
    arrays = fabricate(shapes)
    path = write(tmp_path / "model.pdparams", arrays, 4)
    task = vertebra.create(
        "classification", backbone=name, classes=5, backbone_options=options, weights=path, source="paddle"
    )
    report = task.report
    dropped = {k for k in shapes if k.endswith(("attn_mask", "relative_position_index"))}
    assert set(report.left_out) == dropped
    assert len(report.used) == len(shapes) - len(dropped)
    assert all(k.endswith("num_batches_tracked") for k in report.new)
    state = {k.removeprefix("backbone."): v for k, v in task.state_dict().items()}
    for theirs, ours in places.items():
        want = torch.from_numpy(arrays[theirs])
        how, ours = ours.split() if " " in ours else ("", ours)
        if how:
            want = want.t()
        if how == "F":
            want = want[:, :, None, None]
        assert torch.equal(state[ours], want), f"{theirs} -> {ours}"
    if family in ("resnet", "hrnet", "swin", "vit"):
        backbone_report = vertebra.backbone(name, embedding=True, weights=path, **options).report
        assert backbone_report.source == "paddle"
        assert len(backbone_report.used) == len(report.used) - 2


def test_hrnet_with_biases_takes_weights_without(tmp_path):
    """The biases that PaddleClas has not are named, and where loading is partial they stay zero."""
    shapes, name, options, _ = SMALL["hrnet"]
    path = write(tmp_path / "model.pdparams", fabricate(shapes), 4)
    options = {k: v for k, v in options.items() if k != "bias"}
    model = vertebra.backbone(name, embedding=True, **options)
    with pytest.raises(VertebraError, match=r"conv\.bias: missing from the checkpoint"):
        model.load(path)
    report = model.load(path, partial=True)
    biases = [k for k in report.new if not k.endswith("num_batches_tracked")]
    assert biases == ["down.0.conv.bias", "down.1.conv.bias", "down.2.conv.bias", "final.conv.bias"]
    assert not any(model.state_dict()[k].any() for k in biases)


def test_hrnet_counts():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in vertebra.backbone("hrnet_w18", embedding=True, bias=bias).parameters())
            for bias in (True, False)
        ]
    assert [count + 2049 * 1000 for count in counts] == [21_299_004, 21_295_164]


@pytest.mark.parametrize("stride", [1, 2])
def test_first_blocks_of_res2net_compute_as_in_paddleclas(stride):
    torch.manual_seed(0)
    layer = Res2Conv(3, 4, stride, first=True, apart=False, count_include_pad=False).eval()
    x = torch.randn(1, 12, 6, 6)
    groups = x.split(3, 1)
    outputs = []
    for i, module in enumerate(layer.convs):  # a group sees the one before unless the block has a stride
        outputs.append(module(groups[i] if i == 0 or stride == 2 else groups[i] + outputs[-1]))
    if stride == 2:  # a mean of what lies inside the image
        total = torch.nn.functional.avg_pool2d(groups[3], 3, 2, 1, divisor_override=1)
        count = torch.nn.functional.avg_pool2d(torch.ones(1, 3, 6, 6), 3, 2, 1, divisor_override=1)
        outputs.append(total / count)
    else:
        outputs.append(groups[3])
    torch.testing.assert_close(layer(x), torch.cat(outputs, 1))


def test_res2net_computes_as_the_source_does(tmp_path):
    shapes, name, options, _ = SMALL["res2net"]
    path = write(tmp_path / "model.pdparams", fabricate(shapes), 4)
    with pytest.raises(VertebraError, match="apart=False, count_include_pad=False: create the backbone with it"):
        vertebra.backbone(name, **options).load(path)
    model = vertebra.backbone(name, weights=path, **options)
    assert model.report.adapted == {
        "apart": "False, as paddle computes it",
        "count_include_pad": "False, as paddle computes it",
    }
    assert (model.config.apart, model.config.count_include_pad) == (False, False)
    again = vertebra.backbone(name, **options, apart=False, count_include_pad=False).eval()
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x)[1], again(x)[1])
        official = vertebra.backbone(name, **options).eval()
        official.load_state_dict(model.state_dict())
        assert not torch.equal(model(x)[1], official(x)[1])


def test_other_layouts_of_paddleclas_are_refused(tmp_path):
    """ResNet-18's shortcut has a convolution in the first block; ResNet50_vc has the names of older releases."""
    path = write(tmp_path / "model.pdparams", fabricate(resnext(TINY, 5, vd=True)), 4)
    with pytest.raises(VertebraError, match="does not fit"):
        vertebra.backbone("resnet50_vd", depths=TINY).load(path, source="paddle")
