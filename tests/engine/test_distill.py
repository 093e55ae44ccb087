"""Distillation: the losses, the teacher's input, its classes and files, unlabelled images, and resumed runs."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from safetensors.torch import load_file

import vertebra
from vertebra.cli import main
from vertebra.data.catalogue import Catalogue
from vertebra.data.loader import Batch, BatchSampler, MixedSampler
from vertebra.engine import checkpoint, distill
from vertebra.engine.settings import Distill, resolve
from vertebra.engine.train import check_unlabelled
from vertebra.errors import VertebraError
from vertebra.structures import Level, Preprocess, Target
from vertebra.tasks import Task

CLASSES = ("cat", "dog")
TEACHER = {"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1)}}
STUDENT = {"backbone": "deit_tiny_16_distilled", "backbone_options": {"width": 8, "depth": 1, "heads": 2}}
HALF = (0.5, 0.5, 0.5)


def classifier(options=TEACHER, classes=CLASSES, **preprocess):
    torch.manual_seed(len(classes))
    return vertebra.create(
        "classification", classes=classes, preprocess=Preprocess(**{"size": (32, 32), **preprocess}), **options
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A classifier of another input size, preprocessing and order of the classes than the students have."""
    path = tmp_path_factory.mktemp("teacher") / "best.safetensors"
    checkpoint.save(classifier(classes=("dog", "cat"), size=(48, 48), mean=HALF, std=HALF), path, epoch=1)
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory, photos) -> Path:
    """Four training and two val images of `photos`."""
    folder = tmp_path_factory.mktemp("few") / "few"
    for split, count in (("train", 2), ("val", 1)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                shutil.copy(photos / split / name / f"{i}.png", folder / split / name)
    return folder


@pytest.fixture(scope="module")
def further(tmp_path_factory) -> Path:
    """A folder of five images without labels."""
    folder = tmp_path_factory.mktemp("further") / "unlabelled"
    folder.mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def train(output, data, teacher, loss="soft", *, callbacks=(), resume=None, **more):
    options = {"epochs": 2, "image_size": 32, "batch_size": 2, "workers": 0, "device": "cpu", "logger": []}
    distilled = {"teacher": teacher, "distill": {"loss": loss, **more.pop("distill", {})}}
    run = {"resume": resume} if resume else {**options, **distilled, "output": output, "model": STUDENT, **more}
    return vertebra.train("classification", data=data, callbacks=callbacks, **run)


# -- losses


def test_the_losses_of_two_classes():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])  # 1/2, 1/2 and 3/4, 1/4
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(distill.soft(student, teacher)) == pytest.approx(divergence)
    warm = distill.soft(student, 2 * teacher, temperature=2.0)  # the same probabilities, times its square
    assert float(warm) == pytest.approx(4 * divergence)
    assert float(distill.hard(student, teacher)) == pytest.approx(math.log(2))
    parts = [(0.5, 0.625), (0.5, 0.375), (0.75, 0.625), (0.25, 0.375)]
    expected = sum(p * math.log(p / middle) for p, middle in parts) / 2
    assert float(distill.jensen_shannon(student, teacher)) == pytest.approx(expected)
    maps = torch.randn(2, 3, 4, 4)
    assert float(distill.cosine(maps, 7 * maps)) == pytest.approx(0, abs=1e-6)
    assert float(distill.cosine(maps, -maps)) == pytest.approx(2)


def test_losses_of_cells_are_means():
    student, teacher = torch.randn(2, 5, 4, 3), torch.randn(2, 5, 4, 3)
    for loss in (distill.soft, distill.hard, distill.jensen_shannon):
        cells = [loss(student[b, None, :, y, x], teacher[b, None, :, y, x]) for b, y, x in np.ndindex(2, 4, 3)]
        assert float(loss(student, teacher)) == pytest.approx(float(torch.stack(cells).mean()), rel=1e-5)


def test_the_losses_of_independent_classes():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])  # 1/2 and 3/4; both 1/2
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(distill.soft(student, teacher, independent=True)) == pytest.approx(divergence)
    warm = distill.soft(student, 2 * teacher, temperature=2.0, independent=True)
    assert float(warm) == pytest.approx(4 * divergence)
    assert float(distill.hard(student, teacher, independent=True)) == pytest.approx(2 * math.log(2))
    parts = [(0.5, 0.625), (0.5, 0.375), (0.75, 0.625), (0.25, 0.375)]
    expected = sum(p * math.log(p / middle) for p, middle in parts) / 2
    assert float(distill.jensen_shannon(student, teacher, independent=True)) == pytest.approx(expected)


def test_cells_weigh_in_the_mean():
    student, teacher, weights = torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.rand(2, 3)
    for loss in (distill.soft, distill.hard, distill.jensen_shannon):
        for independent in (False, True):
            cells = torch.tensor(
                [
                    [loss(student[b, None, :, i], teacher[b, None, :, i], independent=independent) for i in range(3)]
                    for b in range(2)
                ]
            )
            value = loss(student, teacher, independent=independent, weights=weights)
            assert float(value) == pytest.approx(float((cells * weights).sum() / weights.sum()), rel=1e-5)


def test_the_distillation_token_learns_the_teacher_and_the_class_token_the_labels():
    student = classifier(STUDENT)
    images = torch.randn(3, 3, 32, 32)
    terms, logits, _ = student.loss_and_class_logits(images, [Target(label=torch.tensor(0))] * 2)  # the third has none
    assert logits.shape == (3, 2, 2)
    student.eval()
    assert torch.allclose(logits.mean(1), student.class_logits(images), atol=1e-6)
    terms["classification"].backward(retain_graph=True)
    assert student.head[0].weight.grad.any()
    assert not student.head[1].weight.grad.any()
    student.zero_grad()
    distill.hard(logits[:, -1], torch.tensor([[0.0, 1.0]] * 3)).backward()
    assert student.head[1].weight.grad.any()
    assert not student.head[0].weight.grad.any()


# -- the teacher's input and classes


def test_the_teacher_gets_its_own_size_and_normalisation():
    student = classifier()
    teacher = distill.Teacher(classifier(size=(48, 40), mean=HALF, std=HALF), student, "x")
    grey = torch.full((1, 3, 32, 32), 0.75)
    mean, std = (torch.tensor(values)[:, None, None] for values in (student.preprocess.mean, student.preprocess.std))
    made = teacher.input((grey - mean) / std)
    assert made.shape == (1, 3, 48, 40)
    assert torch.allclose(made, torch.tensor((0.75 - 0.5) / 0.5), atol=1e-5)
    same = torch.randn(1, 3, 32, 32)
    assert distill.Teacher(classifier(), student, "x").input(same) is same


def test_shapes_are_kept_in_proportion():
    shortest = {"resize": "shortest", "size": (64, 128)}
    student = classifier(**shortest)
    assert distill.Teacher(classifier(**shortest), student, "x").size((64, 96)) == (64, 96)
    twice = distill.Teacher(classifier(**shortest | {"size": (128, 256)}), student, "x")
    assert twice.size((64, 96)) == (128, 192)
    assert distill.Teacher(classifier(), student, "x").size((64, 96)) == (64, 96)  # of any size


def test_classes_are_matched_by_name():
    assert distill.class_order(("b", "c", "a"), ("a", "b", "c"), "x").tolist() == [2, 0, 1]
    assert distill.class_order(("0", "1"), ("a", "b"), "x", named=False).tolist() == [0, 1]
    with pytest.raises(VertebraError, match="it lacks 'a', 'b' and the data lacks '0', '1'"):
        distill.class_order(("0", "1"), ("a", "b"), "x")  # a model of data whose classes are called so
    assert distill.class_order(("0", "1", "2"), ("0", "2", "1"), "x").tolist() == [0, 2, 1]
    with pytest.raises(VertebraError, match="it lacks 'a' and the data lacks 'd', 'e'"):
        distill.class_order(("b", "c", "d", "e"), ("a", "b", "c"), "x")


# -- unlabelled images


def test_fewer_unlabelled_images_than_a_step_has():
    """Processes must share them equally; else each would have other steps than one process has."""
    catalogue = Catalogue("x", "shapes", ("a", "b"), {})
    one, two = (resolve("classification", None, {"processes": n, "device": "cpu"}) for n in (1, 2))
    check_unlabelled(one, catalogue, 3)
    assert catalogue.notes == ["unlabelled: all 3 are in each step, which could have 32"]
    with pytest.raises(VertebraError, match="there are 3 unlabelled images, fewer than the 32 of a step, which 2 proc"):
        check_unlabelled(two, catalogue, 3)
    check_unlabelled(two, catalogue, 32)
    assert len(catalogue.notes) == 1


def test_unlabelled_batches_go_on_from_epoch_to_epoch():
    def sampler():
        labelled = BatchSampler(6, 2, seed=0, training=True)
        return MixedSampler(labelled, BatchSampler(10, 2, seed=5, training=True))

    epochs = [list(sampler()._epoch(epoch)) for epoch in range(5)]
    assert [len(epoch) for epoch in epochs] == [3] * 5
    assert all(index < 6 for epoch in epochs for batch in epoch for index, _ in batch[:2])
    further = [index for epoch in epochs for batch in epoch for index, _ in batch[2:]]
    for number in range(3):  # three passes
        assert sorted(further[10 * number : 10 * number + 10]) == list(range(6, 16))
    endless = iter(sampler())
    assert [next(endless) for _ in range(15)] == [batch for epoch in epochs for batch in epoch]


# -- runs


class Stop(Callback):
    """Stops a run in its second epoch, as Ctrl-C does."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("loss", "more"),
    [("soft", {"ema": 0.9, "distill": {"unlabelled_batch_size": 3}, "augment": {"mixup": 0.2}}), ("features", {})],
)
def test_a_resumed_run_is_the_undisturbed_one(tmp_path, few, teacher, further, monkeypatch, loss, more):
    """Bit for bit; with an average of the weights, unlabelled images, mixed ones, and trained adapters."""
    monkeypatch.setattr("vertebra.viz.report.save", lambda *_, **__: None)  # which takes longer than training
    if loss == "soft":
        more["distill"]["unlabelled"] = further
    whole = train(tmp_path / "whole", few, teacher, loss, **more)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", few, teacher, loss, callbacks=[Stop()], **more)
    train(None, few, teacher, resume=tmp_path / "stopped")
    first, second = (state(tmp_path / name) for name in ("whole", "stopped"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(name.startswith("distiller.adapters") for name in first) == (loss == "features")
    assert not any("teacher" in name for name in first)
    assert not any(name.startswith("distiller") for name in load_file(whole.best))
    with pytest.raises(VertebraError, match=r"distill\.loss is 'hard' and was"):
        vertebra.train("classification", data=few, resume=whole.folder, epochs=3, distill={"loss": "hard"})


def test_ssld_learns_no_labels(few, teacher):
    student = classifier()
    images = torch.randn(3, 3, 32, 32)
    values = []
    for label in (0, 1):
        targets = [Target(label=torch.tensor(label))] * 2 + [Target()]
        batch = Batch(images, targets, [], [], [0, 1, 2], unlabelled=1)
        made = distill.LogitDistiller(Distill("ssld"), distill.Teacher(classifier(), student, "x"), student)
        values.append(made(student, batch))
    assert values[0] == values[1]
    assert list(values[0]) == ["distillation"]


def test_labels_and_teacher_share_the_weight():
    student = classifier().eval()
    other = distill.Teacher(classifier(size=(48, 48)), student, "x")
    batch = Batch(torch.randn(2, 3, 32, 32), [Target(label=torch.tensor(0)), Target()], [], [], [0, 1], unlabelled=1)
    terms = [distill.LogitDistiller(Distill("hard", weight=w), other, student)(student, batch) for w in (0.25, 1.0)]
    assert float(terms[0]["distillation"]) == pytest.approx(float(terms[1]["distillation"]) / 4)
    assert float(terms[0]["classification"]) == pytest.approx(
        0.75 * float(student.loss(batch.images[:1], batch.targets[:1])["classification"])
    )
    assert float(terms[1]["classification"]) == 0


@pytest.mark.parametrize(("task", "classes"), [("semantic", ("sky", "sea", "sun")), ("saliency", None)])
def test_label_maps_learn_the_logits_of_every_cell(task, classes):
    """Of a teacher with finer cells; a saliency map is one of two classes."""
    torch.manual_seed(0)
    preprocess = Preprocess((64, 64), resize="squash")
    options = {"classes": classes, "channels": 8, "preprocess": preprocess, **TEACHER}
    student = vertebra.create(task, method="fcn", output_stride=16, **options).eval()
    teacher = vertebra.create(task, method="fcn", output_stride=8, **options)
    made = distill.LogitDistiller(Distill("soft", weight=0.5), distill.Teacher(teacher, student, "x"), student)
    target = Target(semantic=torch.zeros(64, 64, dtype=torch.uint8), size=(64, 64))
    batch = Batch(torch.randn(2, 3, 64, 64), [target] * 2, [], [], [0, 1])
    terms = made(student, batch)
    alone = student.loss(batch.images, batch.targets)
    assert {name: float(value) for name, value in terms.items() if name in alone} == pytest.approx(
        {name: float(value) / 2 for name, value in alone.items()}, rel=1e-4
    )
    logits, other = student.class_logits(batch.images), teacher.class_logits(batch.images)
    assert logits.shape == (2, len(student.classes), 4, 4)
    if task == "saliency":
        assert torch.allclose(logits.softmax(1)[:, 1], student.logits(batch.images)[:, 0].sigmoid(), atol=1e-6)
    expected = distill.soft(logits, torch.nn.functional.interpolate(other, (4, 4), mode="bilinear")) / 2
    assert float(terms["distillation"]) == pytest.approx(float(expected), rel=1e-4)


def test_levels_of_equal_stride_go_together():
    usual, dilated = ([Level(stride, 1) for stride in strides] for strides in ((4, 8, 16, 32), (4, 8, 8, 8)))
    assert distill._equal_strides(usual, usual) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert sorted(distill._equal_strides(dilated, dilated)) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert distill._equal_strides(usual, dilated) == [(0, 0), (1, 3)]


def test_detectors_learn_the_maps_of_the_pyramid():
    """On levels of equal stride, through adapters; the maps are those that the loss makes."""
    torch.manual_seed(0)
    options = {"method": "retinanet", "classes": CLASSES, **TEACHER, "preprocess": Preprocess((64, 64), resize="fit")}
    student, teacher = (vertebra.create("detection", neck={"channels": c}, **options) for c in (8, 16))
    made = distill.FeatureDistiller(Distill("features", weight=3.0), distill.Teacher(teacher, student, "x"), student)
    assert [tuple(adapter.weight.shape[:2]) for adapter in made.adapters] == [(16, 8)] * 3
    boxes = torch.tensor([[8.0, 8.0, 40.0, 24.0]])
    batch = Batch(
        torch.randn(1, 3, 64, 64), [Target(boxes=boxes, labels=torch.tensor([0]), size=(64, 64))], [], [], [0]
    )
    terms = made(student, batch)
    maps, other = student.maps(batch.images), made.teacher.maps(batch.images)
    expected = [distill.cosine(f(a), b) for f, a, b in zip(made.adapters, maps, other, strict=True)]
    assert float(terms["distillation"]) == pytest.approx(3 * float(sum(expected)) / 3, rel=1e-4)
    assert len(terms) > 1
    terms["distillation"].backward()
    assert student.neck.lateral[0].conv.weight.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())


SQUARE = {"classes": CLASSES, **TEACHER, "neck.channels": 64, "preprocess": Preprocess((64, 64), resize="fit")}
BOXES = Target(boxes=torch.tensor([[8.0, 8.0, 40.0, 24.0]]), labels=torch.tensor([0]), size=(64, 64))
DENSE = ("retinanet", "atss", "reppoints", "reppoints_v2")


@pytest.mark.parametrize("method", [*DENSE, "faster_rcnn", "faster_rcnn_c4", "cascade_rcnn"])
def test_detectors_learn_the_class_logits(method):
    """Of anchors, or of the RoIs that the student samples: a teacher that is the student teaches nothing new."""
    torch.manual_seed(0)
    size = {"preprocess": Preprocess((96, 96), resize="fit")} if "_rcnn" in method and "c4" not in method else {}
    more = {"neck.channels": 64} if method == "faster_rcnn_c4" else {}
    options = {key: value for key, value in SQUARE.items() if not more or key != "neck.channels"}
    light = {} if method in DENSE else {"rpn_post_nms_top_n_train": 50, "roi_batch_size": 16}
    light |= {"box_width": 8} if size else {}
    student, other = (vertebra.create("detection", method=method, **options | light | s).eval() for s in ({}, size))
    batch = Batch(torch.randn(1, 3, 64, 64), [BOXES], [], [], [0])
    same = distill.LogitDistiller(Distill("soft"), distill.Teacher(student, student, "x"), student)
    if method != "cascade_rcnn":  # whose stages learn of all of them together
        assert float(same(student, batch)["distillation"]) == pytest.approx(0, abs=1e-6)
    student.requires_grad_(True)
    made = distill.LogitDistiller(Distill("soft", weight=0.25), distill.Teacher(other, student, "x"), student)
    terms = made(student, batch)
    assert float(terms["distillation"]) > 0
    torch.manual_seed(0)  # of the RoIs that are sampled
    alone = student.loss(batch.images, batch.targets)
    torch.manual_seed(0)
    terms = made(student, batch)
    factors = {name: float(terms[name] / value) for name, value in alone.items() if value}
    shared = {name for name in factors if name.startswith("classification")}
    assert factors == pytest.approx({name: 0.75 if name in shared else 1 for name in factors}, rel=1e-4)
    assert len(shared) == (3 if method == "cascade_rcnn" else 1)
    assert len(factors) > 1
    terms["distillation"].backward()
    assert next(student.backbone.parameters()).grad.any()
    assert all(parameter.grad is None for parameter in other.parameters())


def test_every_stage_of_a_cascade_learns_of_all_stages_of_another():
    """Class 0 has twice the odds at the second stage, and three times at the third."""
    options = {**SQUARE, "method": "cascade_rcnn", "rpn_post_nms_top_n_train": 20, "roi_batch_size": 8, "box_width": 8}
    model = vertebra.create("detection", **options)
    for number, head in enumerate(model.box.heads, 1):
        torch.nn.init.zeros_(head.classify.weight)
        with torch.no_grad():
            head.classify.bias.copy_(torch.tensor([math.log(number), 0.0, 0.0]))
    images = torch.randn(2, 3, 64, 64)
    _, logits, regions = model.loss_and_class_logits(images, [BOXES, BOXES])
    odds = logits[:, 0].exp()[:, 0]
    assert odds.unique_consecutive().tolist() == pytest.approx([1, 2, 3, 1, 2, 3])
    assert len(odds) == sum(map(len, regions))
    probabilities = model.region_logits(images, regions).softmax(1)
    assert torch.allclose(probabilities[:, 0], torch.tensor((1 / 3 + 2 / 4 + 3 / 5) / 3))


@pytest.mark.parametrize("loss", ["soft", "hard"])
def test_no_rois_teach_nothing(loss):
    compare = {"soft": distill.soft, "hard": distill.hard}[loss]
    value = compare(torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 3))
    value.backward()
    assert value == 0


def test_the_logits_of_rois_are_those_of_the_teachers_image():
    """Whose boxes are as much larger as its input."""
    torch.manual_seed(0)
    options = {**SQUARE, "box_width": 8}
    student = vertebra.create("detection", method="faster_rcnn", **options)
    larger = {**options, "preprocess": Preprocess((128, 96), resize="squash")}
    teacher = distill.Teacher(vertebra.create("detection", method="faster_rcnn", **larger), student, "x")
    seen = []
    teacher.task.region_logits = lambda images, regions: seen.append((images.shape, regions)) or torch.zeros(1, 3)
    teacher.class_logits(torch.zeros(1, 3, 64, 64), [BOXES], [torch.tensor([[8.0, 8.0, 40.0, 24.0]])])
    ((shape, (boxes,)),) = seen
    assert shape == (1, 3, 128, 96)
    assert boxes.tolist() == [[12.0, 16.0, 60.0, 48.0]]


def made_of(path: Path, teacher: Task, student: Task) -> distill.Distiller:
    checkpoint.save(teacher, path)
    settings = resolve(student.task_name, student.method, {"teacher": str(path), "distill": {"loss": "soft"}})
    made = distill.create(settings, student, [], written=None, mixing=False)
    assert made
    return made


def test_anchors_that_differ_are_refused(tmp_path):
    student, other = (vertebra.create("detection", method=name, **SQUARE) for name in ("retinanet", "atss"))
    sentence = r"has logits of 341 anchors for an image of 128 x 128 pixels, the student of 3069: both need the same"
    with pytest.raises(VertebraError, match=sentence):
        made_of(tmp_path / "teacher.safetensors", other, student)
    assert student.training


@pytest.mark.parametrize("resize", ["shortest", "fit"])
def test_anchors_are_those_of_the_students_input(tmp_path, resize):
    """Although the teacher was trained on larger images."""
    options = [SQUARE | {"preprocess": Preprocess((side, 2 * side), resize=resize)} for side in (64, 128)]
    student, teacher = (vertebra.create("detection", method="atss", **more).eval() for more in options)
    made = made_of(tmp_path / "teacher.safetensors", teacher, student)
    images = torch.randn(1, 3, 64, 96)
    assert torch.allclose(made.teacher.class_logits(images, [BOXES]), teacher.class_logits(images), atol=1e-5)
    made(student, Batch(images, [BOXES], [], [], [0]))


@pytest.mark.parametrize(("one", "other"), [("detection", "instance"), ("instance", "detection")])
def test_detectors_of_boxes_and_of_masks_teach_each_other(tmp_path, one, other):
    options = {**SQUARE, "box_width": 8}
    methods = {"detection": "faster_rcnn", "instance": "mask_rcnn"}
    student, teacher = (vertebra.create(task, method=methods[task], **options) for task in (one, other))
    made = made_of(tmp_path / "teacher.safetensors", teacher, student)
    logits = made.teacher.class_logits(torch.randn(1, 3, 64, 64), [BOXES], [BOXES.boxes])
    assert logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("task", "student", "teacher", "loss", "sentence"),
    [
        ("detection", {"method": "faster_rcnn"}, {"method": "atss"}, "soft", "has probabilities of every class by its"),
        ("detection", {"method": "sparse_rcnn"}, {"method": "sparse_rcnn"}, "soft", "has no logits of classes"),
        ("detection", {"method": "atss"}, {"method": "atss"}, "ssld", "takes no labels, from which boxes are learned"),
        ("multilabel", {}, {"loss": "softmax"}, "soft", r"the student \(linear\) of every class by itself"),
        ("multilabel", {"label_smoothing": 0.1}, {}, "ssld", "model.label_smoothing has no effect"),
        ("multilabel", {"class_weights": (1.0, 2.0)}, {}, "ssld", "model.class_weights has no effect"),
        ("multilabel", {"loss": "asymmetric", "margin": 0.1}, {}, "ssld", "model.margin has no effect"),
        ("classification", {"loss": "bce"}, {}, "ssld", "model.loss has no effect"),
        ("semantic", {"loss": {"label_smoothing": 0.1}}, {}, "ssld", "model.loss.label_smoothing has no effect"),
    ],
)
def test_teachers_that_teach_no_logits(tmp_path, task, student, teacher, loss, sentence):
    path = tmp_path / "teacher.safetensors"
    checkpoint.save(vertebra.create(task, classes=CLASSES, **TEACHER, **teacher), path)
    model = vertebra.create(task, classes=CLASSES, **TEACHER, **student)
    settings = resolve(task, student.get("method"), {"teacher": str(path), "distill": {"loss": loss}})
    with pytest.raises(VertebraError, match=sentence):
        distill.create(settings, model, [], written=None, mixing=False)


@pytest.mark.parametrize("loss", ["soft", "hard", "ssld"])
def test_tags_are_learned_of_a_teacher(tmp_path, further, loss):
    lines = "".join(f"{i}.png,{'cat dog'[: 3 + 4 * (i % 2)]}\n" for i in range(5))
    (further / "tags.csv").write_text("image,tags\n" + lines)
    checkpoint.save(vertebra.create("multilabel", classes=CLASSES, **TEACHER), tmp_path / "teacher.safetensors")
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    pixels = np.random.default_rng(9).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(unlabelled / "a.png")
    distilled = {"teacher": str(tmp_path / "teacher.safetensors"), "distill": {"loss": loss, "unlabelled": unlabelled}}
    options = {"epochs": 1, "image_size": 32, "batch_size": 2, "workers": 0, "device": "cpu", "logger": []}
    run = vertebra.train(
        "multilabel", data=further / "tags.csv", **options, **distilled, output=tmp_path / "run", model=STUDENT
    )
    losses = run.history[0]
    assert losses["train/loss"] > 0
    assert ("train/tags" in losses) == (loss != "ssld")


# -- bad input


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--distill.weight=0.3"], "distill.weight is 0.3, and there is no teacher: give --teacher=FILE too"),
        (["--teacher=x.pt", "--distill.loss=ssld", "--distill.weight=1"], "distill.weight has no effect with"),
        (["--teacher=x.pt", "--distill.loss=hard", "--distill.temperature=2"], "it is for soft"),
        (["--teacher=x.pt", "--distill.weight=1.5"], "distill.weight is 1.5; it must lie between 0 and 1"),
        (["--teacher=x.pt", "--distill.unlabelled_batch_size=3"], "needs distill.unlabelled"),
        (["--teacher=x.pt", "--distill.loss=sofd"], "Did you mean 'soft'?"),
        (["--teacher={tmp}/no.safetensors"], "does not exist"),
        (["--teacher={teacher}", "--distill.unlabelled={tmp}/none"], "there is no such folder"),
        (["--teacher={teacher}", "--distill.unlabelled={tmp}"], "there are no images in it"),
        (["--teacher={teacher}", "--distill.unlabelled={few}"], "2 of the 6 images in"),
        (["--teacher={teacher}", "--weights={teacher}"], "is the file that the student starts from"),
        (["--teacher={teacher}", "--output={folder}"], "is the file that this run writes"),
        (["--teacher={teacher}", "--data.channels=1"], "takes images of 3 channels, the student of 1"),
        (["--teacher={other}"], "must have the classes of the data: it lacks 'dog' and the data lacks 'cow'"),
        (["--teacher={teacher}", "--distill.loss=features"], "the student of 12: none in common"),
    ],
)
def test_mistakes_take_one_sentence(tmp_path, few, teacher, capsys, words, sentence):
    other = tmp_path / "other.safetensors"
    if "{other}" in words[0]:
        checkpoint.save(classifier(classes=("cat", "cow")), other)
    student = ["--model.backbone=deit_tiny_16_distilled", "--model.backbone_options={width: 8, depth: 1, heads: 2}"]
    if "features" in words[-1]:
        student = ["--model.backbone=vit_tiny_16", "--model.backbone_options={patch: 12, width: 8, depth: 1, heads: 2}"]
    if "weights" in words[-1]:
        student = ["--model.backbone=resnet18", "--model.backbone_options={depths: [1, 1, 1, 1]}"]
    places = {"tmp": tmp_path, "teacher": teacher, "few": few, "folder": teacher.parent, "other": other}
    given = [word.format(**places) for word in words]
    fixed = [f"--data.path={few}", "--data.image_size=32", "--data.workers=0", "--device=cpu", f"--output={tmp_path}/r"]
    assert main(["train", "classification", *fixed, *student, *given]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_tasks_without_logits_learn_features_alone(teacher):
    detector = vertebra.create("detection", method="sparse_rcnn", classes=CLASSES, neck={"channels": 8}, **TEACHER)
    with pytest.raises(
        VertebraError, match=r"detection by \w+ has no logits of classes .* choose distill.loss=features"
    ):
        distill._check_logits(classifier(), detector, "x")
    segmenter = vertebra.create("semantic", method="fcn", channels=8, classes=CLASSES, **TEACHER)
    with pytest.raises(VertebraError, match="is a model for classification, not for semantic"):
        distill._check_logits(classifier(), segmenter, "x")
    assert Distill("features").weight is None
