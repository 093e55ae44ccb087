"""Segmenters of other libraries, loaded with nothing but their file, give the originals' logits."""

import json

import pytest
import torch
import torchvision
from torch.nn.functional import interpolate

from vertebra import tasks
from vertebra.ledger.fabricate import fabricate_state, fabricated_input
from vertebra.ledger.reference import Reference, compare_outputs
from vertebra.weights import Checkpoint

REFERENCES = {
    # method, backbone, and the keys of its logits and auxiliary logits
    "hf_upernet_swin_tiny": ("upernet", "swin_tiny", ["logits"], ["aux"]),
    "mmseg_upernet_swin_t": ("upernet", "swin_tiny", ["logits", "logits_full"], ["aux"]),
    "hrnet_seg_w18_cityscapes": ("hrnetv2", "hrnet_w18", ["logits"], []),
    "hrnet_seg_w18_small_v2_cityscapes": ("hrnetv2", "hrnet_w18_small_v2", ["logits"], []),
    "hrnet_seg_ocr_w18_cityscapes": ("ocr", "hrnet_w18", ["logits1"], ["logits0"]),
    "tv_fcn_resnet50": ("fcn", "resnet50", ["out"], ["aux"]),
}


def loaded(path, state):
    task = tasks.create("semantic", weights=Checkpoint(path, state)).eval()
    left = {name: why for name, why in task.report.left_out.items() if "num_batches_tracked" not in name}
    assert not left, left
    assert not task.report.new
    return task


def logits(task, images):
    """Those of the head, those of the auxiliary heads, and those of `forward`."""
    with torch.no_grad():
        head, side = task.side_logits(task.features(images))
        return head, side, task(images)[0]


def shaped(shape, *maps):
    """The one of these maps that has a shape, or the last one resized to it."""
    fitting = [x for x in maps if list(x.shape) == shape]
    return fitting[0] if fitting else interpolate(maps[-1], shape[2:], mode="bilinear", align_corners=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_official_references(name, reference_folder):
    method, backbone, keys, aux_keys = REFERENCES[name]
    path = reference_folder / f"{name}.json"
    spec = json.loads(path.read_text())
    task = loaded(path, fabricate_state(spec["state"], spec["gain"], spec["norm"]))
    assert (task.method, task.config.backbone) == (method, backbone)
    assert sum(p.numel() for p in task.parameters()) == spec["n_params"]
    head, side, full = logits(task, fabricated_input(spec["input"]["shape"], spec["input"]["seed"]))
    rows = {key: spec["outputs"][key] for key in (*keys, *aux_keys)}
    outputs = {key: shaped(rows[key]["shape"], head, full) for key in keys}
    outputs |= {key: shaped(rows[key]["shape"], side[0]) for key in aux_keys}
    result = compare_outputs(Reference(path, backbone, method, {**spec, "outputs": rows}), outputs)
    assert not result.problems
    assert set(result.compared) == set(rows)


@pytest.mark.parametrize(("num_classes", "aligned"), [(19, False), (150, True), (171, True)])
def test_the_number_of_classes_decides_how_hrnetv2_aligns(num_classes, aligned, reference_folder):
    path = reference_folder / "hrnet_seg_w18_small_v2_cityscapes.json"
    rows = {row[0]: row[1] for row in json.loads(path.read_text())["state"]}
    rows |= {name: [num_classes, *shape[1:]] for name, shape in rows.items() if ".last_layer.3." in f".{name}"}
    state = {name: torch.zeros(shape) for name, shape in rows.items()}
    plan = tasks.plan("semantic", weights=Checkpoint(path, state))
    assert plan.config.align_corners == aligned
    assert plan.config.backbone_options.get("align_corners", False) == aligned


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("deeplabv3_resnet50", "deeplabv3"), ("fcn_resnet50", "fcn")])
def test_torchvision(name, method, tmp_path):
    build = getattr(torchvision.models.segmentation, name)
    theirs = build(weights=None, weights_backbone=None, num_classes=7, aux_loss=True).eval()
    rows = [[key, list(tensor.shape)] for key, tensor in theirs.state_dict().items()]
    state = fabricate_state(rows, 1.0)
    theirs.load_state_dict(state)
    ours = loaded(tmp_path / "theirs.pth", state)
    assert (ours.method, ours.config.backbone, len(ours.classes)) == (method, "resnet50", 7)
    images = fabricated_input((1, 3, 72, 88), 0)
    with torch.no_grad():
        expected = theirs(images)
    _, side, full = logits(ours, images)
    torch.testing.assert_close(full, expected["out"], rtol=1e-4, atol=1e-4 * float(expected["out"].std()))
    aux = interpolate(side[0], (72, 88), mode="bilinear", align_corners=False)
    torch.testing.assert_close(aux, expected["aux"], rtol=1e-4, atol=1e-4 * float(expected["aux"].std()))


MMSEG_FPN = {
    "neck.lateral_convs.{i}.conv.weight": lambda i: [256, 256 * 2**i, 1, 1],
    "neck.lateral_convs.{i}.conv.bias": lambda i: [256],
    "neck.fpn_convs.{i}.conv.weight": lambda i: [256, 256, 3, 3],
    "neck.fpn_convs.{i}.conv.bias": lambda i: [256],
}


def mmseg_fpn_r50():
    """Names and shapes of MMSegmentation's fpn_r50, of ResNetV1c: its stem has three convolutions."""
    shapes = {name: list(x.shape) for name, x in torchvision.models.resnet50(weights=None).state_dict().items()}
    rows = {f"backbone.{k}": v for k, v in shapes.items() if not k.startswith(("conv1.", "bn1.", "fc."))}
    for place, (inputs, outputs) in {0: (3, 32), 3: (32, 32), 6: (32, 64)}.items():
        rows[f"backbone.stem.{place}.weight"] = [outputs, inputs, 3, 3]
        for part in ("weight", "bias", "running_mean", "running_var"):
            rows[f"backbone.stem.{place + 1}.{part}"] = [outputs]
    rows |= {name.format(i=i): shape(i) for name, shape in MMSEG_FPN.items() for i in range(4)}
    for i, places in enumerate(([0], [0], [0, 2], [0, 2, 4])):
        for place in places:
            head = f"decode_head.scale_heads.{i}.{place}"
            rows[f"{head}.conv.weight"] = [128, 128 if place else 256, 3, 3]
            rows |= {f"{head}.bn.{part}": [128] for part in ("weight", "bias", "running_mean", "running_var")}
    return rows | {"decode_head.conv_seg.weight": [19, 128, 1, 1], "decode_head.conv_seg.bias": [19]}


@pytest.mark.slow
def test_semantic_fpn_of_mmsegmentation(tmp_path):
    state = fabricate_state([[name, shape] for name, shape in mmseg_fpn_r50().items()], 1.0)
    task = tasks.create("semantic", weights=Checkpoint(tmp_path / "theirs.pth", state))
    assert (task.method, task.config.backbone, len(task.classes)) == ("semantic_fpn", "resnet50_c", 19)
    assert (task.config.channels, task.config.neck_channels, task.config.aux.weight) == (128, 256, 0)
    assert task.config.head_norm == "batch"
    left = {name for name in task.report.left_out if "num_batches_tracked" not in name}
    new = {name for name in task.report.new if "num_batches_tracked" not in name}
    assert not left
    assert not new
