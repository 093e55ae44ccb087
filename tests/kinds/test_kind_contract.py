"""One contract for every kind: data, augmentation, views, tiles, drawing, files, report, `vertebra data`."""

import csv
import dataclasses
import inspect
import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra import kinds, tasks
from vertebra.data.catalogue import Catalogue, Sample
from vertebra.data.geometry import Example
from vertebra.errors import VertebraError
from vertebra.kinds import Kind
from vertebra.kinds.coco_results import CocoResults, read_results
from vertebra.kinds.writers import WriterOptions, formats
from vertebra.metrics.classification import ClassificationMetrics
from vertebra.metrics.coco import CocoMetrics
from vertebra.metrics.evaluation import Evaluation
from vertebra.metrics.multilabel import MultilabelMetrics
from vertebra.metrics.pose import PoseMetrics
from vertebra.structures import KeypointSchema, Masks, Prediction, Preprocess, Region, Target
from vertebra.viz import plots, report

SIZE = (48, 64)
CLASSES = ("cat", "dog", "emu")
SCHEMA = KeypointSchema(("nose", "left", "right"), ((0, 1), (0, 2)), (0, 2, 1), (0.1, 0.1, 0.1))
OPTIONS = {"top", "embeddings", "threshold", "tile", "overlap", "annotations", "crops", "scores", "refine"}
OPTIONS |= {"detector", "boxes", "point", "keypoint"}
BOXES = torch.tensor([[4.0, 6.0, 20.0, 30.0], [30.0, 10.0, 60.0, 40.0]])
KEYPOINTS = torch.tensor(
    [
        [[12.0, 8.0, 2.0], [6.0, 20.0, 2.0], [18.0, 21.0, 1.0]],
        [[45.0, 12.0, 2.0], [33.0, 30.0, 2.0], [57.0, 31.0, 2.0]],
    ]
)


def masks() -> Masks:
    """An ellipse in each box, so that no mirror image equals another part."""
    result = Masks(SIZE)
    for x1, y1, x2, y2 in BOXES.int().tolist():
        crop = torch.ones(y2 - y1, x2 - x1, dtype=torch.bool)
        crop[:3, :5] = False
        result.append(x1, y1, crop)
    return result


def example(name: str) -> tuple[Prediction, Target]:
    """A prediction of a kind and the target that it matches."""
    common = {"size": SIZE, "id": 7, "path": "in/7.png"}
    if name == "category":
        return Prediction(probabilities=torch.tensor([0.1, 0.7, 0.2]), path="in/7.png"), Target(
            label=torch.tensor(1), **common
        )
    if name == "tags":
        tags = Prediction(path="in/7.png").with_tags(torch.tensor([0.5, 0.25, 0.75]), 0.0)
        return tags, Target(tags=torch.tensor([0, 2]), **common)
    if name == "number":
        return Prediction(values=torch.tensor([2.25]), path="in/7.png"), Target(boxes=BOXES, **common)
    labels = torch.tensor([2, 0])
    prediction = Prediction(boxes=BOXES, labels=labels, scores=torch.tensor([0.75, 0.5]), **common)
    target = Target(boxes=BOXES, labels=labels, areas=torch.tensor([384.0, 900.0]), **common)
    extra: dict = {"boxes": {}, "masks": {"masks": masks()}, "keypoints": {"keypoints": KEYPOINTS}}
    extra = extra["keypoints" if name == "pose" else name]
    scored = {"keypoints": KEYPOINTS / torch.tensor([1, 1, 2])} if "keypoints" in extra else extra
    return dataclasses.replace(prediction, **scored), dataclasses.replace(target, **extra)


class Merging:
    """What PoseMetrics needs of a task."""

    config: ClassVar = SimpleNamespace(keypoints=SCHEMA, error_pair=())
    classes = CLASSES

    def merge_objects(self, predictions, size):
        assert len(predictions) == 1
        return predictions[0]


class Count:
    """Metrics of the kind `number`."""

    def row(self, prediction, target):
        count, value = len(target.boxes), float(prediction.values)
        return {"target": count, "prediction": value, "error": abs(count - value)}

    def compute(self):
        return {"mae": 0.25}

    names: ClassVar = {"mae": "mean absolute error"}

    def update(self, predictions, targets):
        pass


MAPS = ("saliency", "semantic")
"""Kinds of a value per pixel, which test_maps.py sweeps."""
METRICS = {
    "category": lambda **options: ClassificationMetrics(len(CLASSES), **options),
    "tags": lambda **options: MultilabelMetrics(len(CLASSES), **options),
    "boxes": lambda **options: CocoMetrics(len(CLASSES), ("box",), **options),
    "masks": lambda **options: CocoMetrics(len(CLASSES), ("mask", "boundary", "box"), **options),
    "keypoints": lambda **options: CocoMetrics(len(CLASSES), ("keypoints", "box"), SCHEMA, **options),
    "pose": lambda **options: PoseMetrics(Merging(), **options),
    "number": Count,
}


def equal(a, b) -> bool:
    """Whether two predictions or targets hold the same."""

    def same(x, y):
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            return torch.allclose(x.double(), y.double(), atol=1e-4)
        if isinstance(x, Masks) and isinstance(y, Masks):
            return torch.equal(x.dense(), y.dense())
        return x == y

    return all(same(value, getattr(b, name)) for name, value in vars(a).items())


def catalogue(name: str, tmp_path: Path) -> Catalogue:
    """Two training images, the second a copy of the first, and one to validate."""
    _, target = example(name)
    field = (
        kinds.find(name).target_field
        if name in ("category", "tags")
        else {"boxes", "masks", "keypoints"} & {key for key, value in vars(target).items() if value is not None}
    )
    has = frozenset({field} if isinstance(field, str) else field)
    splits: dict[str, list[Sample]] = {"train": [], "val": []}
    for number, split in enumerate(("train", "train", "val")):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", SIZE[::-1], (90, 30, 60)).save(path)
        splits[split].append(Sample(path, dataclasses.replace(target, id=number, path=str(path))))
    keypoints = SCHEMA if "keypoints" in has else None
    return Catalogue("DATA", "coco", CLASSES, splits, has=has, category_ids=(3, 8, 5), keypoints=keypoints)


@pytest.fixture(params=["boxes", "category", "keypoints", "masks", "number", "pose", "tags"])
def kind(request, number_kind) -> Kind:
    return kinds.find(request.param)


def test_every_kind_is_swept(number_kind):
    others = {"captions", "patches", "sentences", "text_category"}  # see their own tests
    assert set(kinds.names()) == {*METRICS, *MAPS, *others}


def test_every_task_has_a_kind():
    for task in tasks.names():
        for method in tasks.methods(task):
            assert tasks.find(task, method).MODEL.kind in kinds.names()


def test_an_unknown_kind():
    with pytest.raises(VertebraError, match=r"kind is 'boxs'; .*Did you mean 'boxes'\?"):
        kinds.find("boxs")


def test_declarations(kind):
    assert kinds.find(kind.name) is kind
    assert kind.target_field in kind.fields <= Target.__dataclass_fields__.keys()
    assert kind.description
    assert dataclasses.is_dataclass(kind.augment)
    assert kind.augment() == kind.augment()
    assert set(kind.resize_modes) <= {"crop", "squash", "shortest", "fit", "box"}
    assert kind.options <= OPTIONS
    assert ("tile" in kind.options) == ("overlap" in kind.options)
    assert kind.eval_batch_size >= 1
    assert 1.0 in kind.tta_scales


def test_every_method_is_documented():
    members = {name: member for name, member in vars(Kind).items() if inspect.isfunction(member)}
    assert len(members) > 20
    for name, member in members.items():
        assert member.__doc__, name
        assert set(get_type_hints(member)) >= {"return"}, name


# -- data


def test_the_transform_makes_an_input_and_its_target(kind):
    _, target = example(kind.name)
    for resize in kind.resize_modes:
        preprocess = Preprocess(size=(32, 40), resize=resize)
        kind.check(preprocess, kind.augment())
        kind.check(preprocess)
        region = Region(tuple(BOXES[0].tolist()), index=0) if resize == "box" else None
        source = Example(torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8), target, region)
        torch.manual_seed(0)
        transform = kind.transform(kind.augment(), preprocess, SCHEMA)
        result, moved = transform(source, pytest.fail)
        assert result.dtype == torch.float32
        assert result.ndim == 3
        assert getattr(moved, kind.target_field) is not None
        assert moved.path == target.path
        if resize in ("crop", "squash", "box"):
            assert result.shape == (3, 32, 40)


def test_the_default_transform_moves_the_target_with_the_image():
    transform = Kind().transform(None, Preprocess(size=(24, 32), resize="squash"))
    _, target = example("masks")
    target.semantic = torch.arange(48 * 64).reshape(SIZE)
    image, moved = transform(Example(torch.zeros(3, *SIZE, dtype=torch.uint8), target), lambda: None)
    assert image.shape == (3, 24, 32)
    assert torch.allclose(moved.boxes, BOXES / 2)
    assert moved.masks.size == moved.semantic.shape == (24, 32)


def test_a_mixed_batch_keeps_its_size(kind):
    switches = {"mixup": 1.0} if "mixup" in kind.augment.__dataclass_fields__ else {}
    mix = kind.batch_transform(kind.augment(**switches), len(CLASSES))
    assert (mix is not None) == bool(switches)
    if mix is not None:
        _, target = example(kind.name)
        images, targets = mix(torch.rand(2, 3, 8, 8), [target, target])
        assert images.shape == (2, 3, 8, 8)
        assert len(targets) == 2
        assert all(getattr(t, kind.target_field) is not None for t in targets)


def test_objects_are_not_cropped_off_and_copy_paste_needs_masks(kind):
    if "shortest" in kind.resize_modes and kind.name not in ("category", "number"):
        with pytest.raises(VertebraError, match=f"resize is 'crop', .* a task that learns {kind.target_field} needs"):
            kind.check(Preprocess(resize="crop"))
    if "copy_paste" in kind.augment.__dataclass_fields__ and kind.name not in ("masks", "number"):
        with pytest.raises(VertebraError, match=r"augment.copy_paste is 0.5, but it cuts objects out by their masks"):
            kind.check(Preprocess(resize="fit"), kind.augment(copy_paste=0.5))


def test_padding_fills_label_maps_and_leaves_the_rest(kind):
    _, target = example(kind.name)
    target.semantic = torch.ones(SIZE, dtype=torch.int64)
    padded = kind.pad(target, (64, 64))
    assert padded.semantic.shape == (64, 64)
    assert (padded.semantic[:48, :64] == 1).all()
    assert (padded.semantic[48:] == 255).all()
    assert equal(dataclasses.replace(padded, semantic=None), dataclasses.replace(target, semantic=None))
    target.semantic = None
    assert equal(kind.pad(target, (64, 64)), target)


def test_the_data_must_have_the_target(kind, tmp_path, monkeypatch):
    """The sentence says what to train instead."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / name / f"{i}.png")
    if kind.target_field == "tags":
        assert kind.open(tmp_path).has == {"tags"}  # the one class of each image
        maps = dataclasses.replace(catalogue("boxes", tmp_path), has=frozenset({"semantic"}))
        monkeypatch.setattr("vertebra.data.reading.read", lambda *_, **__: maps)
        with pytest.raises(VertebraError, match=r"has label maps but no tags: train saliency or semantic on it\.$"):
            kind.read(tmp_path)
    elif kind.target_field == "label":
        assert kind.open(tmp_path).splits.keys() == {"train", "val"}
        assert kind.read(tmp_path).splits.keys() == {"train"}
        monkeypatch.setattr("vertebra.data.reading.read", lambda *_, **__: catalogue("boxes", tmp_path))
        with pytest.raises(VertebraError, match=r"has boxes but no classes of whole images: train detection on it\.$"):
            kind.read(tmp_path)
    else:
        with pytest.raises(VertebraError, match=r"no (boxes|masks|keypoints): train classification on it\.$"):
            kind.open(tmp_path)


def test_a_classifier_needs_two_classes(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "0.png")
    with pytest.raises(VertebraError, match=r"has one class only \('a'\)"):
        kinds.find("category").open(tmp_path)
    assert kinds.find("category").read(tmp_path).classes == ("a",)  # to be evaluated on


def test_the_kind_of_a_dataset(kind, tmp_path):
    data = catalogue(kind.name, tmp_path)
    assert kinds.of(data).name == {"number": "boxes", "pose": "keypoints"}.get(kind.name, kind.name)
    data.has = frozenset({"boxes", "masks", "label"})
    assert kinds.of(data).name == "masks"
    data.has = frozenset()
    with pytest.raises(VertebraError, match="has nothing that a task could learn"):
        kinds.of(data)


def test_options_that_the_data_decides(kind, tmp_path):
    data = catalogue(kind.name, tmp_path)
    assert kind.model_options(data) == ({"keypoints": SCHEMA} if kind.target_field == "keypoints" else {})
    about = {"metrics": {"threshold": 0.25, "thresholds": [0.25, 0.5, 0.75]}}
    METRICS[kind.name](**kind.metric_options({}, data))
    metrics = METRICS[kind.name](**kind.metric_options(about, data))
    if kind.name == "tags":
        assert metrics.thresholds == [0.25, 0.5, 0.75]
    elif "threshold" in kind.options:
        assert metrics.threshold == 0.25
    if kind.name == "keypoints":
        assert metrics.sigmas.tolist() == [0.1, 0.1, 0.1]


def test_balance_weighs_by_inverse_frequency(tmp_path):
    category = kinds.find("category")
    data = catalogue("category", tmp_path)
    with pytest.raises(VertebraError, match="class 'cat' has no training images to balance"):
        category.model_options(data, balance=True)
    for label, number in enumerate((1, 2, 1)):
        target = Target(label=torch.tensor(label))
        data.splits["train"] += [Sample(torch.zeros(3, 4, 4), target)] * number
    data.splits["train"] = data.splits["train"][2:]
    assert category.model_options(data, balance=True) == {"class_weights": pytest.approx((4 / 3, 2 / 3, 4 / 3))}


# -- predictions


def test_two_flips_are_none(kind):
    prediction, _ = example(kind.name)
    flipped = kind.flip(prediction, SIZE[1], SCHEMA)
    assert equal(kind.flip(flipped, SIZE[1], SCHEMA), prediction)
    if prediction.boxes is not None:
        assert not equal(flipped, prediction)
        assert flipped.boxes[0].tolist() == [44, 6, 60, 30]


def test_equal_views_merge_to_themselves(kind):
    prediction, _ = example(kind.name)
    merged = kind.merge_views([prediction, kind.flip(kind.flip(prediction, SIZE[1], SCHEMA), SIZE[1], SCHEMA)])
    assert equal(merged, prediction)


def test_tiles_merge_to_the_whole(kind):
    prediction, _ = example(kind.name)
    if "tile" not in kind.options:
        return
    size = (SIZE[0], 2 * SIZE[1])
    tiles = kind.tiles(size, SIZE[1], 0.25)
    assert len(tiles) == 3
    empty = prediction.take([])
    merged = kind.merge_tiles([prediction, *[empty] * (len(tiles) - 1)], tiles, size)
    assert torch.equal(merged.boxes, prediction.boxes)
    assert torch.equal(merged.scores, prediction.scores)
    assert merged.size == size
    if prediction.masks is not None:
        assert torch.equal(merged.masks.dense()[:, :, : SIZE[1]], prediction.masks.dense())


def test_the_threshold_keeps_and_counts(kind):
    prediction, _ = example(kind.name)
    assert equal(kind.filter(prediction, 0.0)[0], prediction)
    kept, below = kind.filter(prediction, 0.75)
    if kind.name == "tags":  # which are chosen anew, so that none is dropped
        assert (below, kept.scores.tolist()) == (0, [0.75])
        assert kind.filter(kept, (0.5, 0.3, 0.8))[0].labels.tolist() == [0]
    elif "threshold" in kind.options:
        assert below == 1
        assert kept.scores.tolist() == [0.75]
        assert kind.filter(prediction, 0.76)[1] == 2
    else:
        assert below == 0
        assert equal(kept, prediction)


SUMMARIES = {
    "category": ("dog 0.700  emu 0.200", "2 dog"),
    "number": ("count 2.2", "count 2.2"),
    "tags": ("emu 0.750  cat 0.500  dog 0.250", "2 cat, 2 dog, 2 emu"),
}


def test_a_line_per_image_and_per_video(kind):
    prediction, _ = example(kind.name)
    line, video = SUMMARIES.get(kind.name, ("1 cat, 1 emu", "2 cat, 2 emu"))
    assert kind.summarize([prediction], CLASSES, 2) == line
    assert kind.summarize([prediction, prediction], CLASSES, 2) == video
    if prediction.boxes is not None:
        assert kind.summarize([prediction.take([])], CLASSES) == "nothing"


@pytest.mark.parametrize("channels", [1, 3])
def test_drawing(kind, channels):
    prediction, _ = example(kind.name)
    image = torch.full((channels, 200, 300), 90, dtype=torch.uint8)
    drawn = kind.draw(image, prediction, CLASSES, keypoints=SCHEMA, threshold=0.1, top=2)
    assert drawn.mode == "RGB"
    assert drawn.width == 300
    assert drawn.height >= 200
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 1
    assert (image == 90).all()
    if "threshold" in kind.options:
        assert (np.asarray(kind.draw(image, prediction, CLASSES, threshold=0.9)) == 90).all()


def test_drawing_the_ground_truth(kind):
    _, target = example(kind.name)
    image = torch.full((3, 200, 300), 90, dtype=torch.uint8)
    drawn = np.asarray(kind.draw_target(image, target, CLASSES, keypoints=SCHEMA))
    assert drawn.shape[1] == 300
    assert drawn.shape[0] >= 200
    assert (drawn == 90).all() == (kind.name == "number")  # which has no drawing
    names = {name for name, _ in kind.legend([target], CLASSES)}
    assert names == ({"cat", "emu"} if kind.objects else set())
    assert kind.legend([target], ("thing",)) == []


def test_long_class_names_are_cut_in_captions():
    name = "a_name_of_one_word_that_goes_on_and_on_for_more_than_forty_letters"
    caption = kinds.find("category").caption(Prediction(probabilities=torch.tensor([1.0])), (name,))
    assert caption == [(f"{name[:39]}…  100.0%", 1.0)]


def test_written_predictions_can_be_read_back(kind, tmp_path):
    prediction, target = example(kind.name)
    out = tmp_path / "out"
    out.mkdir()
    with kind.writer(out, WriterOptions(CLASSES), top=2) as writer:
        writer.add(prediction, 7, "7.png")
        writer.add(dataclasses.replace(prediction, path="in/8.png", id=None), 8, "8.png")
    assert {path.name for path in out.iterdir()} == set(writer.files)
    content = json.loads((out / "predictions.json").read_text())
    rows = list(csv.DictReader((out / "predictions.csv").open(newline="")))
    assert rows[0]["path"] == "in/7.png"
    assert rows[-1]["path"] == "in/8.png"
    if kind.name == "category":
        ranked = [{"class": "dog", "probability": 0.7}, {"class": "emu", "probability": 0.2}]
        assert content[0] == {"path": "in/7.png", "drawn": "7.png", "classes": ranked}
        assert rows[0] == {"path": "in/7.png", "class": "dog", "probability": "0.7"}
    elif kind.name == "tags":
        assert [tag["class"] for tag in content[0]["tags"]] == ["emu", "cat", "dog"]
        assert rows[0] == {"path": "in/7.png", "tags": "emu;cat;dog", "probabilities": "0.75;0.5;0.25"}
    elif kind.name == "number":
        assert content[0] == {"path": "in/7.png", "drawn": "7.png", "value": 2.25}
        assert rows[1] == {"path": "in/8.png", "value": "2.25"}
    else:
        samples = [Sample(Path(f"{i}.png"), dataclasses.replace(target, id=i, path=f"in/{i}.png")) for i in (7, 8)]
        data = Catalogue("DATA", "coco", CLASSES, {"val": samples}, keypoints=SCHEMA)
        results = read_results(out / "predictions.json")
        assert results.kind is (kinds.find("keypoints") if kind.name == "pose" else kind)
        evaluation = results.evaluate(data, "val")
        assert [row["true_positives"] for row in evaluation.rows] == [2, 2]
        one_missed = CocoResults("x.json", content[1:]).evaluate(data, "val")
        assert equal(one_missed.predictions[0], prediction.take([1]))


def test_interrupted_writers_leave_nothing(kind, tmp_path):
    prediction, _ = example(kind.name)
    with pytest.raises(KeyboardInterrupt), kind.writer(tmp_path, WriterOptions(CLASSES)) as writer:  # noqa: PT012
        writer.add(prediction, 1, "1.png")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_the_kind_does_not_have(kind, tmp_path):
    known = list(formats(kind.contents)) or ["records"]
    with pytest.raises(VertebraError, match=rf"format is 'pt'; there are {', '.join(known)}\."):
        kind.writer(tmp_path, WriterOptions(CLASSES), format="pt")


def test_a_prediction_in_other_forms(kind):
    """Its record is plain JSON; the rows of a table have the same columns; what a kind has no form for is refused."""
    prediction, _ = example(kind.name)
    prediction.classes = CLASSES
    assert json.loads(json.dumps(kind.record(prediction, CLASSES))) == kind.record(prediction, CLASSES)
    rows = kind.rows(prediction, CLASSES)
    assert rows
    assert all(row.keys() == rows[0].keys() for row in rows)
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    if "crops" in kind.options:
        assert [crop.size for _, crop in kind.crops(image, prediction)] == [(16, 24), (30, 30)]
        entries = kind.to_coco(prediction, 7, (3, 8, 5))
        assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(7, 5), (7, 3)]
    else:
        with pytest.raises(VertebraError, match="crops are of objects; this model predicts"):
            kind.crops(image, prediction)
        with pytest.raises(VertebraError, match="COCO results are of objects; this model predicts"):
            kind.to_coco(prediction, 7, (3, 8, 5))


# -- evaluation


class Balanced(HTMLParser):
    """Fails if a tag is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        if tag not in ("img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_the_report(kind, tmp_path, monkeypatch):
    """An image predicted well and one predicted badly."""
    prediction, _ = example(kind.name)
    data = catalogue(kind.name, tmp_path)
    samples = data.splits["train"]
    bad = {
        "category": Prediction(probabilities=torch.tensor([0.7, 0.1, 0.2])),
        "number": Prediction(values=torch.tensor([9.0])),
        "tags": Prediction().with_tags(torch.tensor([0.1, 0.9, 0.3])),
    }.get(kind.name, prediction if prediction.boxes is None else prediction.take([]))
    metrics = METRICS[kind.name](**kind.metric_options({}, data))
    predictions, rows = [prediction, bad], []
    for index, (sample, predicted) in enumerate(zip(samples, predictions, strict=True)):
        complete = sample.load_target(SIZE)
        metrics.update([predicted], [complete])
        rows.append({"index": index, "path": sample.target.path, **metrics.row(predicted, complete)})
    evaluation = Evaluation(
        metrics.compute(),
        rows,
        classes=CLASSES,
        names=metrics.names,
        predictions=dict(enumerate(predictions)),
        keypoints=data.keypoints,
    )
    sections = dict(kind.sections(evaluation, samples))
    assert "Most wrong" in sections
    for content in sections.values():
        Balanced(content)
    assert sections["Most wrong"].count("<figure") == len(evaluation.worst(9)) >= 1
    assert "1.png" in sections["Most wrong"]
    report.save(tmp_path / "out", title="t", kind=kind, evaluation=evaluation, samples=samples)
    images = json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"]
    assert len(images) == 2
    if kind.name == "category":
        assert [images[1]["target"], images[1]["prediction"]] == ["dog", "cat"]
    if kind.name == "tags":
        assert [images[1]["target"], images[1]["prediction"]] == [["cat", "emu"], ["dog"]]
        assert "missing <b>cat, emu</b><br>wrong <b>dog</b>" in sections["Most wrong"]
    monkeypatch.setattr(plots, "plot", lambda figure, description: "")  # which take long, and were drawn above
    samples[1].image.unlink()
    assert "there is no such file" in dict(kind.sections(evaluation, samples))["Most wrong"]
    perfect = dataclasses.replace(evaluation, rows=[{**row, "error": 0.0} for row in rows])
    assert "No image was predicted wrongly." in dict(kind.sections(perfect, samples))["Most wrong"]


# -- `vertebra data`


def test_the_contents_of_a_dataset(kind, tmp_path):
    data = catalogue(kind.name, tmp_path)
    targets = {}
    for split, samples in data.splits.items():
        for sample in samples:
            target, problems = kind.inspect_sample(sample, SIZE)
            assert problems == []
            targets.setdefault(split, []).append(target)
    tables = kind.tables(data, targets)
    assert tables
    for table in tables:
        assert [str(column.header).split("\n")[0] for column in table.columns][1] == "train"
    for note in kind.notes(data):
        assert not note.endswith(".")
    counts = data.counts("train", kind.labels)
    expected = {"category": [0, 2, 0], "number": [0, 0, 0]}
    assert counts == expected.get(kind.name, [2, 0, 2])


def test_differences_of_equal_images(kind):
    _, target = example(kind.name)
    assert kind.difference(target, dataclasses.replace(target), CLASSES) == ""
    if kind.name == "category":
        other = dataclasses.replace(target, label=torch.tensor(2))
        assert kind.difference(target, other, CLASSES) == "classes 'dog' and 'emu'"
    elif kind.name == "tags":
        other = dataclasses.replace(target, tags=torch.tensor([], dtype=torch.int64))
        assert kind.difference(target, other, CLASSES) == "tags 'cat', 'emu' and none"
    else:
        other = dataclasses.replace(target, boxes=target.boxes + 1)
        assert kind.difference(target, other, CLASSES) == ("other boxes" if kind.name == "number" else "other objects")


def test_an_image_of_another_size_than_annotated(kind, tmp_path):
    sample = catalogue(kind.name, tmp_path).splits["val"][0]
    _, problems = kind.inspect_sample(sample, (64, 48))
    if kind.name in ("category", "tags"):
        assert problems == []
    else:
        assert len(problems) == 1
        assert "the image is 64 x 48 pixels, its annotations are for 48 x 64 (height x width)" in problems[0]


def test_notes_on_uneven_classes(tmp_path):
    data = catalogue("boxes", tmp_path)
    labels = torch.tensor([0, 0, 0, 2])
    data.splits["train"] = [Sample(torch.zeros(3, 4, 4), Target(boxes=torch.zeros(4, 4), labels=labels))]
    assert kinds.find("boxes").notes(data) == [
        "1 of 3 classes have no object in train: dog",
        "classes are uneven (1 to 3 objects, fewest 'emu')",
    ]
    data.splits["train"] = [Sample(torch.zeros(3, 4, 4), Target(label=torch.tensor(0)))] * 3
    assert kinds.find("category").notes(data) == [
        "classes are uneven (0 to 3 images, fewest 'dog'): consider --balance"
    ]
    data.splits.pop("train")
    assert kinds.find("category").notes(data) == []
