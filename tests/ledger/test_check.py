"""The ledger: our models give the originals' numbers."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vertebra import backbones, ledger
from vertebra.errors import VertebraError
from vertebra.ledger.check import compare
from vertebra.ledger.fabricate import fabricate, fabricate_state, fabricated_input
from vertebra.ledger.reference import Reference, judged, references

SHIPPED = list(references(ledger.FOLDER))


@pytest.mark.parametrize("reference", SHIPPED, ids=lambda r: r.path.stem)
def test_shipped_references(reference):
    result = compare(reference)
    assert not result.problems
    assert set(result.compared) == set(reference.spec["outputs"])


def test_official_references(reference_folder):
    found = list(references(reference_folder))
    assert len(found) >= 40
    assert {reference.path.stem for reference in found if reference.detects} >= {
        "mmdet_mask_rcnn_swin_t",
        "tv_fasterrcnn_resnet50_fpn",
        "tv_frozen_resnet50_fpn_eps",
        "tv_maskrcnn_resnet50_fpn",
    }
    for reference in found:
        result = compare(reference)
        assert not result.problems, (reference.path, result.problems)
        assert set(result.compared) == set(reference.spec["outputs"])


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
    model = backbones.create(name, view=view).eval()
    assert model.load(tmp_path / "model.safetensors").source == source
    with torch.no_grad():
        maps = model(fabricated_input(spec["input"]["shape"], spec["input"]["seed"]))
    found = {f"stage4[{i}]": each for i, each in enumerate(maps)}
    result = judged(Reference(path, name, source, spec), found)
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


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(VertebraError, match="not a folder"):
        list(references(tmp_path / "nowhere"))
