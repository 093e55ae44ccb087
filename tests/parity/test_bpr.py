"""The authors' refinement networks, loaded with nothing but their file, give the originals' probabilities."""

import json
import re

import pytest
import torch

from vertebra import tasks
from vertebra.errors import VertebraError
from vertebra.ledger.fabricate import fabricate_state, fabricated_input
from vertebra.ledger.reference import Reference, compare_outputs
from vertebra.weights import Checkpoint

PARAMETERS = 3_935_278  # HRNetV2-W18-small-v2
PARTS = {"conv": "0", "norm": "1"}


@pytest.fixture(scope="module")
def spec(reference_folder):
    return json.loads((reference_folder / "bpr_hrnet18s_128.json").read_text())


@pytest.fixture(scope="module")
def state(spec):
    return fabricate_state(spec["state"], spec["gain"], spec["norm"])


def test_the_default_model_has_the_size_of_the_original():
    with torch.device("meta"):
        task = tasks.create("refinement")
    assert sum(p.numel() for p in task.parameters()) == PARAMETERS
    assert task.preprocess.channels == 4


def test_the_reference(spec, state, reference_folder):
    path = reference_folder / "bpr_hrnet18s_128.json"
    task = tasks.create("refinement", weights=Checkpoint(path, state)).eval()
    assert not [name for name in task.report.left_out if "num_batches_tracked" not in name]
    assert not task.report.new
    assert (task.method, task.config.backbone, task.classes) == (
        "bpr",
        "hrnet_w18_small_v2",
        ("background", "foreground"),
    )
    assert task.preprocess.size == (128, 128)
    assert task.preprocess.mean == (0.485, 0.456, 0.406, 0.5)
    assert sum(p.numel() for p in task.parameters()) == spec["n_params"] == PARAMETERS
    images = fabricated_input(spec["input"]["shape"], spec["input"]["seed"])
    with torch.no_grad():
        (logits,) = task(images)
        outputs = {
            "logits": task.logits(images),
            "logits_full": logits,
            "probability": logits.softmax(1)[:, 1],
        }
        maps = task.features(images)
    outputs |= {f"stage4[{i}]": x for i, x in enumerate(maps)}
    result = compare_outputs(Reference(path, "hrnet_w18_small_v2", "mmseg", spec), outputs, rtol=1e-5, atol=1e-5)
    assert not result.problems
    assert set(result.compared) == set(spec["outputs"])


def test_of_the_mask_the_sign_counts(spec, state, reference_folder):
    task = tasks.create("refinement", weights=Checkpoint(reference_folder / "x.pth", state)).eval()
    images = fabricated_input((1, 4, 64, 64), 1)
    other = torch.cat((images[:, :3], images[:, 3:].sign() * 0.1), 1)
    with torch.no_grad():
        assert torch.equal(task(images)[0], task(other)[0])
        other[:, 3] *= -1
        assert not torch.equal(task(images)[0], task(other)[0])


def w48():
    """Names and shapes of the authors' HRNet-W48, from ours."""
    with torch.device("meta"):
        backbone = tasks.create("refinement", backbone="hrnet_w48").backbone
    named = {name: list(tensor.shape) for name, tensor in backbone.state_dict().items() if "num_batches" not in name}
    state = {}
    for name, shape in named.items():
        name = re.sub(r"^stem\.(\d)\.conv\.", lambda m: f"conv{int(m[1]) + 1}.", name)
        name = re.sub(r"^stem\.(\d)\.norm\.", lambda m: f"bn{int(m[1]) + 1}.", name)
        name = re.sub(r"^stages\.(\d)\.", lambda m: f"stage{int(m[1]) + 2}.", name)
        name = re.sub(r"^stage1\.", "layer1.", name)
        name = re.sub(r"shortcut\.1\.conv\.", "downsample.0.", name)
        name = re.sub(r"shortcut\.1\.norm\.", "downsample.1.", name)
        name = re.sub(r"conv(\d)\.conv\.", r"conv\1.", name)
        name = re.sub(r"conv(\d)\.norm\.", r"bn\1.", name)
        name = re.sub(
            r"exchange\.paths\.(\d)\.(\d)(\.\d)?\.(conv|norm)\.",
            lambda m: f"fuse_layers.{m[1]}.{m[2]}{m[3] or ''}.{PARTS[m[4]]}.",
            name,
        )
        same = r"^transitions\.(\d)\.(\d)\.(conv|norm)\."
        if match := re.search(same, name):
            stage, branch = int(match[1]), int(match[2])
            inner = ".0" if branch == stage + 1 else ""
            name = re.sub(same, f"transition{stage + 1}.{branch}{inner}.{PARTS[match[3]]}.", name)
        state[f"backbone.{name}"] = shape
    first = state["backbone.conv1.weight"]
    state["backbone.conv1.weight"] = [first[0], 3, *first[2:]]
    state["backbone.conv_mask.weight"] = [first[0], 1, *first[2:]]
    width = 48 * 15
    state["decode_head.convs.0.conv.weight"] = [width, width, 1, 1]
    state |= {f"decode_head.convs.0.bn.{part}": [width] for part in ("weight", "bias", "running_mean", "running_var")}
    return state | {"decode_head.conv_seg.weight": [2, width, 1, 1], "decode_head.conv_seg.bias": [2]}


def test_w48_by_the_same_rules(tmp_path):
    state = {name: torch.tensor(0.1).expand(shape) for name, shape in w48().items()}
    state["backbone.conv_mask.weight"] = torch.full((64, 1, 3, 3), 0.5)
    plan = tasks.plan("refinement", weights=Checkpoint(tmp_path / "hrnet48_256.pth", state))
    assert (plan.config.backbone, plan.preprocess.size) == ("hrnet_w48", (256, 256))
    with torch.device("meta"):
        model = plan.module.MODEL(plan.config, plan.classes, plan.preprocess)
    tensors = plan.loaded.tensors(model)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if "num_batches" not in name}
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    stem = tensors["backbone.stem.0.conv.weight"]
    assert stem[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.1, 0.1, 0.5])


def test_a_refinement_network_is_no_segmenter(state, tmp_path):
    with pytest.raises(VertebraError, match=r"this is a checkpoint of bpr: it fits refinement, not semantic\."):
        tasks.create("semantic", weights=Checkpoint(tmp_path / "x.pth", state))
    lacking = {name: tensor for name, tensor in state.items() if name != "backbone.conv1.weight"}
    with pytest.raises(VertebraError, match=r"conv1\.weight is joined from conv1, conv_mask; .* lacks conv1"):
        tasks.create("refinement", weights=Checkpoint(tmp_path / "x.pth", lacking))
    bent = state | {"backbone.conv_mask.weight": torch.zeros(64, 1, 5, 5)}
    with pytest.raises(VertebraError, match=r"conv1\.weight is joined from tensors of the shapes .*, which do not fit"):
        tasks.create("refinement", weights=Checkpoint(tmp_path / "x.pth", bent))
