"""Engines: what computes a checkpoint's outputs, and which is the fastest."""

import json
import os

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
    monkeypatch.setenv("CXX", "no-compiler")  # which would take most of the time
    make_detector("boxes", size=32)
    return tmp_path / "detector" / "best.safetensors"


def test_the_fastest_engine_is_remembered(checkpoint, monkeypatch, capsys):
    times = {"eager": 4.0, "folded": 3.0, "compiled": 5.0, "frozen": 6.0, "onnx": 2.0, "openvino": 9.0}
    monkeypatch.setattr(engines, "_times", lambda ready: {key: times[key[0]] for key in ready})
    assert main(["tune", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "the fastest is onnx in 32-true" in printed
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
    assert [row["engine"] for row in entry["measurements"]] == list(times)

    # Another file of weights, or other libraries, are measured again.
    monkeypatch.setattr(engines, "_versions", lambda: iter(["onnxruntime 0"]))
    monkeypatch.setattr(engines, "measure", lambda *_: [engines.Measurement("eager", "32-true", 1.0)])
    assert engines.fastest(checkpoint, "32-true") == ("eager", "32-true")


def test_float32_takes_part_where_less_is_allowed(checkpoint, monkeypatch, capsys):
    asked = []

    def exported(path, engine, precision, data):
        asked.append((engine, precision, data))
        raise VertebraError("not exported here")

    monkeypatch.setattr(engines, "exported", exported)
    assert main(["tune", str(checkpoint), "--precision=int8", "--data.path=images"]) == 0
    assert asked == [(engine, form, "images") for engine in ("onnx", "openvino") for form in ("int8", "32-true")]
    printed = capsys.readouterr().out
    assert "without onnx in int8: not exported here" in printed
    assert "without folded" not in printed
    assert vertebra.load(checkpoint, device="cpu", precision="int8", engine="auto").precision == "32-true"


def test_compiled_models(checkpoint, monkeypatch):
    import shutil

    seen = []
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(torch, "compile", lambda function, options: seen.append(options) or function)
    image = torch.zeros(3, 50, 70, dtype=torch.uint8)
    image[:, 4:20, 10:30] = 80
    (expected,) = vertebra.load(checkpoint).predict(image)
    for engine in engines.COMPILED:
        (prediction,) = vertebra.load(checkpoint, device="cpu", engine=engine).predict(image)
        assert torch.equal(prediction.boxes, expected.boxes)
    assert seen == [{"freezing": False}, {"freezing": True}]

    def failing(*_):
        raise torch._dynamo.exc.TorchDynamoException("no way\nat line 7")

    monkeypatch.setattr(torch, "compile", lambda function, options: failing)
    with pytest.raises(VertebraError, match=r"cannot be compiled: no way$"):
        vertebra.load(checkpoint, device="cpu", engine="compiled").predict(image)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(VertebraError, match=r"needs a C\+\+ compiler"):
        vertebra.load(checkpoint, device="cpu", engine="compiled")


def test_engines_that_are_missing_are_named(checkpoint, monkeypatch, capsys):
    from vertebra.export import formats

    def find(name):
        raise VertebraError(f"format {name} needs a package")

    monkeypatch.setattr(formats, "find", find)
    rows = engines.measure(checkpoint)
    assert [row.engine for row in rows if row.milliseconds is not None] == ["eager", "folded"]
    assert engines.best(rows).engine in ("eager", "folded")
    assert "compiler" in rows[2].problem
    assert "needs a package" in rows[4].problem


def test_refused_engines(checkpoint):
    with pytest.raises(VertebraError, match=r"a\.onnx is exported, which fixed its engine"):
        engines.measure("a.onnx")
    with pytest.raises(VertebraError, match="engine is 'tensorrt'"):
        Predictor(checkpoint, engine="tensorrt")
    with pytest.raises(VertebraError, match="precision with engine onnx"):
        engines.exported(checkpoint, "onnx", "16-mixed")
    with pytest.raises(VertebraError, match="precision of onnx is 'bf16'"):
        engines.exported(checkpoint, "onnx", "bf16-mixed")
    with pytest.raises(VertebraError, match="precision of onnx is 'bf16'"):
        Predictor(checkpoint, device="cpu", engine="onnx", precision="bf16-mixed")
    with pytest.raises(VertebraError, match="precision int8 is for engines onnx, openvino"):
        Predictor(checkpoint, device="cpu", precision="int8")


def test_a_folder_that_cannot_be_written_to(checkpoint, monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(engines.os, "access", lambda path, mode: not str(path).startswith(str(checkpoint.parent)))
    monkeypatch.setattr(engines, "ENGINES", ("folded", "onnx", "auto"))
    before = sorted(checkpoint.parent.rglob("*"))
    engine = vertebra.load(checkpoint, device="cpu", engine="auto").engine
    assert sorted(checkpoint.parent.rglob("*")) == before
    (folder,) = (cache / "vertebra").iterdir()
    assert sorted(file.suffix for file in folder.iterdir()) == [".json", ".onnx"]
    monkeypatch.setattr(engines, "measure", None)  # which is not called again
    assert vertebra.load(checkpoint, device="cpu", engine="auto").engine == engine
    assert vertebra.load(checkpoint, device="cpu", engine="onnx").exported


def test_the_later_measurement_counts(monkeypatch, tmp_path):
    """Of that beside the checkpoint and that in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = engines._folders(tmp_path / "best.safetensors")
    for earlier, later in (folders, folders[::-1]):
        for seconds, folder in ((1000, earlier), (2000, later)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "engines.json").write_text(json.dumps({"key": folder.name, folder.name: 1}))
            os.utime(folder / "engines.json", (seconds, seconds))
        known = {"key": later.name, **{folder.name: 1 for folder in folders}}
        assert engines._remembered(tmp_path / "best.safetensors") == known


def test_auto_of_a_model_that_reads_texts(tmp_path):
    from vertebra.engine import checkpoint

    task = vertebra.create("translation", width=16, depth=1, heads=2, feedforward=16)
    checkpoint.save(task, tmp_path / "best.safetensors")
    assert vertebra.load(tmp_path, device="cpu", engine="auto").engine == "folded"
    with pytest.raises(VertebraError, match="a model for translation reads"):
        engines.measure(tmp_path)
