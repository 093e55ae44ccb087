"""Pose estimators of other libraries, loaded with nothing but their file: their heatmaps, and the options that they
compute with."""

import json
import re

import pytest
import torch
import torchvision

from vertebra import tasks
from vertebra.errors import VertebraError
from vertebra.ledger.fabricate import fabricate_state, fabricated_input
from vertebra.ledger.reference import Reference, compare_outputs
from vertebra.weights import Checkpoint

OF_VITPOSE = {"class_token": False, "pool": "mean", "map_norm": True, "patch_padding": 2, "image_size": (256, 192)}
NORM = ("weight", "bias", "running_mean", "running_var")


def loaded(path, state):
    task = tasks.create("pose", weights=Checkpoint(path, state)).eval()
    left = {name: why for name, why in task.report.left_out.items() if "num_batches_tracked" not in name}
    assert not left, left
    assert not {name for name in task.report.new if "num_batches_tracked" not in name}
    return task


def planned(tmp_path, shapes):
    """What is decided from names and shapes alone; raises if a tensor has no place in the model."""
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
    return tasks.plan("pose", weights=Checkpoint(tmp_path / "theirs.pth", state))


def method(plan):
    return plan.module.__name__.rpartition(".")[2]


# -- outputs of the originals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "backbone"),
    [
        ("hrnet_pose_w32_256x192", "simple_baseline", "hrnet_w32"),
        ("hf_vitpose_base_simple", "vitpose", "vit_base_16"),
    ],
)
def test_official_references(name, method, backbone, reference_folder):
    path = reference_folder / f"{name}.json"
    spec = json.loads(path.read_text())
    task = loaded(path, fabricate_state(spec["state"], spec["gain"], spec["norm"]))
    assert (task.method, task.config.backbone, task.classes) == (method, backbone, ("person",))
    assert task.preprocess.size == (256, 192)
    assert sum(p.numel() for p in task.parameters()) == spec["n_params"]
    with torch.no_grad():
        (heatmaps,) = task(fabricated_input(spec["input"]["shape"], spec["input"]["seed"]))
    rows = {"heatmaps": spec["outputs"]["heatmaps"]}
    result = compare_outputs(Reference(path, backbone, method, {**spec, "outputs": rows}), {"heatmaps": heatmaps})
    assert not result.problems
    assert set(result.compared) == {"heatmaps"}


@pytest.mark.parametrize(("simple", "method"), [(False, "simple_baseline"), (True, "vitpose")])
def test_vitpose_of_transformers(simple, method, tmp_path):
    transformers = pytest.importorskip("transformers")
    trunk = transformers.VitPoseBackboneConfig(
        hidden_size=192, num_attention_heads=3, image_size=[256, 192], patch_size=[16, 16]
    )
    names = {i: str(i) for i in range(5)}
    theirs = transformers.VitPoseForPoseEstimation(
        transformers.VitPoseConfig(backbone_config=trunk, use_simple_decoder=simple, id2label=names)
    ).eval()
    state = fabricate_state([[name, list(x.shape)] for name, x in theirs.state_dict().items()])
    theirs.load_state_dict(state)
    ours = loaded(tmp_path / "theirs.safetensors", state)
    assert (ours.method, ours.config.backbone, len(ours.config.keypoints.names)) == (method, "vit_tiny_16", 5)
    assert ours.config.backbone_options == {**OF_VITPOSE, "eps": 1e-12}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    images = fabricated_input((1, 3, 256, 192), 0)
    with torch.no_grad():
        (heatmaps,) = ours(images)
        expected = theirs(images).heatmaps
    assert heatmaps.shape == (1, 5, 64, 48)
    torch.testing.assert_close(heatmaps, expected, rtol=0, atol=1e-5)


# -- names and shapes of the originals


def deconv_head(inputs, num_deconvs, channels, num_keypoints):
    """SimpleBaseline's head: transposed convolutions, each with a norm and a ReLU, which have numbers too."""
    rows = {}
    for i in range(num_deconvs):
        rows[f"deconv_layers.{3 * i}.weight"] = [channels if i else inputs, channels, 4, 4]
        rows |= {f"deconv_layers.{3 * i + 1}.{part}": [channels] for part in NORM}
    width = channels if num_deconvs else inputs
    return rows | {"final_layer.weight": [num_keypoints, width, 1, 1], "final_layer.bias": [num_keypoints]}


def renamed(trunk, head, prefixes):
    return {prefixes[0] + k: v for k, v in trunk.items()} | {prefixes[1] + k: v for k, v in head.items()}


PREFIXES = {"official": ("", ""), "mmpose 0.x": ("backbone.", "keypoint_head."), "mmpose 1.x": ("backbone.", "head.")}


def of_hrnet(reference_folder, width):
    """Names and shapes of the original, whose branches of other widths are those of W32, scaled."""
    state = json.loads((reference_folder / "hrnet_pose_w32_256x192.json").read_text())["state"]
    shapes = {name: list(shape) for name, shape, *_ in state if not name.startswith("final_layer.")}
    for name, shape in shapes.items():
        if not name.startswith(("conv", "bn", "layer1.")):
            first_stage = re.match(r"transition1\.\d\.(0\.)?0\.weight", name)  # its inputs are not scaled
            scaled = [side * width // 32 for side in shape[: 1 if first_stage else 2]]
            shapes[name] = [*scaled, *shape[len(scaled) :]]
    return shapes


@pytest.mark.slow
@pytest.mark.parametrize(("width", "library"), [(48, "official"), (32, "mmpose 0.x"), (32, "mmpose 1.x")])
def test_names_of_hrnet(width, library, reference_folder, tmp_path):
    shapes = renamed(of_hrnet(reference_folder, width), deconv_head(width, 0, 0, 16), PREFIXES[library])
    plan = planned(tmp_path, shapes)
    assert (method(plan), plan.config.backbone) == ("simple_baseline", f"hrnet_w{width}")
    assert plan.loaded.report.source.partition("/")[0] == library.partition(" ")[0]
    assert plan.config.keypoints.names == tuple(str(i) for i in range(16))
    assert (plan.config.udp, plan.config.decoding) == (False, "quarter")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "channels", "num_keypoints", "library"),
    [
        ("resnet50", 256, 17, "official"),
        ("resnet101", 256, 17, "official"),
        ("resnet50", 256, 16, "mmpose 0.x"),
        ("resnet50", 96, 17, "mmpose 1.x"),
    ],
)
def test_names_of_simple_baseline(backbone, channels, num_keypoints, library, tmp_path):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, backbone)(weights=None).state_dict()
    trunk = {name: list(x.shape) for name, x in theirs.items() if not name.startswith("fc.")}
    plan = planned(tmp_path, renamed(trunk, deconv_head(2048, 3, channels, num_keypoints), PREFIXES[library]))
    assert (method(plan), plan.config.backbone, plan.config.channels) == ("simple_baseline", backbone, channels)
    assert len(plan.config.keypoints.names) == num_keypoints
    assert (plan.config.keypoints.names[0] == "nose") == (num_keypoints == 17)


def of_vitpose(width, depth, *, first_row=True):
    """Names and shapes of ViTPose's authors, which those of MMPose 0.x are."""
    block = {
        "norm1.weight": [width],
        "norm1.bias": [width],
        "attn.qkv.weight": [3 * width, width],
        "attn.qkv.bias": [3 * width],
        "attn.proj.weight": [width, width],
        "attn.proj.bias": [width],
        "norm2.weight": [width],
        "norm2.bias": [width],
        "mlp.fc1.weight": [4 * width, width],
        "mlp.fc1.bias": [4 * width],
        "mlp.fc2.weight": [width, 4 * width],
        "mlp.fc2.bias": [width],
    }
    return {
        "pos_embed": [1, 192 + first_row, width],
        "patch_embed.proj.weight": [width, 3, 16, 16],
        "patch_embed.proj.bias": [width],
        **{f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()},
        "last_norm.weight": [width],
        "last_norm.bias": [width],
    }


TO_MMPOSE_1 = (
    (r"^blocks\.", "layers."),
    (r"\.norm([12])\.", r".ln\1."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^last_norm\.", "ln1."),
)


def in_mmpose_1(name):
    for pattern, to in TO_MMPOSE_1:
        name = re.sub(pattern, to, name)
    return name


def vitpose_file(width, depth, library, *, simple, num_keypoints=17):
    simple_head = {"final_layer.weight": [num_keypoints, width, 3, 3], "final_layer.bias": [num_keypoints]}
    head = simple_head if simple else deconv_head(width, 2, 256, num_keypoints)
    trunk = of_vitpose(width, depth, first_row=library == "mmpose 0.x")
    if library == "mmpose 1.x":
        trunk = {in_mmpose_1(name): shape for name, shape in trunk.items()}
    return renamed(trunk, head, PREFIXES[library])


@pytest.mark.parametrize(
    ("width", "depth", "simple", "backbone", "more", "library"),
    [
        (384, 12, False, "vit_small_16", {"heads": 12}, "mmpose 0.x"),
        (384, 12, True, "vit_small_16", {"heads": 12}, "mmpose 1.x"),
        (768, 12, True, "vit_base_16", {}, "mmpose 0.x"),
        (768, 12, False, "vit_base_16", {}, "mmpose 1.x"),
        (1024, 24, True, "vit_large_16", {}, "mmpose 1.x"),
        (1280, 32, False, "vit_huge_14", {"patch": 16}, "mmpose 0.x"),
    ],
)
def test_names_of_vitpose(width, depth, simple, backbone, more, library, tmp_path):
    plan = planned(tmp_path, vitpose_file(width, depth, library, simple=simple, num_keypoints=133))
    assert (method(plan), plan.config.backbone) == ("vitpose" if simple else "simple_baseline", backbone)
    assert plan.config.backbone_options == {**OF_VITPOSE, **more}
    assert len(plan.config.keypoints.names) == 133
    assert (plan.config.udp, plan.config.decoding) == (True, "dark")
    assert (plan.preprocess.size, plan.preprocess.udp) == ((256, 192), True)


@pytest.mark.parametrize("simple", [False, True])
def test_both_forms_of_mmpose_give_the_same_heatmaps(simple, tmp_path):
    """That of MMPose 0.x has a position of the class token, which is added to all others; that of 1.x has none."""
    shapes = vitpose_file(192, 12, "mmpose 0.x", simple=simple)
    older = fabricate_state(list(shapes.items()))
    row = older["backbone.pos_embed"][:, :1].clone()
    newer = {
        re.sub(
            r"^keypoint_head", "head", re.sub(r"^backbone\.(.*)", lambda m: f"backbone.{in_mmpose_1(m[1])}", name)
        ): x
        for name, x in older.items()
    }
    newer["backbone.pos_embed"] = (older["backbone.pos_embed"] + row)[:, 1:]
    assert newer.keys() == vitpose_file(192, 12, "mmpose 1.x", simple=simple).keys()
    file = tmp_path / "older.pth"
    torch.save({"meta": {"epoch": 210}, "state_dict": older}, file)
    first, second = (tasks.create("pose", weights=w).eval() for w in (file, Checkpoint(tmp_path / "newer.pth", newer)))
    assert first.config == second.config
    images = fabricated_input((1, 3, 256, 192), 0)
    with torch.no_grad():
        torch.testing.assert_close(first(images)[0], second(images)[0], rtol=0, atol=1e-5)
        older["backbone.pos_embed"] -= row  # which matters
        other = loaded(file, older)
        assert float((other(images)[0] - first(images)[0]).abs().max()) > 1e-3


def test_hrnet_for_landmarks(reference_folder, tmp_path):
    """Names of HRNet's authors for faces: of a trunk as for segmentation, and a head over all its maps."""
    state = json.loads((reference_folder / "hrnet_seg_w18_cityscapes.json").read_text())["state"]
    shapes = {f"module.{name}": list(shape) for name, shape, *_ in state if "last_layer" not in name}
    shapes |= {"module.head.0.weight": [270, 270, 1, 1], "module.head.0.bias": [270]}
    shapes |= {f"module.head.1.{part}": [270] for part in NORM}
    shapes |= {"module.head.3.weight": [68, 270, 1, 1], "module.head.3.bias": [68]}
    plan = planned(tmp_path, shapes)
    assert (method(plan), plan.config.backbone) == ("hrnetv2", "hrnet_w18")
    assert plan.config.backbone_options == {"upsample": "bilinear"}
    assert len(plan.config.keypoints.names) == 68
    assert plan.config.cell_offset == 0.5
    assert plan.preprocess.size == (256, 256)


# -- what the user says, and mistakes


def test_options_that_the_user_sets_win(tmp_path):
    state = {name: torch.zeros(shape) for name, shape in vitpose_file(192, 12, "mmpose 1.x", simple=True).items()}
    where = Checkpoint(tmp_path / "theirs.pth", state)
    plan = tasks.plan("pose", weights=where, udp=False, decoding="quarter")
    assert (plan.config.udp, plan.config.decoding, plan.preprocess.udp) == (False, "quarter", False)
    assert plan.config.backbone_options == OF_VITPOSE


def test_a_tensor_that_has_no_place_is_named(tmp_path):
    shapes = vitpose_file(192, 12, "mmpose 0.x", simple=True) | {"keypoint_head.offset.weight": [2, 192, 1, 1]}
    with pytest.raises(VertebraError, match=r"theirs\.pth: .*offset\.weight has no place in it"):
        planned(tmp_path, shapes)


def test_a_missing_tensor_is_named(tmp_path):
    state = fabricate_state(list(vitpose_file(192, 12, "mmpose 0.x", simple=False).items()))
    del state["keypoint_head.deconv_layers.4.running_var"]
    task = tasks.create("pose", weights=Checkpoint(tmp_path / "theirs.pth", state))
    new = [name for name in task.report.new if "num_batches_tracked" not in name]
    assert new == ["decoder.deconvs.1.norm.running_var"]
