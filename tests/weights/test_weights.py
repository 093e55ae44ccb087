"""Rule tables, strict loading, and reading files without running them."""

import io
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vertebra
from vertebra import backbones, tasks, weights
from vertebra.backbones.isotropic import FixedGrid
from vertebra.errors import VertebraError
from vertebra.ledger.fabricate import fabricate_state
from vertebra.ledger.reference import references
from vertebra.weights import Drop, Fix, Join, Rename, convert
from vertebra.weights.rules import adapt_channels


@pytest.fixture(scope="module")
def timm_state():
    """A timm ResNet-18's tensors, fabricated."""
    reference = next(r for r in references(vertebra.ledger.FOLDER) if r.path.stem == "timm_resnet18")
    return fabricate_state(reference.spec["state"])


def classifier(**options):
    return tasks.create("classification", backbone="resnet18", **({"classes": 1000} | options))


def test_rules_rename_fix_and_drop_by_name():
    state = {"layer1.weight": torch.ones(2, 1), "old": torch.zeros(1), "mask": torch.zeros(3)}
    rules = (
        Rename(r"^layer(\d)\.", r"stages.\1."),
        Fix(r"stages", torch.flatten, "[C, 1] -> [C]"),
        Drop("mask", "computed"),
    )
    converted, dropped = convert(state, rules)
    assert list(converted) == ["stages.1.weight", "old"]
    assert list(converted["stages.1.weight"].shape) == [2]
    assert dropped == {"mask": "computed"}


def test_parts_are_joined_in_their_order():
    rules = (Join(r"\.(q|k|v)\.", ("q", "k", "v"), "qkv"), Rename(r"^a\.", "attention."))
    state = {
        "a.v.weight": torch.full((1, 2), 3.0),
        "a.q.weight": torch.ones(1, 2),
        "a.k.weight": torch.full((1, 2), 2.0),
    }
    converted, _ = convert(state, rules)
    assert converted["attention.qkv.weight"].tolist() == [[1, 1], [2, 2], [3, 3]]
    del state["a.k.weight"]
    with pytest.raises(VertebraError, match=r"attention.qkv.weight is joined from q, k, v; the checkpoint lacks k"):
        convert(state, rules)


def test_a_source_that_changed_its_names_has_several_tables(tmp_path, monkeypatch):
    """timm's Swin merges at the beginning of a stage now; files from before it did are on its Hub repositories too."""
    torch.manual_seed(0)
    reference = next(r for r in references(vertebra.ledger.FOLDER) if r.path.stem.startswith("timm_swin_tiny"))
    state = fabricate_state(reference.spec["state"])
    old = {}
    for name, tensor in state.items():
        place = re.match(r"layers\.(\d)\.downsample", name)
        name = name.replace(f"layers.{place[1]}", f"layers.{int(place[1]) - 1}") if place else name
        old[name.replace("head.fc.", "head.")] = tensor
    models = []
    for names, source in ((state, "timm"), (old, "timm/0.8")):
        save_file(names, tmp_path / "model.safetensors")
        monkeypatch.setattr(weights.locate, "_from_hub", lambda *_: tmp_path / "model.safetensors")
        models.append(vertebra.create("classification", backbone="swin_tiny", weights="swin_tiny.ms_in1k"))
        assert models[-1].report.source == source
        assert not models[-1].report.new
    for a, b in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(a, b)


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(VertebraError, match=r"both a.x and b.x"):
        convert({"a.x": torch.zeros(1), "b.x": torch.zeros(1)}, (Rename(r"^[ab]\.", ""),))


def test_a_tensor_that_cannot_be_fixed_is_named():
    rules = (Fix(r"conv", lambda x: x.flip(1), "BGR -> RGB"),)
    with pytest.raises(VertebraError, match=r"conv.weight of the checkpoint has the shape \[3\], .*BGR -> RGB"):
        convert({"conv.weight": torch.zeros(3)}, rules)


def test_the_source_is_detected(tmp_path, timm_state):
    torch.save({"state_dict": {f"module.{k}": v for k, v in timm_state.items()}, "epoch": 3}, tmp_path / "a.pth")
    report = classifier().load(tmp_path / "a.pth")
    assert report.source == "timm"
    assert len(report.used) == 122
    assert not report.left_out
    assert not report.new


@pytest.mark.parametrize("name", ["efficientnetv2_b0", "resnet50_d"])
def test_sources_do_not_mix_up(name):
    """Every table, run backwards, fits its own source and no tensor is lost."""
    model = backbones.create(name, embedding=True)
    for source, rules in model.tables().items():
        fitting = [r for r in references(vertebra.ledger.FOLDER) if r.name == name and r.source == source]
        for reference in fitting:
            converted, dropped = convert(fabricate_state(reference.spec["state"]), rules)
            assert not dropped
            assert {k for k in converted if not k.startswith("head.")} == set(model.state_dict())


def test_strict_loading_names_what_is_wrong(tmp_path, timm_state):
    broken = dict(timm_state)
    del broken["layer1.0.conv1.weight"]
    broken["extra"] = torch.zeros(1)
    broken["fc.weight"] = torch.zeros(5, 512)
    save_file(broken, tmp_path / "broken.safetensors")
    task = classifier()
    before = {k: v.clone() for k, v in task.state_dict().items()}
    with pytest.raises(VertebraError) as caught:
        task.load(tmp_path / "broken.safetensors", source="timm")
    text = str(caught.value)
    assert "backbone.stages.0.0.conv1.conv.weight: missing" in text
    assert "extra: the model has no such tensor" in text
    assert "head.weight: its shape is [5, 512], the model's [1000, 512]" in text
    assert "partial=True" in text
    assert all(torch.equal(before[k], v) for k, v in task.state_dict().items()), "a failed load changed the model"


def test_partial_loading_lists_what_was_left_out(tmp_path, timm_state):
    save_file(timm_state, tmp_path / "model.safetensors")
    task = classifier(classes=5)
    report = task.load(tmp_path, partial=True)  # the folder will do
    assert set(report.left_out) == {"head.weight", "head.bias"}
    assert set(report.new) == {"head.weight", "head.bias"}
    assert len(report.used) == 120
    assert "left out head.weight: its shape is [1000, 512], the model's [5, 512]" in str(report)
    assert torch.equal(task.backbone.stem[0].conv.weight, timm_state["conv1.weight"])


def test_a_bare_backbone_leaves_the_classifier(tmp_path, timm_state):
    save_file(timm_state, tmp_path / "model.safetensors")
    report = vertebra.backbone("resnet18").load(tmp_path, source="torchvision")
    assert set(report.left_out) == {"head.weight", "head.bias"}
    assert not report.new


def test_another_architecture_is_refused_even_partially(tmp_path, timm_state):
    save_file(timm_state, tmp_path / "model.safetensors")
    with pytest.raises(VertebraError, match="another architecture"):
        tasks.create("classification", backbone="resnet50", classes=3).load(tmp_path, partial=True)


def test_the_first_convolution_adapts(tmp_path, timm_state):
    save_file(timm_state, tmp_path / "model.safetensors")
    kernel = timm_state["conv1.weight"]
    grey = vertebra.backbone("resnet18", channels=1)
    report = grey.load(tmp_path)
    assert report.adapted == {"stem.0.conv.weight": "3 input channels -> 1"}
    torch.testing.assert_close(grey.stem[0].conv.weight, kernel.sum(1, keepdim=True))
    assert list(adapt_channels(kernel, 5).shape) == [64, 5, 7, 7]
    torch.testing.assert_close(adapt_channels(kernel, 6).sum(1), kernel.sum(1))


def test_unknown_sources_are_explained(tmp_path, timm_state):
    save_file(timm_state, tmp_path / "model.safetensors")
    with pytest.raises(VertebraError, match=r"no rules for source 'tim'.*Did you mean 'timm'"):
        classifier().load(tmp_path, source="tim")


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_code_in_a_pickle_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "bomb": Bomb()}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(VertebraError, match="could run code"):
            weights.read(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_damaged_and_foreign_files_are_explained(tmp_path, timm_state):
    buffer = io.BytesIO()
    torch.save(timm_state, buffer)
    (tmp_path / "half.pth").write_bytes(buffer.getvalue()[:5000])
    save_file(timm_state, tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "short.pth").write_bytes(b"\x80\x02.")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty").mkdir()
    for name, text in {
        "half.pth": "not a whole PyTorch checkpoint",
        "half.safetensors": "not a whole safetensors file",
        "text.pth": "not a checkpoint",
        "list.pth": "no tensors by name",
        "short.pth": "not a whole PyTorch checkpoint",
        "empty": "holds no checkpoint",
        "nowhere.pth": "there is no such file or folder",
    }.items():
        with pytest.raises(VertebraError, match=text) as caught:
            weights.read(tmp_path / name)
        assert name in str(caught.value)


def test_a_licence_that_forbids_commerce_is_named_before_use(monkeypatch, tmp_path, timm_state):
    def stop(where):
        raise VertebraError("stop here")

    monkeypatch.setattr(weights.checkpoint, "read", stop)
    name = "resnext101_32x8d.fb_wsl_ig1b_ft_in1k"
    with pytest.warns(UserWarning, match="not for commercial use"), pytest.raises(VertebraError, match="stop here"):
        backbones.create("resnet18").load(name)


def test_published_names_bring_their_preprocessing(monkeypatch, tmp_path, timm_state):
    save_file(timm_state, tmp_path / "model.safetensors")
    names = []
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(weights.locate, "_from_hub", lambda name, files: names.append(name) or path)
    task = vertebra.create("classification", backbone="resnet18", weights="resnet18.a1_in1k")
    assert names == ["timm/resnet18.a1_in1k"]
    assert task.preprocess.size == (288, 288)
    assert task.preprocess.interpolation == "bicubic"
    assert len(task.report.used) == 122
    for name in ("timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"):  # the same by the name of its repository
        assert vertebra.create("classification", backbone="resnet18", weights=name).preprocess == task.preprocess
    assert set(names) == {"timm/resnet18.a1_in1k"}
    with pytest.raises(VertebraError, match=r"Did you mean 'resnet18.a1_in1k'"):
        vertebra.create("classification", backbone="resnet18", weights="resnet18.a1_in2k")


@pytest.mark.parametrize("family", backbones.families())
def test_known_checkpoints_are_described(family):
    module = backbones.families()[family]
    for key, card in module.WEIGHTS.items():
        name, _, tag = key.partition(".")
        assert name in module.VARIANTS, key
        assert tag, key
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", card.hub), key
        assert card.source in module.RULES, key
        assert card.licence, key
        assert card.licence == card.licence.lower(), key
        assert card.top1 is None or 50 < card.top1 < 95, key
        if issubclass(module.MODEL, FixedGrid) or family in ("vit", "swin"):  # their tables are of one size
            assert card.preprocess.size == module.VARIANTS[name].image_size, key


def test_paths_go_before_hub_names(tmp_path, monkeypatch, timm_state):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    save_file(timm_state, "a/model")  # no suffix: told by its content, not by its name
    with pytest.raises(VertebraError, match="a/model"):
        weights.read("a/model")


def test_a_checkpoint_is_shown_without_its_numbers():
    """Those of a large one take seconds to write."""
    opened = weights.Checkpoint(Path("a.safetensors"), {"x": torch.tensor([0.125])})
    assert "a.safetensors" in str(opened)
    assert "0.125" not in str(opened)
