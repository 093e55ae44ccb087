"""Label maps and saliency maps: merged over views and tiles, drawn, written and counted."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import kinds, tasks
from vertebra.data.formats import shapes
from vertebra.errors import VertebraError
from vertebra.kinds.maps import _ramp
from vertebra.kinds.writers import WriterOptions
from vertebra.metrics.evaluation import Evaluation
from vertebra.ops import resample
from vertebra.ops.resample import label_map, resampled
from vertebra.structures import Prediction, Preprocess, Target
from vertebra.viz import maps

SEMANTIC, SALIENCY = kinds.find("semantic"), kinds.find("saliency")
CLASSES = ("background", *shapes.CLASSES)


@pytest.fixture
def few_shapes(monkeypatch):
    """The built-in shapes, few of them: drawing all takes seconds."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 20, "val": 2})
    return SEMANTIC.read("shapes")


def logits(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_view_is_the_prediction():
    x = logits(0, 5, 6, 8)
    finished = SEMANTIC.finish(SEMANTIC.merge_views([Prediction(logits=x, size=(24, 32))]))
    assert (finished.semantic == label_map(x, (24, 32))).float().mean() > 0.99
    assert finished.logits is None


def test_views_are_averaged_as_probabilities():
    sure, unsure = torch.tensor([[[9.0]], [[0.0]]]), torch.tensor([[[0.0]], [[20.0]]])
    merged = SEMANTIC.merge_views([Prediction(logits=x, size=(1, 1)) for x in (sure, sure, unsure)])
    shares = SEMANTIC.probabilities(merged.logits).flatten().tolist()
    assert shares == pytest.approx([2 / 3, 1 / 3], abs=1e-3)


def test_a_flipped_view_is_flipped_back():
    x = logits(0, 3, 4, 6)
    flipped = SEMANTIC.flip(Prediction(logits=x.flip(2), size=(8, 12)), 12)
    assert torch.equal(flipped.logits, x)


@pytest.mark.parametrize("kind", [SEMANTIC, SALIENCY], ids=lambda kind: kind.name)
def test_tiles_of_one_map_give_the_map(kind):
    size, num_classes = (40, 56), 4 if kind is SEMANTIC else 1
    whole = 3 * logits(1, num_classes, *size)
    tiles = kind.tiles(size, 24, 0.25)
    assert len({tile.row for tile in tiles}) > 1
    parts = (
        Prediction(logits=whole[:, y1:y2, x1:x2], size=(y2 - y1, x2 - x1)) for x1, y1, x2, y2 in (t.box for t in tiles)
    )
    merged = kind.merge_tiles(parts, tiles, size)
    if kind is SEMANTIC:
        assert torch.equal(merged.semantic, whole.argmax(0).to(torch.uint8))
    else:
        torch.testing.assert_close(merged.saliency, whole[0].sigmoid())


@pytest.mark.parametrize(
    ("size", "overlap"), [((40, 56), 0.25), ((40, 30), 0.5), ((25, 60), 0.2), ((24, 60), 0.2), ((24, 24), 0.2)]
)
@pytest.mark.parametrize("band", [1, 24 * 5, 1 << 18])
def test_tiles_are_averaged_by_their_weights(size, overlap, band, monkeypatch):
    """As if the sums of the whole image were in memory; up to three tiles of 24 pixels overlap in each direction."""
    monkeypatch.setattr(resample, "BAND", band)
    tiles = SALIENCY.tiles(size, 24, overlap)
    parts = [logits(i, 1, min(24, size[0]), min(24, size[1])) for i in range(len(tiles))]
    total, weight = torch.zeros(size), torch.zeros(size)
    for part, tile in zip(parts, tiles, strict=True):
        x1, y1, x2, y2 = tile.box
        share = _ramp(y2 - y1)[:, None] * _ramp(x2 - x1)
        total[y1:y2, x1:x2] += share * part[0].sigmoid()
        weight[y1:y2, x1:x2] += share
    merged = SALIENCY.merge_tiles([Prediction(logits=part) for part in parts], tiles, size)
    torch.testing.assert_close(merged.saliency, total / weight)


def test_logits_of_padding_are_left_out():
    model = tasks.create(
        "semantic",
        backbone="resnet18",
        backbone_options={"depths": (1, 1, 1, 1)},
        channels=8,
        classes=3,
        preprocess=Preprocess((32, 64), resize="shortest"),
    ).eval()
    from vertebra.images import frame_of

    frame = frame_of((32, 40), model.preprocess)
    assert frame.resized == (32, 40)
    with torch.inference_mode():
        images = logits(2, 1, 3, 32, 64)
        (kept,) = model.infer(images, [frame], merging=True)
        (plain,) = model.infer(images, [frame])
    assert kept.logits.shape == (3, 8, 10)
    assert (label_map(kept.logits, (32, 40)) == plain.semantic).float().mean() > 0.95
    assert resampled(kept.logits, (8, 10)).shape == (3, 8, 10)


def test_balance_follows_the_share_of_the_pixels(few_shapes):
    weights = SEMANTIC.model_options(few_shapes, balance=True)["class_weights"]
    counts = sum(torch.bincount(s.target.semantic.flatten().int(), minlength=7) for s in few_shapes.splits["train"])
    raw = [1 / math.log(1.02 + share) for share in (counts / counts.sum()).tolist()]
    assert weights == pytest.approx([value / (sum(raw) / 7) for value in raw], abs=1e-5)
    assert weights[0] == min(weights)


def test_shares_are_written_with_the_map(tmp_path):
    labels = torch.tensor([[0, 0, 1], [0, 2, 2]], dtype=torch.uint8)
    prediction = Prediction(semantic=labels, size=(2, 3), path="photos/a.jpg")
    with SEMANTIC.writer(tmp_path, WriterOptions(("road", "sky", "car", "tree"))) as writer:
        writer.add(prediction, 1, "a.png")
    (row,) = csv.DictReader((tmp_path / "predictions.csv").open())
    assert row == {"path": "photos/a.jpg", "road": "0.5", "sky": "0.166667", "car": "0.333333", "tree": "0.0"}
    with Image.open(tmp_path / "maps" / "a.png") as file:
        assert file.mode == "P"
        assert np.asarray(file).tolist() == labels.tolist()
        assert file.getpalette()[:3] == maps.palette(4)[0].tolist()


def test_saliency_is_written_as_a_grey_image(tmp_path):
    prediction = Prediction(saliency=torch.tensor([[0.0, 0.5, 1.0]]), size=(1, 3), path="a.jpg")
    with SALIENCY.writer(tmp_path, WriterOptions(("background", "salient object"))) as writer:
        writer.add(prediction, 1, "")
    with Image.open(tmp_path / "maps" / "a.png") as file:
        assert np.asarray(file).tolist() == [[0, 128, 255]]


def written(kind, tmp_path, classes, *predictions):
    """instances.json of predictions in a folder."""
    with kind.writer(tmp_path, WriterOptions(classes), format="coco") as writer:
        for number, prediction in enumerate(predictions, 1):
            writer.add(prediction, number, "a.png")
    assert {path.name for path in tmp_path.iterdir()} >= {
        "instances.json",
        "predictions.csv",
        "predictions.json",
        "maps",
    }
    assert [f for f in writer.files if not (tmp_path / f).exists()] == []
    return json.loads((tmp_path / "instances.json").read_text())


def test_regions_by_hand(tmp_path):
    labels = torch.tensor([[0, 0, 1], [0, 2, 2]], dtype=torch.uint8)
    prediction = Prediction(semantic=labels, size=(2, 3), path="photos/a.jpg")
    content = written(SEMANTIC, tmp_path, ("road", "sky", "car", "tree"), prediction)
    assert content["images"] == [{"id": 1, "file_name": "photos/a.jpg", "height": 2, "width": 3}]
    assert content["categories"] == [{"id": i, "name": n} for i, n in enumerate(("road", "sky", "car", "tree"), 1)]
    expected = [
        (1, [0, 0, 2, 2], 3, [0, 0, 2, 0, 2, 1, 1, 1, 1, 2, 0, 2]),
        (2, [2, 0, 1, 1], 1, [2, 0, 3, 0, 3, 1, 2, 1]),
        (3, [1, 1, 2, 1], 2, [1, 1, 3, 1, 3, 2, 1, 2]),
    ]
    assert content["annotations"] == [
        {
            "id": number,
            "image_id": 1,
            "category_id": number,
            "segmentation": [polygon],
            "bbox": box,
            "area": area,
            "iscrowd": 0,
        }
        for number, box, area, polygon in expected
    ]


def test_salient_regions_have_the_mean_as_score(tmp_path):
    saliency = torch.tensor([[0.5, 0.75, 0.25], [0.0, 0.0, 1.0]])
    prediction = Prediction(saliency=saliency, size=(2, 3), path="a.jpg", id=9)
    content = written(SALIENCY, tmp_path, ("background", "salient object"), prediction)
    assert content["categories"] == [{"id": 1, "name": "salient object"}]
    assert content["images"][0]["id"] == 9
    values = [(a["image_id"], a["category_id"], a["bbox"], a["score"]) for a in content["annotations"]]
    assert values == [(9, 1, [0, 0, 2, 1], 0.625), (9, 1, [2, 1, 1, 1], 1.0)]


@pytest.mark.parametrize("classes", [("background", "cell", "dust"), ("road", "sky", "car")])
def test_regions_are_read_back_as_the_label_map(tmp_path, classes):
    """By the reader of COCO, which paints them behind a background, and by COCO's own tools; pixel by pixel."""
    pycocotools = pytest.importorskip("pycocotools.coco")
    random = np.random.default_rng(0)
    labels = [torch.from_numpy((random.random((2, 40, 30)) ** 2 * 3).astype(np.uint8).repeat(s, 1)) for s in (1, 3)]
    maps_ = [x[0] for x in labels]
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    out.mkdir()
    predictions = []
    for i, x in enumerate(maps_):
        Image.new("RGB", (x.shape[1], x.shape[0])).save(images / f"{i}.png")
        predictions.append(Prediction(semantic=x, size=tuple(x.shape), path=str(images / f"{i}.png")))
    content = written(SEMANTIC, out, classes, *predictions)
    assert [image["file_name"] for image in content["images"]] == ["../images/0.png", "../images/1.png"]
    first = int(classes[0] == "background")
    data = SEMANTIC.read(out / "instances.json")
    assert data.problems == []
    assert data.classes == ("background", *classes[first:])
    coco = pycocotools.COCO(str(out / "instances.json"))
    for i, (sample, x) in enumerate(zip(data.split("train"), maps_, strict=True), 1):
        assert sample.target.path.endswith(f"images/{i - 1}.png")
        painted = sample.load_target(tuple(x.shape)).semantic
        assert torch.equal(painted, x + 1 - first)
        again = np.zeros(x.shape, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(i)):
            mask = coco.annToMask(annotation)
            assert mask.sum() == annotation["area"]
            again += mask * np.uint8(annotation["category_id"])
        assert np.array_equal(again, painted.numpy())


def test_frames_of_a_video_have_their_own_maps(tmp_path):
    frames = [Prediction(semantic=torch.zeros(2, 2, dtype=torch.uint8), path=f"in/street.mp4#{i}") for i in (0, 5)]
    with SEMANTIC.writer(tmp_path, WriterOptions(("road",))) as writer:
        for frame in frames:
            writer.add(frame, 1, "street.mp4")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["street_0.png", "street_5.png"]


@pytest.mark.parametrize("kind", [SEMANTIC, SALIENCY], ids=lambda kind: kind.name)
def test_a_format_that_maps_do_not_have(kind, tmp_path):
    sentence = rf"format is 'yolo'; {kind.description} are written as PNG files, with 'coco' as polygons too, or for "
    with pytest.raises(VertebraError, match=sentence):
        kind.writer(tmp_path, WriterOptions(CLASSES), format="yolo")


@pytest.mark.parametrize("kind", [SEMANTIC, SALIENCY], ids=lambda kind: kind.name)
def test_an_interrupted_writer_leaves_no_annotations(kind, tmp_path):
    field = {"semantic": torch.zeros(2, 2, dtype=torch.uint8)} if kind is SEMANTIC else {"saliency": torch.ones(2, 2)}
    with pytest.raises(KeyboardInterrupt), kind.writer(tmp_path, WriterOptions(CLASSES), format="coco") as writer:  # noqa: PT012
        writer.add(Prediction(**field, path="a.jpg"), 1, "a.png")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


def test_drawings():
    image = torch.full((3, 40, 300), 100, dtype=torch.uint8)
    labels = torch.zeros(40, 300, dtype=torch.uint8)
    labels[:, 150:] = 1
    drawn = SEMANTIC.draw(image, Prediction(semantic=labels), ("road", "sky"))
    assert drawn.width == 300
    assert drawn.height > 40
    left, right = drawn.getpixel((10, 10)), drawn.getpixel((290, 10))
    expected = 100 * (1 - maps.OPACITY) + maps.OPACITY * maps.palette(2)
    assert left == pytest.approx(tuple(expected[0]), abs=1)
    assert right == pytest.approx(tuple(expected[1]), abs=1)
    dark = SALIENCY.draw(image, Prediction(saliency=(labels == 1).float()), ("a", "b"))
    assert dark.getpixel((10, 10))[0] == pytest.approx(20, abs=1)
    assert dark.getpixel((290, 10))[0] == pytest.approx(100, abs=1)


def test_errors_are_red_and_ignored_pixels_black():
    labels = torch.tensor([[0, 1, 255]], dtype=torch.uint8)
    pixels = np.asarray(maps.errors(torch.tensor([[0, 0, 0]], dtype=torch.uint8), labels))
    assert pixels.tolist() == [[list(maps.CORRECT), list(maps.WRONG), [0, 0, 0]]]


def test_the_report_has_the_worst_images(few_shapes):
    sample = few_shapes.split("val")[0]
    target = sample.load_target((128, 128))
    model = tasks.create("semantic", backbone="resnet18", channels=8, classes=CLASSES)
    metrics, prediction = model.metrics(), Prediction(semantic=torch.zeros(128, 128, dtype=torch.uint8))
    metrics.update([prediction], [target])
    row = {"index": 0, "path": "a.png", **metrics.row(prediction, target)}
    evaluation = Evaluation(metrics.compute(), [row], classes=CLASSES, names=metrics.names, predictions={0: prediction})
    sections = dict(SEMANTIC.sections(evaluation, [sample]))
    assert set(sections) == {"Classes", "Confusion matrix, in pixels", "Most wrong"}
    assert sections["Most wrong"].count("<img") == 3


def test_every_class_is_counted_in_pixels(few_shapes):
    sample = few_shapes.split("val")[0]
    target, problems = SEMANTIC.inspect_sample(sample, (128, 128))
    assert not problems
    assert int(target.areas.sum()) == 128 * 128
    ignored = Target(semantic=torch.full((4, 4), 255, dtype=torch.uint8), path="a.png")
    _, problems = SEMANTIC.inspect_sample(type(sample)(torch.zeros(3, 4, 4, dtype=torch.uint8), ignored), (4, 4))
    assert problems == ["a.png: every pixel of its label map is ignored."]


def test_label_maps_for_supervision():
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[10:20, 5:9] = 2
    labels[30:35, 50:60] = 255  # ignored
    prediction, library = Prediction(semantic=labels, size=(40, 60)), SimpleNamespace(Detections=dict)
    kind = kinds.find("semantic")
    found = kind.to_supervision(prediction, ("background", "ant", "zebra"), library)
    assert found["xyxy"].tolist() == [[5, 10, 9, 20]]
    assert (found["class_id"].tolist(), found["data"]["class_name"].tolist()) == ([2], ["zebra"])
    assert np.array_equal(found["mask"][0], labels.numpy() == 2)
    assert kind.to_supervision(prediction, ("sky", "ant", "zebra"), library)["class_id"].tolist() == [0, 2]
    empty = kind.to_supervision(Prediction(semantic=0 * labels), ("background", "ant"), library)
    assert (empty["xyxy"].shape, empty["mask"].shape) == ((0, 4), (0, 40, 60))
