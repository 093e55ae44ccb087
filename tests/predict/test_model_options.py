"""Options by which predictions are made of a model's outputs can be changed after training; others cannot."""

import dataclasses

import pytest
import torch

import vertebra
from vertebra import tasks
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.ops import beam_search
from vertebra.predict import Predictor
from vertebra.structures import Preprocess
from vertebra.tasks import multi
from vertebra.tasks.methods import find, methods, names

AFTER_TRAINING = {"nms_threshold", "score_threshold", "max_detections", "min_box_size", "pre_nms_top_n", "beam"}
AFTER_TRAINING |= {"length_penalty", "coverage_penalty", "max_length_ratio", "oks_threshold", "decoding"}
IMAGE = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    torch.manual_seed(0)
    small = {"backbone": "resnet18", "neck.channels": 64, "score_threshold": 0.0}
    task = tasks.create("detection", method="atss", classes=3, preprocess=Preprocess(size=(64, 64)), **small)
    path = tmp_path_factory.mktemp("detector") / "best.safetensors"
    checkpoint.save(task, path)
    return path


@pytest.mark.parametrize("task", sorted({*names()} - {"refinement"}))  # whose nms_threshold selects training patches
def test_every_method_has_them(task):
    for method in methods(task):
        for field in dataclasses.fields(find(task, method).Config):
            if field.name in AFTER_TRAINING:
                assert field.metadata.get("adjustable"), (method, field.name)


def test_detections(detector):
    count = len(vertebra.load(detector, device="cpu").predict(IMAGE, threshold=0)[0].scores)
    assert count > 7
    fewer = vertebra.load(detector, device="cpu", model={"max_detections": 7})
    assert len(fewer.predict(IMAGE, threshold=0)[0].scores) == 7
    assert fewer.about["model"]["max_detections"] == 7  # so it is in what is exported
    strict = vertebra.load(detector, device="cpu", model={"nms_threshold": 0.01})
    boxes = strict.predict(IMAGE, threshold=0)[0].boxes
    assert 0 < len(boxes) < count


def test_beam(tmp_path, monkeypatch):
    widths = []
    real = beam_search.beam_search

    def spy(*args, **options):
        widths.append(options["beam"])
        return real(*args, **options)

    monkeypatch.setattr("vertebra.tasks.translator.beam_search", spy)
    task = tasks.create("translation", width=16, depth=1, heads=2, feedforward=16)
    checkpoint.save(task, tmp_path / "best.safetensors")
    for model in (None, {"beam": 2}):
        list(vertebra.load(tmp_path, device="cpu", model=model).translate(["a"]))
    assert widths == [4, 2]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"nms_treshold": 0.3}, "option 'nms_treshold' cannot be changed.* did you mean 'nms_threshold'"),
        ({"backbone": "resnet34"}, "option 'backbone' cannot be changed after training; those that can are score_thr"),
        ({"max_detections": 0}, "max_detections is 0"),
        ({"max_detections": "many"}, "max_detections is 'many'; it must be an integer"),
    ],
)
def test_what_is_refused(detector, model, message):
    with pytest.raises(VertebraError, match=f"(?i){message}"):
        vertebra.load(detector, model=model)


@pytest.mark.parametrize("more", [{"model": {"nms_threshold": 0.5}}, {"engine": "auto"}])
def test_several_heads_are_named(tmp_path, more):
    trunk = {"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1), **multi.TRUNK_OPTIONS}}
    plan = tasks.plan("classification", classes=("a", "b"), **trunk)
    checkpoint.save(multi.build({"kinds": plan}, {"kinds": Preprocess(size=(32, 32))}), tmp_path / "all.safetensors")
    with pytest.raises(VertebraError, match="has the heads kinds: take one out first"):
        Predictor(tmp_path / "all.safetensors", device="cpu", **more)


def test_engines_that_run_programs_refuse_them(detector):
    with pytest.raises(VertebraError, match=r"engine is onnx.* leave out the engine, or max_detections"):
        vertebra.load(detector, engine="onnx", model={"max_detections": 3})
