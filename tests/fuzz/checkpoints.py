"""Checkpoints: ours with changed descriptions and tensors, and those of other libraries."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tests.fuzz import mutate
from tests.fuzz.sweep import Case, template_folder

BACKBONE = {"patch": 16, "width": 8, "depth": 1, "heads": 1, "image_size": (32, 32)}
NUMBER = (
    r"preprocess\.(size|size\.\d|crop|mean|mean\.\d|std|std\.\d|divisor)|epoch|model\.(dropout|drop_path|label_smoothing)"
    r"|model\.backbone_options\.\w+"
)
WORD = r"task|method|preprocess\.(resize|interpolation|rounding)|model\.backbone|classes"


@cache
def classifier() -> Path:
    """A checkpoint of a small classifier."""
    import vertebra
    from vertebra.engine import checkpoint
    from vertebra.structures import Preprocess

    torch.manual_seed(0)
    task = vertebra.create(
        "classification",
        backbone="vit_tiny_16",
        backbone_options=BACKBONE,
        classes=["cat", "dog"],
        preprocess=Preprocess((32, 32)),
    )
    path = template_folder() / "classifier.safetensors"
    checkpoint.save(task, path, metrics={"top1": 0.5}, epoch=1, data={"path": "photos", "val_share": 0.2, "seed": 0})
    return path


@cache
def detector() -> Path:
    """A checkpoint of a small keypoint detector."""
    import vertebra
    from vertebra.engine import checkpoint
    from vertebra.structures import KeypointSchema, Preprocess

    torch.manual_seed(0)
    task = vertebra.create(
        "keypoints",
        backbone="vit_tiny_16",
        backbone_options=BACKBONE,
        classes=["cat", "dog"],
        preprocess=Preprocess((32, 32), resize="fit"),
        neck={"channels": 8},
        box_width=8,
        keypoint_width=8,
        keypoint_num_convs=1,
        keypoints=KeypointSchema(("a", "b"), ((0, 1),), (1, 0), (0.1, 0.2)),
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_test=20,
    )
    path = template_folder() / "detector.safetensors"
    checkpoint.save(task, path, metrics={"box_ap": 0.5, "threshold": 0.5}, epoch=1)
    return path


def image(folder: Path) -> Path:
    from PIL import Image

    path = folder / "image.png"
    Image.effect_noise((40, 30), 90).convert("RGB").save(path)
    return path


def split(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header: str, data: bytes, length: int | None = None) -> bytes:
    text = header.encode(errors="surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def described(rng: Random, folder: Path) -> Case:
    """A checkpoint of ours, whose description is changed in one place."""
    header, data = split(rng.choice((classifier, classifier, detector))().read_bytes())
    about = json.loads(header["__metadata__"]["vertebra"])
    change = mutate.change_tree(rng, about, numbers=NUMBER)
    header["__metadata__"]["vertebra"] = mutate.dump_json(about)
    path = folder / "best.safetensors"
    path.write_bytes(join(json.dumps(header), data))
    wrong = change.is_no_number(NUMBER) or (change.kind == "replace" and re.fullmatch(WORD, change.path) is not None)
    nonsense = f"{change.path} is {str(change.value)[:20]}" if wrong else ""
    if rng.random() < 0.1:
        return Case(lambda: start_from(path), nonsense if change.path.startswith("preprocess") else "")
    return Case(["predict", path, image(folder), "--device=cpu"], nonsense)


def start_from(path: Path) -> None:
    """A training's model from a checkpoint of ours."""
    import vertebra

    vertebra.create("classification", classes=["a", "b", "c"], weights=path)
    vertebra.backbone("vit_tiny_16", weights=path, image_size=(32, 32))


def damaged(rng: Random, folder: Path) -> Case:
    """A checkpoint of ours with other tensors, another header, or flipped bytes."""
    raw = classifier().read_bytes()
    header, data = split(raw)
    nonsense = ""
    name = rng.choice([key for key in header if key != "__metadata__"])
    kind = rng.choice(("bytes", "header", "length", "tensor", "place"))
    path = folder / rng.choice(("best.safetensors", "best.pth", "best.pdparams", "best.pkl", "best"))
    if kind == "bytes":
        path.write_bytes(mutate.change_bytes(rng, raw))
    elif kind == "header":
        mutate.change_tree(rng, header)
        path.write_bytes(join(mutate.dump_json(header), data))
    elif kind == "length":
        path.write_bytes(join(json.dumps(header), data, rng.choice((0, 1, 7, 2**31, 2**63, 2**64 - 1, len(raw)))))
    elif kind == "tensor":
        state = load_file(classifier())
        tensor = state[name]
        change = rng.choice(
            (
                torch.full_like(tensor, float("nan")),
                torch.full_like(tensor, -float("inf")),
                tensor.to(torch.complex64),
                tensor.to(torch.int64),
                tensor.to(torch.bool),
                tensor[..., :0].contiguous(),
                tensor[None],
            )
        )
        state[name] = change
        path = folder / "best.safetensors"
        save_file(state, path, header["__metadata__"])
        nonsense = f"{name} of {change.dtype} {list(change.shape)}"
    else:
        path.write_bytes(raw)
        mutate.change_place(rng, path)
    return Case(["predict", path, image(folder), "--device=cpu"], nonsense)


class Code:
    """Unpickled without care, it makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


@cache
def foreign_state() -> dict[str, torch.Tensor]:
    """Tensors of a ResNet-18 under timm's names, of little size where they can be."""
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=3).state_dict()


def _itself() -> dict[str, Any]:
    content: dict[str, Any] = {"a": torch.zeros(2)}
    content["model"] = content["state_dict"] = content
    return content


ODD: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda tensor: tensor.new_zeros(1).expand(100_000, 100_000),
    lambda tensor: tensor.new_zeros(1).expand(10**6, 10**6, 10**3),
    lambda tensor: tensor.to_sparse(),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    lambda tensor: tensor.to("meta"),
    lambda tensor: tensor.long(),
    lambda tensor: torch.full_like(tensor, float("nan")),
    lambda tensor: tensor.flatten()[:0],
    lambda tensor: tensor[None],
    lambda tensor: "zz",
    lambda tensor: [tensor],
    lambda tensor: Code(),
)


def foreign(rng: Random, folder: Path) -> Case:
    """A file of torch.save, Paddle, Detectron2's model zoo or NumPy, loaded into a backbone."""
    state: dict[Any, Any] = {k: t.float() for k, t in foreign_state().items() if "num_batches" not in k}
    kind = rng.choice(("tensor", "tensor", "keys", "wrapper", "bytes", "bomb", "arrays", "arrays", "code", "itself"))
    nonsense = "it does not fill the model"
    path = folder / rng.choice(("a.pth", "a.pt", "a.ckpt", "a.bin", "a"))
    small = {name: state[name] for name in ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight")}
    if kind == "tensor":
        name = rng.choice(list(small))
        state[name] = rng.choice(ODD)(state[name])
    elif kind == "keys":
        name = rng.choice(list(small))
        state[rng.choice((3, -1, 1.5, None, True, (1, 2), "a\nb", "a" * 10_000, "\ud800", b"a", ""))] = state.pop(name)
    elif kind == "wrapper":
        state = rng.choice(
            ({"state_dict": {"model": small}}, {"model": 5, **small}, {"module": {"module": None}}, {"net": small})
        )
    elif kind == "itself":
        state = _itself()
    elif kind == "code":
        state = {"a": torch.zeros(2), "b": Code()}
    if kind == "arrays":
        path, content = folder / rng.choice(("a.pdparams", "a.pkl", "a.npz")), _arrays(rng)
        raw = pickle.dumps(content, rng.choice((2, 3, 4, 5)))
        if rng.random() < 0.6:
            raw = mutate.change_bytes(rng, raw)
        path.write_bytes(raw)
    elif kind == "bomb":
        member = rng.choice(("a/data.pkl", "a/data/0", "a/version"))
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open(member, "w") as file,
        ):
            for _ in range(rng.choice((10, 100))):
                file.write(bytes(10_000_000))
    else:
        torch.save(small if kind == "bytes" else state, path, _use_new_zipfile_serialization=rng.random() < 0.7)
        if kind == "bytes":
            path.write_bytes(mutate.change_bytes(rng, path.read_bytes()))
    return Case(lambda: load_foreign(path), nonsense)


def _arrays(rng: Random) -> Any:
    arrays: dict[Any, Any] = {"conv1.weight": np.zeros((64, 3, 7, 7), "f4"), "bn1.weight": np.ones(64, "f4")}
    odd = (
        {},
        {3: np.zeros(3)},
        {"a": np.array(["x"], object)},
        {"a": np.zeros(3, "c8")},
        {"a": np.broadcast_to(np.zeros(1), (10**5, 10))},
        {"a": Code()},
        {"a": np.array("2001-01-01", "M8[D]")},
        {"UnpackBigParamInfor@@": 5},
        {"UnpackBigParamInfor@@": {"w": {"slices": ["zz"], "OriginShape": [10**9, 10**9]}}},
        {"model": [1, 2]},
        {"model": {"model": {}}},
    )
    content = arrays | rng.choice(odd)
    return rng.choice((content, {"model": content}, {"blobs": content}, [content]))


def load_foreign(path: Path) -> None:
    import vertebra

    vertebra.backbone("resnet18", weights=path)


SURFACES = {"description": described, "checkpoint": damaged, "foreign": foreign}
