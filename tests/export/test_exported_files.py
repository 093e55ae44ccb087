"""Files that are exported and loaded again: predictions, pixels, metadata, refusals."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.predict.tasks.blobs.regions import regions

import vertebra
from vertebra import kinds, tasks
from vertebra.cli import main
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError, is_out_of_memory
from vertebra.export import certificate, load
from vertebra.export.formats import onnx as onnx_format
from vertebra.export.loading import engine_outputs
from vertebra.structures import KeypointSchema, Preprocess

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, and the same model as ONNX."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    preprocess = Preprocess(size=(64, 64), crop=0.9, interpolation="bicubic")
    model = tasks.create(
        "classification",
        classes=CLASSES,
        preprocess=preprocess,
        backbone="resnet18",
        backbone_options={"depths": (1, 1, 1, 1)},
    )
    torch.nn.init.normal_(model.head.weight)
    checkpoint.save(model, folder / "best.safetensors", metrics={"top1": 0.5}, epoch=3)
    assert main(["export", str(folder / "best.safetensors"), "--format=onnx"]) == 0
    return folder


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(256, (3, 50 + 9 * i, 70), dtype=torch.uint8, generator=generator) for i in range(3)]


@pytest.fixture
def few_images(monkeypatch):
    """Certificates of one small image."""
    monkeypatch.setattr(certificate, "NUM_DRAWN", 1)
    monkeypatch.setattr(certificate, "DRAWN_SIDE", 48)


def test_the_file_predicts_as_the_checkpoint_does(folder, images):
    model, exported = vertebra.load(folder), vertebra.load(folder / "best.onnx")
    assert (exported.classes, exported.kind, exported.task.preprocess) == (CLASSES, model.kind, model.task.preprocess)
    for one, other in zip(model.predict(images), exported.predict(images), strict=True):
        torch.testing.assert_close(other.probabilities, one.probabilities, atol=1e-5, rtol=1e-5)
    augmented = exported.predict(images[0], tta=True)[0].probabilities
    torch.testing.assert_close(augmented, model.predict(images[0], tta=True)[0].probabilities, atol=1e-5, rtol=1e-5)
    batch = torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(exported.raw(batch)[0], model.raw(batch)[0], atol=1e-4, rtol=1e-4)


def test_the_engine_gets_the_pixels_that_training_has(folder, images, monkeypatch):
    from vertebra.data.geometry import Example
    from vertebra.structures import Target

    exported, seen = vertebra.load(folder / "best.onnx"), []
    outputs = exported.task.outputs
    exported.task.outputs = lambda batch, sizes=None: seen.append(batch) or outputs(batch, sizes)
    exported.predict(images[1])
    kind, preprocess = kinds.find("category"), exported.task.preprocess
    example = Example(images[1], Target(label=torch.tensor(0)))
    trained, _ = kind.transform(kind.no_augment, preprocess)(example, lambda: example)
    assert torch.equal(seen[0][0], trained)


def test_the_file_describes_itself(folder):
    (entry,) = onnx.load(folder / "best.onnx").metadata_props
    about = json.loads(entry.value)
    assert (about["classes"], about["metrics"], about["epoch"]) == (list(CLASSES), {"top1": 0.5}, 3)
    assert about["preprocess"]["interpolation"] == "bicubic"
    found = about["export"]["certificate"]
    assert found["agreement"] == 1.0
    assert found["images"] == 8
    assert 0 < found["differences"][0] < 1e-4


def test_it_is_evaluated(folder, tmp_path):
    for number, name in enumerate(CLASSES):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = np.full((40, 40, 3), 40 * number + 9 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    results = [vertebra.evaluate(folder / name, data=tmp_path, workers=0) for name in ("best.safetensors", "best.onnx")]
    assert results[0].metrics["top1"] == results[1].metrics["top1"]
    assert main(["evaluate", str(folder / "best.onnx"), f"--data.path={tmp_path}", "--data.workers=0"]) == 0
    assert main(["predict", str(folder / "best.onnx"), str(tmp_path / "cat" / "0.png")]) == 0


def test_openvino(folder, images):
    pytest.importorskip("openvino")
    model = vertebra.load(folder)
    compared = model.export(folder / "small.xml", precision="fp16")
    assert compared.agreement == 1.0
    assert sorted(path.name for path in folder.glob("small.*")) == ["small.bin", "small.xml"]
    exported = vertebra.load(folder / "small.xml")
    assert exported.about["export"]["precision"] == "fp16"
    for one, other in zip(model.predict(images), exported.predict(images), strict=True):
        torch.testing.assert_close(other.probabilities, one.probabilities, atol=5e-3, rtol=0)


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    """A folder per class with images for training and validation, one of which cannot be read."""
    root = tmp_path_factory.mktemp("striped")
    for number, name in enumerate(CLASSES):
        for i in range(6):
            file = root / ("train" if i < 3 else "val") / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((40, 40, 3), 60 * number + 9 * i, np.uint8)
            pixels[:: number + 2] = 250
            Image.fromarray(pixels).save(file)
    (root / "train" / "cat" / "1.png").write_bytes(b"no image")
    return root


@pytest.fixture
def converted(folder, monkeypatch):
    """Exports begin with the program of `folder`, which saves the time to trace and convert it again."""
    from vertebra.export import program
    from vertebra.export.formats import onnx as format

    traced = SimpleNamespace(graph=SimpleNamespace(nodes=()))
    monkeypatch.setattr(program, "traced", lambda task: (traced, None))
    monkeypatch.setattr(format, "convert", lambda *_: onnx.load(folder / "best.onnx"))


def test_int8_is_calibrated_on_the_training_images(folder, striped, images, converted, capsys):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    arguments = [f"--save={folder / 'whole.xml'}", "--precision=int8", f"--data.path={striped}", "--max_drop=1"]
    assert main(["export", str(folder), *arguments, "--min_agreement=0"]) == 0
    printed = capsys.readouterr().out
    assert "calibrated on 8 images" in printed
    assert "1.png" in printed
    exported = vertebra.load(folder / "whole.xml")
    entry = exported.about["export"]
    assert (entry["precision"], entry["certificate"]["calibrated"], entry["certificate"]["images"]) == ("int8", 8, 9)
    assert (folder / "whole.bin").stat().st_size < 0.3 * (folder / "best.onnx").stat().st_size
    model = vertebra.load(folder)
    for one, other in zip(model.predict(images), exported.predict(images), strict=True):
        torch.testing.assert_close(other.probabilities, one.probabilities, atol=0.2, rtol=0)


def test_activations_are_one_operation_before_int8(monkeypatch):
    """OpenVINO quantises a convolution together with the operation after it."""
    pytest.importorskip("openvino")
    from vertebra.export import calibration
    from vertebra.export.formats import openvino as format

    activation = onnx.helper.make_graph(
        [onnx.helper.make_node("Sigmoid", ["x"], ["s"]), onnx.helper.make_node("Mul", ["x", "s"], ["y"])],
        "silu",
        *([onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4])] for name in "xy"),
    )
    model = onnx.helper.make_model(activation, opset_imports=[onnx.helper.make_opsetid("", 18)])
    monkeypatch.setattr(onnx_format, "convert", lambda *_: model)
    monkeypatch.setattr(calibration, "quantized", lambda graph, names, images, program: graph)
    graph, _ = format.quantized(format.convert(None, "int8"), None, None)
    assert [op.get_type_name() for op in graph.get_ordered_ops()] == ["Parameter", "Swish", "Result"]


def test_int8_is_refused(folder, tmp_path, striped, converted, monkeypatch, capsys):
    from vertebra.export import calibration
    from vertebra.export.formats import onnx as format

    model, path = vertebra.load(folder), tmp_path / "model.onnx"
    with pytest.raises(VertebraError, match="needs images to calibrate on"):
        model.export(path, precision="int8")
    with pytest.raises(VertebraError, match="calibration_images is for precision int8"):
        model.export(path, calibration_images=4)

    def worse(task, exported, images):
        return certificate.Certificate(9, "", (9.0,), 1.0, {"top-1 accuracy": (0.95, 0.93)})

    seen = []
    monkeypatch.setattr(certificate, "compare", worse)
    monkeypatch.setattr(format, "quantized", lambda model, images, program: seen.append(len(list(images))) or model)
    arguments = [f"--save={path}", "--precision=int8", f"--data.path={striped}", "--calibration_images=3"]
    assert main(["export", str(folder), *arguments]) == 2
    assert "top-1 accuracy drops from 0.9500 to 0.9300, by more than 0.01" in capsys.readouterr().err
    assert seen == [3]
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(calibration.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VertebraError, match="nncf, which is not installed"):
        calibration.images(model.task, {}, str(striped), 3)


def test_the_least_agreement():
    """None in int8 where the drop of a metric is known."""
    without = certificate.Certificate(9, "", (9.0,), 0.5, {})
    judged = certificate.Certificate(9, "", (9.0,), 0.5, {"mask AP": (0.41, 0.405)})
    assert certificate.least(without, "int8", None) == 0.9
    assert certificate.least(judged, "int8", None) == 0
    assert certificate.least(judged, "int8", 0.8) == 0.8
    assert certificate.least(judged, "bf16", None) == 0.95
    assert judged.problem(0, 0.01, 0.1) == ""
    assert "drops" in judged.problem(0, 0.001, 0.1)


@pytest.mark.parametrize(
    ("factor", "sentence"), [(1.0, ""), (1.005, ""), (1.2, "by up to 20.00% of their values"), (float("nan"), "nan%")]
)
def test_raw_outputs_are_judged_where_nothing_is_predicted(make_detector, monkeypatch, factor, sentence):
    """Else a program that finds nothing would agree with a model that finds nothing, whatever it computes."""
    task, other = (make_detector("boxes").task for _ in range(2))
    for model in (task, other):
        monkeypatch.setattr(model, "decode", lambda raw, frames: [regions(torch.zeros(8, 8), (8, 8), "boxes")])
    outputs = other.outputs
    monkeypatch.setattr(other, "outputs", lambda images, sizes: tuple(factor * x for x in outputs(images, sizes)))
    grey = certificate.Examples("grey images", [], {}, [torch.full((3, 48, 48), 80, dtype=torch.uint8)])
    compared = certificate.compare(task, other, grey)
    assert (compared.predictions, compared.agreement) == (0, 1.0)
    problem = compared.problem(0.99, 0.01, 0.01)
    assert sentence in problem
    assert bool(sentence) == bool(problem)
    assert replace(compared, predictions=1).problem(0.99, 0.01, 0.01) == ""


def test_no_file_is_left_where_predictions_differ(folder, tmp_path, monkeypatch, capsys):
    from vertebra.export.formats import onnx as format

    def altered(program, precision):
        model = convert(program, precision)
        weight = next(x for x in model.graph.initializer if len(x.dims) == 2 and len(CLASSES) in x.dims)
        weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
        return model

    convert = format.convert
    monkeypatch.setattr(format, "convert", altered)
    path = tmp_path / "model.onnx"
    assert main(["export", str(folder), f"--save={path}"]) == 2
    assert "of its predictions agree" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_is_no_exported_file_is_refused(folder, tmp_path):
    with pytest.raises(VertebraError, match="does not exist"):
        vertebra.load(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((folder / "best.onnx").read_bytes()[:4000])
    with pytest.raises(VertebraError, match="is not a whole onnx file"):
        vertebra.load(broken)
    model = onnx.load(folder / "best.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(VertebraError, match="was not exported by Vertebra"):
        vertebra.load(tmp_path / "other.onnx")
    with pytest.raises(VertebraError, match="runs code"):
        vertebra.load(tmp_path / "program.pt2")
    with pytest.raises(VertebraError, match="which fixed it"):
        vertebra.load(folder / "best.onnx", precision="bf16-mixed")
    with pytest.raises(VertebraError, match="run on the CPU"):
        vertebra.load(folder / "best.onnx", device="cuda")
    with pytest.raises(VertebraError, match="without pooled features"):
        vertebra.load(folder / "best.onnx").embed(torch.zeros(3, 64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "model.pth"}, "has no ending of a format"),
        ({"path": "model.onnx", "format": "openvino"}, "must end with .xml"),
        ({"path": "model.onnx", "precision": "bf16"}, "precision of onnx is 'bf16'"),
        ({"path": "model.onnx", "min_agreement": 2}, "min_agreement is 2"),
        ({"path": "model.onnx", "data": "nowhere/"}, "nowhere"),
    ],
)
def test_refused_options(folder, options, message):
    with pytest.raises(VertebraError, match=message):
        vertebra.load(folder).export(**options)
    with pytest.raises(VertebraError, match="exported model cannot be exported again"):
        vertebra.load(folder / "best.onnx").export("again.onnx")


def test_pt2_is_written_for_torch(make_detector, tmp_path, few_images):
    detector = make_detector("boxes", size=32)
    detector.export(tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.rand(3, 3, 40, 60)
    assert torch.equal(program(images)[0], detector.raw(images)[0])


def test_pt2_of_poses(tmp_path, few_images):
    """Sides that are no multiple of the stride of the heatmaps are cut by it."""
    schema = KeypointSchema(("left", "right"))
    task = vertebra.create("pose", backbone="resnet18", keypoints=schema, backbone_options={"depths": (1, 1, 1, 1)})
    checkpoint.save(task, tmp_path / "best.safetensors")
    pose = vertebra.load(tmp_path / "best.safetensors", device="cpu")
    pose.export(tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.rand(2, 3, *task.preprocess.size)
    torch.testing.assert_close(program(images)[0], pose.raw(images)[0])


def test_objects(make_detector, tmp_path, few_images):
    detector = make_detector("masks", size=32)
    compared = detector.export(tmp_path / "model.onnx")
    assert compared.agreement == 1.0
    exported = vertebra.load(tmp_path / "model.onnx")
    image = torch.zeros(3, 50, 70, dtype=torch.uint8)
    image[:, 4:20, 10:30] = 80
    image[:, 30:44, 40:66] = 121
    for options in ({}, {"tta": True}, {"tile": 48}):
        (one,), (other,) = (model.predict(image, threshold=0.1, **options) for model in (detector, exported))
        assert len(one) >= 2
        assert torch.equal(one.boxes, other.boxes)
        assert kinds.find("masks").agreement(one, other) == (2 * len(one), 2 * len(one))


def test_errors_of_engines(folder, monkeypatch):
    """Out of memory is told from a wrong image; no error has the file's folder, because a service answers with it."""
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    task, _ = load(folder / "best.onnx")
    image = torch.zeros(1, 3, 64, 64)

    def fails(sentence):
        def run(inputs):
            raise RuntimeException(sentence)

        return engine_outputs(task, run, "best.onnx", None)

    with pytest.raises(RuntimeException) as error:
        fails("Failed to allocate memory for requested buffer of size 8")(image)
    assert is_out_of_memory(error.value)
    with pytest.raises(VertebraError, match=r"^best\.onnx fails on images of 1 x 3 x 64 x 64: Invalid rank"):
        fails("Invalid rank")(image)
    names = []
    monkeypatch.setattr("vertebra.export.loading.install", lambda task, run, name, size: names.append(name))
    load(folder / "best.onnx")
    assert names == ["best.onnx"]
