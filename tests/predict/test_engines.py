"""Engines: what computes a checkpoint's outputs, and which is the fastest."""

import json

import pytest
import torch

import vertebra
from vertebra.cli import main
from vertebra.errors import VertebraError
from vertebra.export import certificate
from vertebra.predict import Predictor, engines


@pytest.fixture
def checkpoint(make_detector, tmp_path, monkeypatch):
    """A checkpoint of a detector that is exported in no time."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.setattr(certificate, "NUM_DRAWN", 1)
    monkeypatch.setattr(certificate, "DRAWN_SIDE", 48)
    monkeypatch.setattr(engines, "ROUNDS", 1)
    make_detector("boxes", size=32)
    return tmp_path / "detector" / "best.safetensors"


def test_the_fastest_engine_is_remembered(checkpoint, monkeypatch, capsys):
    times = {"eager": 4.0, "folded": 3.0, "onnx": 2.0, "openvino": 9.0}
    monkeypatch.setattr(engines, "_times", lambda ready: {engine: times[engine] for engine in ready})
    assert main(["tune", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "the fastest is onnx" in printed
    assert "100.00%" in printed
    monkeypatch.setattr(engines, "measure", None)  # which is not called again
    predictor = vertebra.load(checkpoint.parent, device="cpu", engine="auto")
    assert predictor.engine == "onnx"
    image = torch.zeros(3, 50, 70, dtype=torch.uint8)
    image[:, 4:20, 10:30] = 80
    (one,), (other,) = (model.predict(image, threshold=0.1) for model in (predictor, vertebra.load(checkpoint)))
    assert len(one) == 1
    assert torch.equal(one.boxes, other.boxes)
    file = checkpoint.with_name("best.engines") / "engines.json"
    (entry,) = json.loads(file.read_text()).values()
    assert [row["engine"] for row in entry["measurements"]] == ["eager", "folded", "onnx", "openvino"]

    # Another file of weights, or other libraries, are measured again.
    monkeypatch.setattr(engines, "_versions", lambda: iter(["onnxruntime 0"]))
    monkeypatch.setattr(engines, "measure", lambda *_: [engines.Measurement("eager", 1.0)])
    assert engines.fastest(checkpoint, "32-true") == "eager"


def test_engines_that_are_missing_are_named(checkpoint, monkeypatch, capsys):
    from vertebra.export import formats

    def find(name):
        raise VertebraError(f"format {name} needs a package")

    monkeypatch.setattr(formats, "find", find)
    rows = engines.measure(checkpoint)
    assert [row.engine for row in rows if row.milliseconds is not None] == ["eager", "folded"]
    assert engines.best(rows).engine in ("eager", "folded")
    assert "needs a package" in rows[2].problem


def test_refused_engines(checkpoint):
    with pytest.raises(VertebraError, match="engine is 'tensorrt'"):
        Predictor(checkpoint, engine="tensorrt")
    with pytest.raises(VertebraError, match="precision with engine onnx"):
        engines.exported(checkpoint, "onnx", "16-mixed")
    with pytest.raises(VertebraError, match="precision of onnx is 'bf16'"):
        engines.exported(checkpoint, "onnx", "bf16-mixed")
    with pytest.raises(VertebraError, match="precision of onnx is 'bf16'"):
        Predictor(checkpoint, device="cpu", engine="onnx", precision="bf16-mixed")
