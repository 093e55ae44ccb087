"""The ledger: our models give the originals' outputs."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vertebra import backbones, ledger
from vertebra.errors import VertebraError
from vertebra.ledger.check import compare
from vertebra.ledger.fabricate import fabricate, fabricate_state, fabricated_input
from vertebra.ledger.reference import Reference, backbone_of_id, compare_outputs, others, references

pytestmark = pytest.mark.usefixtures("no_initialisation")

SHIPPED = sorted(references(ledger.FOLDER), key=lambda r: sum(math.prod(shape) for _, shape, *_ in r.spec["state"]))
SIZES = ("depths", "depth", "widths", "width", "heads", "image_size")
OFFICIAL = (
    *("asmlp_base", "asmlp_tiny", "asmlp_tiny_det_backbone", "blresnet50_a2_b4"),
    *("cyclemlp_b1", "cyclemlp_b2", "cyclemlp_b2_feat"),
    *("hf_deit_tiny_distilled_patch16_224", "hf_swin_tiny_patch4_window7_224", "hf_vit_base_patch16_224"),
    *("hrnet_cls_w18", "hrnet_cls_w18_small_v2", "ms_swin_tiny_patch4_window7_224"),
    *("res2net_official_res2net50_v1b", "res2net_official_res2net_dla60"),
    *("timm_deit_small_distilled_patch16_224", "timm_dla60", "timm_dla60_res2net", "timm_efficientnetv2_rw_s"),
    *("timm_hrnet_w18", "timm_hrnet_w18_small_v2", "timm_mixer_b16_224", "timm_res2net50_26w_4s", "timm_res2next50"),
    *("timm_resmlp_12_224", "timm_resnet18", "timm_resnet18_eps", "timm_resnet50", "timm_resnet50d"),
    *("timm_resnext50_32x4d", "timm_seresnet50", "timm_swin_tiny_patch4_window7_224"),
    *("timm_tf_efficientnetv2_s", "timm_tf_efficientnetv2_s_eps"),
    *("timm_vit_base_patch16_224", "timm_vit_tiny_patch16_224"),
    *("tv_efficientnet_v2_s", "tv_resnet50", "tv_swin_t", "tv_vit_b_16"),
    *("wzm_efficientnetv2_s", "wzm_swin_tiny_patch4_window7_224", "wzm_vit_base_patch16_224"),
)
LARGER = ("asmlp_base", "cyclemlp_b2", "hrnet_cls_w18", "timm_hrnet_w18", "timm_vit_base_patch16_224")
"""Of a source and family that a smaller one of OFFICIAL is of; `vertebra verify` compares them too."""
DETECTORS = {  # which tests/parity compares
    *("mmdet_mask_rcnn_swin_t", "tv_fasterrcnn_resnet50_fpn", "tv_frozen_resnet50_fpn_eps"),
    "tv_maskrcnn_resnet50_fpn",
}


def kind(reference):
    """What it has in common with the references that differ from it in nothing but SIZES."""
    config = vars(backbones.family(reference.name).VARIANTS[reference.name])
    return reference.source, type(config), *((key, value) for key, value in config.items() if key not in SIZES)


SMALLEST = list({kind(reference): reference for reference in reversed(SHIPPED)}.values())
"""Of each kind; `vertebra verify` compares the others' outputs too."""


@pytest.mark.parametrize("reference", SMALLEST, ids=lambda r: r.path.stem)
def test_shipped_references(reference):
    result = compare(reference)
    assert not result.problems
    assert set(result.compared) == set(reference.spec["outputs"])


@pytest.mark.parametrize("reference", [r for r in SHIPPED if r not in SMALLEST], ids=lambda r: r.path.stem)
def test_larger_references_have_our_names_and_shapes(reference, monkeypatch):
    monkeypatch.setattr("vertebra.ledger.fabricate.fabricate", lambda name, shape, *_: torch.zeros(()).expand(shape))
    state = fabricate_state(reference.spec["state"])
    options = {"embedding": True} if reference.classifies else {"level_norms": True}
    fit = backbones.fit_state(reference.name, state, source=reference.source, path=reference.path, **options)
    with torch.device("meta"):
        model = backbones.create(reference.name, **{**fit.options, **options})
    theirs, ours = (
        {name: tensor.shape for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        for state in ({k: x for k, x in fit.state.items() if not k.startswith("head.")}, model.state_dict())
    )
    assert theirs == ours


@pytest.mark.parametrize("reference", SHIPPED, ids=lambda r: r.path.stem)
def test_shipped_references_state_what_they_are_of(reference):
    spec = reference.spec
    assert (spec["backbone"], spec["source"]) == backbone_of_id(spec["id"])
    assert spec["id"] == reference.path.stem
    assert spec["made_by"]


def test_official_references(reference_folder):
    assert {reference.path.stem for reference in references(reference_folder)} == set(OFFICIAL)
    assert set(others(reference_folder)) >= DETECTORS


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name not in LARGER])
def test_official_reference(name, reference_folder):
    spec = json.loads((reference_folder / f"{name}.json").read_text())
    result = compare(Reference(reference_folder / f"{name}.json", *backbone_of_id(spec["id"]), spec))
    assert not result.problems
    assert set(result.compared) == set(spec["outputs"])


@pytest.mark.parametrize(
    ("identity", "name", "view", "source"),
    [
        ("hrnet_seg_w18_cityscapes", "hrnet_w18", "branches", "official/segmentation"),
        ("hrnet_seg_w18_small_v2_cityscapes", "hrnet_w18_small_v2", "branches", "official/segmentation"),
        ("hrnet_seg_ocr_w18_cityscapes", "hrnet_w18", "branches", "official/ocr"),
        ("hrnet_pose_w32_256x192", "hrnet_w32", "v1", "official"),
    ],
)
def test_the_maps_inside_models_of_other_tasks(reference_folder, tmp_path, identity, name, view, source):
    path = reference_folder / f"{identity}.json"
    spec = json.loads(path.read_text())
    spec["outputs"] = {key: row for key, row in spec["outputs"].items() if key.startswith("stage4")}
    save_file(fabricate_state(spec["state"], spec["gain"], spec["norm"]), tmp_path / "model.safetensors")
    model = backbones.create(name, view=view, weights=tmp_path / "model.safetensors").eval()
    assert model.report.source == source
    with torch.no_grad():
        maps = model(fabricated_input(spec["input"]["shape"], spec["input"]["seed"]))
    outputs = {f"stage4[{i}]": x for i, x in enumerate(maps)}
    result = compare_outputs(Reference(path, name, source, spec), outputs)
    assert not result.problems, result.problems
    assert set(result.compared) == set(spec["outputs"])


def test_every_family_with_an_original_has_a_reference():
    families = {backbones.family(reference.name) for reference in SHIPPED}
    without = {name for name, module in backbones.families().items() if module not in families}
    assert without == {"vip", "s2mlp"}  # docs/guides/verify.md says why


def test_a_wrong_model_is_noticed(monkeypatch):
    reference = next(r for r in SHIPPED if r.name == "resnet18")
    monkeypatch.setattr(torch.nn.MaxPool2d, "forward", lambda self, x: torch.nn.functional.avg_pool2d(x, 3, 2, 1))
    assert compare(reference).problems


def test_fabricated_weights_do_not_change():
    """They are what every stored reference was computed with."""
    weight = fabricate("conv1.weight", (64, 3, 7, 7))
    assert weight.flatten()[:3].tolist() == pytest.approx([-0.0458976068, 0.0039480338, 0.0172815975], abs=1e-9)
    assert float(weight.std()) == pytest.approx((1 / 147) ** 0.5, rel=0.02)
    assert float(fabricate("bn.running_var", (4096,)).min()) >= 1


@pytest.mark.parametrize(
    ("identity", "backbone", "source"),
    [
        ("timm_resnet18_eps", "resnet18", "timm"),
        ("tv_resnet50", "resnet50", "torchvision"),
        ("hf_vit_base_patch16_224", "vit_base_16", "transformers"),
        ("hrnet_cls_w18", "hrnet_w18", "official"),
        ("res2net_official_res2net_dla60", "res2net_dla60", "official"),
        ("asmlp_tiny_det_backbone", "asmlp_tiny", "official"),
    ],
)
def test_ids_of_references(identity, backbone, source):
    assert backbone_of_id(identity) == (backbone, source)


def test_references_of_other_models_are_listed(tmp_path):
    for name in ("timm_resnet18", "tv_fasterrcnn_resnet50_fpn", "timm_nosuchnet", "bpr_merge"):
        outputs = {"logits" if name.startswith("timm") else "x": {}}
        (tmp_path / f"{name}.json").write_text(json.dumps({"id": name, "outputs": outputs}))
        np.savez(tmp_path / f"{name}.npz")
    assert [reference.path.stem for reference in references(tmp_path)] == ["timm_resnet18"]
    assert others(tmp_path) == ["bpr_merge", "timm_nosuchnet", "tv_fasterrcnn_resnet50_fpn"]


def test_the_fields_of_a_reference_come_before_its_id(tmp_path):
    spec = {"id": "some_model", "backbone": "resnet18", "source": "timm", "outputs": {"layer1": {}}}
    (tmp_path / "x.json").write_text(json.dumps(spec))
    np.savez(tmp_path / "x.npz")
    (reference,) = references(tmp_path)
    assert (reference.name, reference.source, reference.classifies) == ("resnet18", "timm", False)


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(VertebraError, match="not a folder"):
        list(references(tmp_path / "nowhere"))
