"""Predictions in the formats of annotation tools are read again as a dataset of the same objects."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import kinds
from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError
from vertebra.kinds.cvat_writer import run_lengths
from vertebra.kinds.writers import WriterOptions, formats
from vertebra.structures import KeypointSchema, Prediction

FORMATS = ("cvat", "labelme", "voc", "yolo")


@pytest.fixture
def scenes(tmp_path):
    """Three images of 64 x 96 pixels: a box and a ring, two files of one name, one of them without an object."""
    first = np.zeros((64, 96, 3), np.uint8)
    first[10:30, 5:25] = 200  # the red value gives class and score
    first[20:50, 40:80] = 151
    first[28:40, 50:70] = 0
    second = np.zeros((64, 96, 3), np.uint8)
    second[0:20, 60:96] = 240
    for name, pixels in (("street.png", first), ("more/street.png", second), ("more/émpty & <dark>.png", 0 * first)):
        path = tmp_path / "scenes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "scenes"


def predict(tmp_path, scenes, form, *words):
    out = tmp_path / f"out_{form}"
    assert main(["predict", str(tmp_path / "detector"), str(scenes), f"--format={form}", f"--save={out}", *words]) == 0
    return out


def pairs(predictor, catalogue):
    """The prediction and the target of every image that was read."""
    samples = catalogue.split("train")
    for sample in samples:
        yield predictor.predict(sample.image)[0], sample.load_target((64, 96))


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        *(("boxes", form) for form in FORMATS),
        *(("masks", form) for form in FORMATS),
        ("keypoints", "labelme"),
        ("keypoints", "voc"),
        ("keypoints", "yolo"),
    ],
)
def test_what_was_predicted_is_read(make_detector, scenes, tmp_path, capsys, kind, form):
    predictor = make_detector(kind, classes=("zebra & co", "ant"))
    out = predict(tmp_path, scenes, form)
    catalogue = read(out)
    assert catalogue.format == form
    assert not catalogue.problems
    assert "images" in capsys.readouterr().out
    names = {sample.image.name for sample in catalogue.split("train")}
    assert names == {"street.png", "street-2.png", "émpty & <dark>.png"}
    objects = 0
    for prediction, target in pairs(predictor, catalogue):
        objects += len(prediction)
        assert [catalogue.classes[i] for i in target.labels] == [predictor.classes[i] for i in prediction.labels]
        if kind == "keypoints" and form != "voc":
            labelled = prediction.keypoints[..., 2] >= 0.5
            torch.testing.assert_close(target.keypoints[..., :2][labelled], prediction.keypoints[..., :2][labelled])
            assert torch.equal(target.keypoints[..., 2] > 0, labelled)
        torch.testing.assert_close(target.boxes, prediction.boxes)
        if kind == "masks" and form != "voc":
            assert torch.equal(target.masks.dense(), prediction.masks.dense())
    assert objects == 3


def test_skeletons_of_cvat(tmp_path):
    """Their box is around their keypoints; one that is sure of none keeps all of them, as occluded."""
    schema = KeypointSchema(("nose", "left ear", "right ear"))
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    keypoints = torch.tensor(
        [
            [[10.0, 20.0, 0.9], [5.0, 10.0, 0.8], [0.0, 0.0, 0.1]],
            [[40.0, 20.0, 0.1], [35.0, 10.0, 0.2], [45.0, 11.0, 0.3]],
        ]
    )
    prediction = Prediction(
        boxes=torch.tensor([[0.0, 0.0, 30.0, 40.0], [30.0, 0.0, 60.0, 40.0]]),
        labels=torch.tensor([1, 0]),
        scores=torch.tensor([0.9, 0.8]),
        keypoints=keypoints,
        size=(40, 60),
    )
    options = WriterOptions(("dog", "cat"), keypoints=schema, original=lambda prediction: image)
    with formats("objects")["cvat"].writer(tmp_path, options) as writer:
        writer.add(prediction, 1, "street.png")
    catalogue = read(tmp_path)
    assert catalogue.classes == ("dog", "cat")
    assert catalogue.keypoints.names == schema.names
    (sample,) = catalogue.split("train")
    visibility = torch.tensor([[2.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    assert torch.equal(sample.target.keypoints[..., 2], visibility)
    labelled = visibility > 0
    assert torch.equal(sample.target.keypoints[labelled][:, :2], keypoints[labelled][:, :2])
    assert sample.target.labels.tolist() == [1, 0]


@pytest.mark.parametrize("form", FORMATS)
def test_images_are_copied_as_they_are(make_detector, scenes, tmp_path, form):
    make_detector("boxes")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = scenes / "turned.jpg"
    Image.new("RGB", (96, 64), (201, 201, 201)).save(turned, exif=exif, quality=100)
    out = predict(tmp_path, turned, form)
    (copy,) = out.rglob("turned.jpg")
    assert copy.read_bytes() == turned.read_bytes()
    (sample,) = read(out).split("train")
    assert sample.size == (96, 64)


def test_frames_of_a_video_are_images(make_detector, tmp_path):
    av = pytest.importorskip("av")
    make_detector("masks")
    path = tmp_path / "street.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=5, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        for i in range(2):
            pixels = np.zeros((64, 64, 3), np.uint8)
            pixels[10 : 20 + i, 10:30] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    out = predict(tmp_path, path, "labelme")
    samples = read(out).split("train")
    assert [sample.image.name for sample in samples] == ["street_0.png", "street_1.png"]
    assert [sample.target.boxes.tolist() for sample in samples] == [[[10, 10, 30, 20]], [[10, 10, 30, 21]]]


def test_corrected_files_are_not_overwritten(make_detector, scenes, tmp_path, capsys):
    make_detector("boxes")
    out = predict(tmp_path, scenes / "street.png", "labelme")
    before = (out / "annotations" / "street.json").read_bytes()
    words = ["predict", str(tmp_path / "detector"), str(out / "annotations" / "street.png"), "--format=labelme"]
    assert main([*words, f"--save={out}"]) == 2
    assert "and its annotations would be overwritten: choose another folder" in capsys.readouterr().err
    assert (out / "annotations" / "street.json").read_bytes() == before


def test_labelme_shows_the_score(make_detector, scenes, tmp_path):
    make_detector("masks")
    content = json.loads((predict(tmp_path, scenes, "labelme") / "annotations" / "street-2.json").read_text())
    assert content["imagePath"] == "street-2.png"
    assert (content["imageHeight"], content["imageWidth"]) == (64, 96)
    scores = {shape["group_id"]: shape["description"] for shape in content["shapes"]}
    assert scores in ({1: "0.781", 2: "0.590"}, {1: "0.938"})


def test_cvat_has_the_labels_of_the_task(make_detector, scenes, tmp_path):
    make_detector("keypoints", classes=("b", "a"))
    root = ElementTree.parse(predict(tmp_path, scenes, "cvat") / "annotations" / "annotations.xml").getroot()
    labels = [
        (label.findtext("name"), label.findtext("type"), label.findtext("parent")) for label in root.iter("label")
    ]
    points = [("left", "points"), ("right", "points")]
    assert labels == [item for name in "ba" for item in ((name, "skeleton", None), *((*p, name) for p in points))]


def test_run_lengths():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    assert list(run_lengths(mask)) == [0, 2, 2, 2]
    assert list(run_lengths(~mask)) == [2, 2, 2]
    assert list(run_lengths(torch.zeros(2, 2, dtype=torch.bool))) == [4]


def test_xml_holds_no_control_characters(tmp_path):
    known = formats("objects")
    assert list(known) == ["coco", "cvat", "labelme", "voc", "yolo"]
    for form in ("cvat", "voc"):
        with pytest.raises(VertebraError, match="has characters that XML cannot hold: choose another format"):
            known[form].writer(tmp_path, WriterOptions(("a\x07",)))


def options_of(scenes, classes):
    return WriterOptions(classes, original=lambda prediction: Path(prediction.path))


@pytest.mark.parametrize("form", ["labelme", "cvat"])
def test_classes_of_whole_images_are_read(scenes, tmp_path, form):
    kind, out = kinds.find("category"), tmp_path / "out"
    out.mkdir()
    paths = [scenes / "street.png", scenes / "more" / "street.png"]
    with kind.writer(out, options_of(scenes, ("zebra & co", "ant")), format=form) as writer:
        for number, (path, values) in enumerate(zip(paths, ((0.9, 0.1), (0.2, 0.8)), strict=True)):
            prediction = Prediction(probabilities=torch.tensor(values), size=(64, 96), path=str(path))
            writer.add(prediction, number, f"{number}.png")
    catalogue = read(out)
    found = {sample.image.stem: catalogue.classes[sample.target.label] for sample in catalogue.split("train")}
    assert found == {"0": "zebra & co", "1": "ant"}


@pytest.mark.parametrize("form", ["labelme", "cvat"])
def test_tags_are_written(scenes, tmp_path, form):
    prediction = Prediction(
        tags=torch.tensor([0.9, 0.1, 0.7]), labels=torch.tensor([0, 2]), size=(64, 96), path=str(scenes / "street.png")
    )
    with kinds.find("tags").writer(tmp_path, options_of(scenes, ("a", "b", "c")), format=form) as writer:
        writer.add(prediction, 1, "1.png")
    if form == "cvat":
        root = ElementTree.parse(tmp_path / "annotations" / "annotations.xml")
        assert [tag.get("label") for tag in root.iter("tag")] == ["a", "c"]
    else:
        content = json.loads((tmp_path / "annotations" / "1.json").read_text())
        assert (content["flags"], content["shapes"]) == ({"a": True, "b": False, "c": True}, [])


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "yolo"])
def test_label_maps_are_read(scenes, tmp_path, form):
    labels = torch.zeros(64, 96, dtype=torch.uint8)
    labels[10:30, 20:50] = 1
    labels[15:20, 25:35] = 0  # a hole
    labels[40:64, 60:96] = 2
    prediction = Prediction(semantic=labels, size=(64, 96), path=str(scenes / "street.png"))
    classes, out = ("background", "ant", "zebra"), tmp_path / "out"
    out.mkdir()
    with kinds.find("semantic").writer(out, options_of(scenes, classes), format=form) as writer:
        writer.add(prediction, 1, "1.png")
    if form == "voc":
        for name in ("a:b", "#hash"):
            with pytest.raises(VertebraError, match=f"class '{name}' cannot stand in labelmap.txt"):
                kinds.find("semantic").writer(out, options_of(scenes, (name, "x", "y")), format=form)
        with Image.open(tmp_path / "out" / "SegmentationClass" / "1.png") as image:
            assert np.array_equal(np.asarray(image), labels.numpy())
        assert (tmp_path / "out" / "labelmap.txt").read_text().splitlines()[1].startswith("background:")
        assert (tmp_path / "out" / "JPEGImages" / "1.png").is_file()
        return
    catalogue = read(tmp_path / "out")
    (sample,) = catalogue.split("train")
    target = sample.load_target((64, 96))
    found = torch.zeros_like(labels)
    for i, label in enumerate(target.labels.tolist()):
        found[target.masks.dense()[i]] = classes.index(catalogue.classes[label])
    assert torch.equal(found, labels)
