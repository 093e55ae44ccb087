"""Published checkpoints: those of backbones, and the detectors of other libraries that methods read."""

import hashlib
import json
import re
from dataclasses import replace

import pytest
import torch
import torchvision
from torchvision.models import get_model, list_models
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import vertebra
from vertebra import backbones, tasks, weights
from vertebra.cli import main
from vertebra.errors import VertebraError
from vertebra.tasks.detection import retinanet
from vertebra.weights import locate

PUBLISHED = tasks.published()
DETECTORS = {name: card for name, card in PUBLISHED.items() if card.method}
TORCHVISION = {name: card for name, card in DETECTORS.items() if card.source == "torchvision"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_is_complete(name):
    card = PUBLISHED[name]
    assert backbones.public_name(card.backbone) == card.backbone
    assert bool(card.hub) != bool(card.url)
    assert card.licence == card.licence.lower() != ""
    assert re.fullmatch(r"(sha256:[0-9a-f]{8}|md5:[0-9a-f]{6})?", card.checksum), card.checksum
    assert "/" not in name
    assert not name.endswith(locate.SUFFIXES)
    assert card.source.partition("/")[0] in {key.partition("/")[0] for key in backbones.family(card.backbone).RULES}
    if card.method:
        module = tasks.find(card.task, card.method)
        assert card.url.startswith("https://")
        assert card.source.partition("/")[0] in module.SOURCES
        assert module.MODEL.monitor in card.metrics
        assert all(10 < value < 70 for value in card.metrics.values())
        assert len(card.class_names) == card.classes == len(set(card.class_names))


def test_the_tables_have_every_library():
    sources = {card.source for card in DETECTORS.values()}
    assert sources == {"torchvision", "detectron2", "mmdet", "mmdet/caffe"}
    urls = [card.url for card in DETECTORS.values()]
    assert len(urls) == len(set(urls))
    without = {"classification", "multilabel", "saliency", "refinement", "pose", "translation"}
    without |= {"captioning", "text_classification"}
    assert {card.task for card in DETECTORS.values()} == set(tasks.names()) - without


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_detectors_are_those_that_methods_read(name):
    """Recognised, complete and named, from the tensors of torchvision's own model."""
    card = TORCHVISION[name]
    with torch.device("meta"):
        state = get_model(name.partition(".")[0], weights=None, weights_backbone=None).state_dict()
    plan = tasks.plan(card.task, weights=weights.Checkpoint("file.pth", state, None, card))
    assert plan.module is tasks.find(card.task, card.method)
    assert len(plan.classes) in (card.classes, card.classes - 1)
    assert "person" in (plan.classes if card.task == "semantic" else plan.classes[:2])
    assert plan.loaded.report.source == "torchvision"


def test_torchvisions_classifiers_are_listed_for_every_family_that_reads_them():
    listed = {name.partition(".")[0] for name, card in PUBLISHED.items() if card.source == "torchvision"}
    for model in list_models(module=torchvision.models):
        try:
            family = backbones.family(model)
        except VertebraError:
            continue
        assert ("torchvision" in family.RULES) == (model in listed), model


def test_torchvisions_own_names_are_accepted():
    for name, ours in {
        "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1": "maskrcnn_resnet50_fpn_v2.coco",
        "MaskRCNN_ResNet50_FPN_V2_Weights.DEFAULT": "maskrcnn_resnet50_fpn_v2.coco",
        "KeypointRCNN_ResNet50_FPN_Weights.COCO_LEGACY": "keypointrcnn_resnet50_fpn.coco_legacy",
        "ResNet50_Weights.IMAGENET1K_V2": "resnet50.imagenet1k_v2",
    }.items():
        assert weights.known(PUBLISHED, name) == PUBLISHED[ours]


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn.coco", "FCOS_ResNet50_FPN_Weights.COCO_V1", "ssd300_vgg16.coco"])
def test_torchvisions_detectors_that_no_method_reads_are_called_so(name):
    with pytest.raises(VertebraError, match="is of a model of torchvision that no method here reads"):
        vertebra.create("detection", weights=name)


def test_the_backbone_of_published_weights_is_chosen(monkeypatch):
    with torch.device("meta"):
        state = backbones.create("swin_tiny").state_dict()
    cards = []
    monkeypatch.setattr(weights.checkpoint, "read", lambda card: cards.append(card) or (state, {}, "file"))
    rules = backbones.family("swin_tiny").RULES
    monkeypatch.setitem(rules, "timm", ())  # the tensors have our names
    assert tasks.plan("classification", weights="swin_tiny.ms_in1k").config.backbone == "swin_tiny"
    assert cards[0].hub == "timm/swin_tiny_patch4_window7_224.ms_in1k"


def test_weights_of_another_backbone_are_refused_before_they_are_downloaded(monkeypatch):
    monkeypatch.setattr(weights.checkpoint, "read", lambda _: pytest.fail("downloaded"))
    with pytest.raises(VertebraError, match=r"fpn\.coco is of the backbone resnet50, not of hrnet_w32"):
        vertebra.create("detection", backbone="hrnet_w32", weights="fasterrcnn_resnet50_fpn.coco")


def test_a_detector_is_created_by_name(tmp_path, monkeypatch):
    """From a file of torchvision's, as if it had been downloaded; which is checked in test_locate.py."""
    torch.manual_seed(0)
    trunk = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    theirs = RetinaNet(trunk, num_classes=3)
    torch.save(theirs.state_dict(), tmp_path / "retinanet.pth")
    content = (tmp_path / "retinanet.pth").read_bytes()
    card = replace(
        retinanet.WEIGHTS["retinanet_resnet50_fpn.coco"],
        backbone="resnet18",
        checksum=f"sha256:{hashlib.sha256(content).hexdigest()[:8]}",
        url=(tmp_path / "retinanet.pth").as_uri(),
        class_names=("__background__", "cat", "dog"),
    )
    monkeypatch.setitem(retinanet.WEIGHTS, "tiny.coco", card)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "cache"))
    made = vertebra.create("detection", weights="tiny.coco")
    assert (made.method, made.config.backbone, made.classes) == ("retinanet", "resnet18", card.class_names)
    assert not made.report.new
    assert len(list((tmp_path / "cache").rglob("*.pth"))) == 1


# -- the listing


def listed(capsys, *words):
    assert main(["models", *words, "--weights", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_models_lists_every_published_checkpoint(capsys, monkeypatch):
    rows = listed(capsys)
    assert {row["name"] for row in rows} == set(PUBLISHED)
    row = next(row for row in rows if row["name"] == "maskrcnn_resnet50_fpn_v2.coco")
    assert (row["task"], row["method"], row["backbone"]) == ("instance", "mask_rcnn", "resnet50")
    assert row["metrics"] == {"box_ap": 47.4, "mask_ap": 41.8}
    assert (row["licence"], round(row["bytes"] / 1e6)) == ("bsd-3-clause", 186)
    for words, expected in (
        (["--task=keypoints"], {"keypoint_rcnn"}),
        (["cascade_mask_rcnn"], {"cascade_mask_rcnn"}),
        (["swin_small", "--task=instance"], {"mask_rcnn"}),
    ):
        assert {row["method"] for row in listed(capsys, *words)} == expected
    assert {row["backbone"] for row in listed(capsys, "--family=hrnet", "--task=detection")} == {
        *("hrnet_w18", "hrnet_w32", "hrnet_w40")
    }
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models", "--weights"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "cascade_mask_rcnn_r101_caffe_fpn_mstrain_3x.mmdet" in out


def test_what_cannot_be_listed_is_explained(capsys):
    for words, text in (
        (["--task=detection"], "task selects among published checkpoints: add --weights."),
        (["--weights", "maskrcn_resnet50"], "Did you mean 'maskrcnn_resnet50_fpn.coco'?"),
        (["--weights", "--task=detektion"], "Did you mean 'detection'?"),
    ):
        assert main(["models", *words]) == 2
        assert text in capsys.readouterr().err
