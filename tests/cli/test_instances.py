"""Boxes, masks and keypoints through the command line: from a dataset to results, and messages for mistakes."""

import contextlib
import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.processes import started_together
from tests.runs import history

import vertebra
from vertebra.cli import main
from vertebra.data.formats import shapes
from vertebra.engine.trainee import Trainee
from vertebra.metrics import coco
from vertebra.metrics.coco import CocoMetrics

TASKS = ("detection", "instance", "keypoints")
BEST = {"detection": "box_ap", "instance": "mask_ap", "keypoints": "keypoint_ap"}
SHALLOW = "--model.backbone_options={depths: [1, 1, 1, 1]}"
NECK = ("--model.neck.channels=16",)
ROIS = ("--model.roi_batch_size=16", "--model.rpn_post_nms_top_n_train=50", "--model.rpn_post_nms_top_n_test=20")
FEW_ROIS = (*ROIS, "--model.roi_batch_size=4", "--model.rpn_post_nms_top_n_test=5")  # a stage runs on each
HEADS = (*NECK, *ROIS, "--model.box_width=32")
COMMON = (
    "--model.backbone=resnet18",
    SHALLOW,
    "--data.image_size=64",
    "--data.workers=0",
    "--device=cpu",
    "--epochs=1",
    "--optimizer=sgd",
    "--lr=0.01",
    "--weight_decay=0",
)
TINY = {
    "detection": (*COMMON, *HEADS),
    "instance": (*COMMON, *HEADS),
    "keypoints": (*COMMON, *HEADS, "--model.keypoint_width=16", "--model.keypoint_num_convs=1"),
}


@pytest.fixture(scope="session")
def data(once) -> Path:
    """Eight and four images of the built-in shapes, with boxes, masks and keypoints. Not to be written to."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shapes, "COUNTS", {"train": 8, "val": 4})
            shapes.write_coco(folder / "shapes")

    return once("instances", make) / "shapes"


class Runs(dict[str, Path]):
    """A run folder of one epoch for each task, trained when it is first asked for. Not to be written to."""

    def __init__(self, once, data: Path) -> None:
        self.once, self.data = once, data

    def __missing__(self, task: str) -> Path:
        def make(folder: Path) -> None:
            words = ["train", task, f"--data.path={self.data}", f"--output={folder / 'run'}", *TINY[task]]
            with (folder / "output.txt").open("w") as file, contextlib.redirect_stdout(file):
                assert main(words) == 0

        self[task] = self.once(f"trained-{task}", make) / "run"
        return self[task]


@pytest.fixture(scope="session")
def runs(data, once) -> Runs:
    return Runs(once, data)


@pytest.fixture
def writable(data, tmp_path) -> Path:
    """A copy of the data set."""
    return shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("semantic"))


def changed(folder: Path, change, split: str = "train") -> Path:
    """The data set with `change` made to what its JSON of a split holds."""
    path = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


# -- from a data set to results


@pytest.mark.parametrize("task", TASKS)
def test_a_run_folder_is_complete(runs, task):
    run = runs[task]
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "best.safetensors", "last.ckpt", "metrics.csv", "evaluation.json", "report.html"}
    assert not [name for name in names if name.endswith(".tmp")]
    head, *rows = (run / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1
    assert {"train/loss", "train/objectness", "lr", "val/box_ap", f"val/{BEST[task]}"} <= set(head.split(","))
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert len(evaluation["images"]) == 4
    assert {"box_ap", BEST[task], "f1", "threshold"} <= set(evaluation["metrics"])
    page = (run / "report.html").read_text()
    predictor = vertebra.load(run, device="cpu")
    assert predictor.threshold == predictor.about["metrics"]["threshold"]
    assert predictor.threshold == pytest.approx(evaluation["metrics"]["threshold"], rel=1e-5)
    for heading in ("Training", "Precision and recall", "Score threshold", "Confusion matrix", "Classes", "Config"):
        assert f"<h2>{heading}</h2>" in page


@pytest.mark.parametrize("task", TASKS)
def test_evaluate_repeats_the_metrics_of_training(runs, run_vertebra, tmp_path, task):
    out = run_vertebra("evaluate", runs[task], "--device=cpu", "--data.workers=0", f"--save={tmp_path}")
    assert "box AP50" in out
    made, known = (json.loads((path / "evaluation.json").read_text()) for path in (tmp_path, runs[task]))
    for key, value in known["metrics"].items():
        if isinstance(value, float):
            assert made["metrics"][key] == pytest.approx(value, abs=1e-6), key
    assert made["images"] == known["images"]


def test_keypoints_are_evaluated_with_the_sigmas_of_the_data(runs, writable, run_vertebra, tmp_path, monkeypatch):
    run, used = runs["keypoints"], []

    class Seen(CocoMetrics):
        def compute(self):
            used.append(self.sigmas.tolist())
            return super().compute()

    monkeypatch.setattr(coco, "CocoMetrics", Seen)

    def change(content):
        for category in content["categories"]:
            category["sigmas"] = [0.1, 0.2, 0.3, 0.4]

    for split in ("train", "val"):
        changed(writable, change, split)
    run_vertebra("evaluate", run, "--device=cpu", "--data.workers=0", f"--data.path={writable}")
    assert used == [[0.1, 0.2, 0.3, 0.4]]


@pytest.mark.parametrize("task", TASKS)
def test_what_is_predicted_can_be_evaluated(runs, data, run_vertebra, tmp_path, task):
    """The command's COCO JSON gives the metrics of the model itself; scores and coordinates are rounded in it."""
    annotations = data / "annotations" / "instances_val.json"
    content = json.loads(annotations.read_text())
    images = [data / "images" / "val" / image["file_name"] for image in content["images"]]
    out = tmp_path / "out"
    words = ["--device=cpu", f"--save={out}", f"--annotations={annotations}", "--threshold=0"]
    lines = run_vertebra("predict", runs[task], *images, *words).splitlines()
    assert all(any(str(path) in line for line in lines) for path in images)
    assert {path.name for path in out.iterdir()} == {
        "predictions.json",
        "predictions.csv",
        "images.json",
        *(path.name for path in images),
    }
    with Image.open(out / images[0].name) as drawn:
        assert drawn.mode == "RGB"
    entries = json.loads((out / "predictions.json").read_text())
    assert {entry["image_id"] for entry in entries} == {image["id"] for image in content["images"]}
    assert ("segmentation" in entries[0]) == (task == "instance")
    assert ("keypoints" in entries[0]) == (task == "keypoints")
    run_vertebra("evaluate", out / "predictions.json", f"--data.path={data}", f"--save={tmp_path / 'judged'}")
    judged, known = (json.loads((f / "evaluation.json").read_text()) for f in (tmp_path / "judged", runs[task]))
    shared = [key for key in judged["metrics"] if "_ap" in key or "_ar" in key or key in ("threshold", "f1")]
    assert {"box_ap50", BEST[task]} <= set(shared)
    assert judged["metrics"]["box_ap50"] > 0
    for key in shared:
        assert judged["metrics"][key] == pytest.approx(known["metrics"][key], abs=1e-4), key


def test_keypoints_are_those_of_the_data(runs):
    task = vertebra.load(runs["keypoints"], device="cpu").task
    assert task.keypoints.names == shapes.KEYPOINTS.names
    assert task.keypoints.skeleton == shapes.KEYPOINTS.skeleton
    [answer] = task.predict(torch.zeros(3, 50, 70, dtype=torch.uint8))
    assert answer.keypoints.shape[1:] == (4, 3)


METHODS = [
    pytest.param("detection", "faster_rcnn_c4", (), marks=pytest.mark.slow),
    ("detection", "cascade_rcnn", ("--model.norm=group", "--model.neck.norm=group", "--model.box_loss.name=giou")),
    ("detection", "retinanet", ("--model.norm=frozen", "--model.head_norm=batch")),
    ("detection", "sparse_rcnn", ("--model.num_proposals=8", "--model.num_stages=2", "--base_batch_size=16")),
    pytest.param("instance", "mask_rcnn_c4", ("--model.norm=sync",), marks=pytest.mark.slow),
    ("instance", "mask_rcnn", ("--model.neck.name=hrfpn",)),
    ("instance", "cascade_mask_rcnn", ("--data.resize=fit", "--augment.copy_paste=1", "--augment.mosaic=0.5")),
]


@pytest.mark.parametrize(("task", "method", "more"), METHODS)
def test_every_method_trains(data, run_vertebra, tmp_path, task, method, more):
    heads = ("--model.channels=16", *FEW_ROIS) if method.endswith("_c4") else HEADS
    heads = NECK if method in ("retinanet", "sparse_rcnn") else heads
    words = [f"--data.path={data}", f"--output={tmp_path / 'run'}", *COMMON, *heads, f"--model.method={method}", *more]
    output = run_vertebra("train", task, *words)
    assert f"best: {BEST[task]}" in output
    assert ("is for 16 images per step, scaled to" in output) == (method == "sparse_rcnn")
    assert vertebra.load(tmp_path / "run", device="cpu").task.method == method


def test_an_epochs_line_has_few_numbers(runs):
    lines = (runs["instance"].parent / "output.txt").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("epoch 1/1")]
    assert "box_ap50 0." in line
    assert "mask_ap 0." in line
    assert "box_ar10" not in line


def test_a_classifiers_checkpoint_freezes_norms_and_says_so(data, trained, run_vertebra, tmp_path):
    run = tmp_path / "run"
    options = [option for option in TINY["detection"] if option != SHALLOW]
    words = [f"--data.path={data}", f"--output={run}", f"--weights={trained}", *options]
    out = run_vertebra("train", "detection", *words)
    assert "adapted norm: frozen, with the statistics of the checkpoint" in out
    assert "left out head." in out  # the classifier's
    assert vertebra.load(run, device="cpu").task.config.norm == "frozen"
    before, after = load_file(trained / "best.safetensors"), load_file(run / "best.safetensors")
    norms = [name for name in after if name.startswith("backbone.") and name.endswith("running_mean")]
    assert len(norms) == 20
    assert all(torch.equal(before[name], after[name]) for name in norms)


@pytest.mark.parametrize(("task", "form"), [("detection", "voc"), ("instance", "yolo"), ("instance", "masks")])
def test_other_formats_train(writable, run_vertebra, tmp_path, task, form):
    for split in ("train", "val"):  # YOLO's files have polygons or keypoints
        changed(writable, lambda content: [row.pop("keypoints") for row in content["annotations"]], split)
    run_vertebra("data", "convert", writable, f"--to={form}", f"--save={tmp_path / form}")
    words = [f"--data.path={tmp_path / form}", f"--output={tmp_path / 'run'}", *TINY[task]]
    out = run_vertebra("train", task, *words)
    assert "8 train, 4 val images in 6 classes" in out
    assert "skipped" not in out


class Killed(Exception):
    """What ends a run in the middle."""


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_broke_off_resumes_to_the_same_weights(data, tmp_path, monkeypatch, run_vertebra, task):
    """Two steps into the second of two epochs, with nothing saved since the first."""
    more = {"instance": ["--augment.copy_paste=0.5", "--augment.jitter=[0.5,1.5]", "--ema=0.9"]}
    words = [f"--data.path={data}", *TINY[task], "--epochs=2", "--data.batch_size=2", *more.get(task, [])]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_vertebra("train", task, *words, f"--output={whole}")
    step = Trainee.training_step

    def breaking(self, batch, number):
        if self.current_epoch == 1 and number == 2:
            raise Killed
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Trainee, "training_step", breaking)
        with pytest.raises(Killed):
            main(["train", task, *words, f"--output={broken}"])
    run_vertebra("train", f"--resume={broken}")
    for name in ("best.safetensors", "last.ckpt"):
        first, second = (
            load_file(run / name) if name.endswith("s") else torch.load(run / name, weights_only=True)["state_dict"]
            for run in (whole, broken)
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(data, runs, tmp_path, run_vertebra):
    """At a learning rate of zero the weights are the same, and so must the metrics be, gathered from both."""
    metrics = []
    for count in (1, 2):
        run = tmp_path / str(count)
        words = ["train", "instance", f"--data.path={data}", f"--weights={runs['instance']}", f"--output={run}"]
        words += [*TINY["instance"], "--lr=0", "--data.batch_size=4"]
        if count == 1:
            out = run_vertebra(*words)
        else:
            with started_together(words, tmp_path / "printed", 2) as processes:
                for process in processes:
                    process.join()
            assert [process.exitcode for process in processes] == [0, 0]
            out = "".join((tmp_path / "printed" / rank / "out.txt").read_text() for rank in "01")
        assert out.count("best: mask_ap") == 1
        (row,) = history(run)
        metrics.append({key: value for key, value in row.items() if key.startswith("val/")})
    assert metrics[0]["val/box_ap50"] > 0
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-5)


# -- data of no use, as training meets it


def test_wrong_annotations_are_listed_and_training_continues(writable, run_vertebra, complaint, tmp_path):
    faults = [
        ({"bbox": [500, 500, 10, 10]}, "is outside the image (128 x 128 pixels)"),
        ({"bbox": [5, 5, 0, 10]}, "its box is 0 x 10 pixels"),
        ({"bbox": [50, 50, -20, 10]}, "its box is -20 x 10 pixels"),  # x2 < x1
        ({"bbox": [5, float("nan"), 10, 10]}, "not four numbers up to 1e9"),
        ({"segmentation": [[5, 5, 20, 20]]}, "its polygon has 2 points, three or more make an area"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "its mask is of size [9, 9], the image [128, 128]"),
    ]

    def change(content):
        for row, (fault, _) in zip(content["annotations"], faults, strict=False):
            row |= fault
        content["annotations"][len(faults)]["segmentation"] = [[10, 10, 60, 60, 60, 10, 10, 60]]  # crosses itself
        content["images"].append({"id": 999, "file_name": "gone.png", "height": 128, "width": 128})

    path = changed(writable, change)
    file = path / "annotations" / "instances_train.json"
    words = ["instance", f"--data.path={path}", *TINY["instance"]]
    out = run_vertebra("train", *words, f"--output={tmp_path / 'run'}")
    skipped = [line for line in out.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == len(faults) + 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Skipped ({len(skipped)})" in page
    for number, (_, sentence) in enumerate(faults, 1):
        assert any(f"{file}, annotation {number} is skipped: " in line and sentence in line for line in skipped), (
            sentence
        )
    assert any("image 999" in line and "gone.png is not there" in line for line in skipped)
    assert "problem: " in run_vertebra("data", path)
    sentence = complaint("train", *words, f"--output={tmp_path / 'other'}", "--strict")
    assert "--strict lets nothing be skipped" in sentence
    assert not (tmp_path / "other").exists()
    assert "--strict lets nothing be skipped" in complaint(
        "evaluate", tmp_path / "run", f"--data.path={path}", "--device=cpu", "--strict"
    )


def test_files_that_are_no_annotations(writable, runs, complaint, tmp_path):
    file = writable / "annotations" / "instances_train.json"
    good = file.read_text()
    content = json.loads(good)
    twins, unknown = copy.deepcopy(content), copy.deepcopy(content)
    twins["annotations"][1]["id"] = twins["annotations"][0]["id"]
    unknown["annotations"][0]["category_id"] = 77
    for text, expected in (
        (good[: len(good) // 2], "not valid JSON"),
        (json.dumps(twins), f"the id {twins['annotations'][0]['id']} is given to two annotations"),
        (json.dumps(unknown), "there is no category 77 in the file"),
    ):
        file.write_text(text)
        for words in (
            ["train", "detection", f"--output={tmp_path / 'run'}", *TINY["detection"], f"--data.path={writable}"],
            ["evaluate", runs["detection"], f"--data.path={writable}"],
            ["data", writable],
        ):
            sentence = complaint(*words)
            assert expected in sentence
            assert str(file) in sentence


@pytest.mark.parametrize("task", TASKS)
def test_images_without_objects_and_with_hundreds_in_grey_and_in_sixteen_bits(writable, run_vertebra, tmp_path, task):
    """An image with a crowd only has nothing to learn from either; and an empty prediction is one."""

    def change(content):
        first, crowd, many = (image["id"] for image in content["images"][:3])
        rows = content["annotations"]
        content["annotations"] = [row for row in rows if row["image_id"] not in (first, crowd, many)]
        first_row = rows[0]
        content["annotations"].append({**first_row, "image_id": crowd, "iscrowd": 1})
        for i in range(2000):
            x, y = float(i % 50) * 2, float(i // 50) * 3
            spot = {"bbox": [x, y, 6.0, 6.0], "segmentation": [[x, y, x + 6, y, x + 6, y + 6, x, y + 6]], "area": 36}
            content["annotations"].append({**first_row, **spot, "id": 10_000 + i, "image_id": many})

    path = changed(writable, change)
    for split in ("train", "val"):
        for i, image in enumerate(sorted((path / "images" / split).iterdir())[:6]):
            grey = np.asarray(Image.open(image).convert("L"))
            Image.fromarray(grey if i % 2 else grey.astype(np.uint16) * 257).save(image)
    words = [f"--data.path={path}", f"--output={tmp_path / 'run'}", *TINY[task], "--model.score_threshold=1"]
    out = run_vertebra("train", task, *words, "--data.batch_size=2")
    assert "skipped" not in out
    assert f"best: {BEST[task]} 0.0000" in out
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["images"]
    assert all(row["true_positives"] == row["false_positives"] == 0 for row in rows)
    image = path / "images" / "val" / sorted(path.glob("images/val/*"))[0].name
    run_vertebra("predict", tmp_path / "run", image, "--device=cpu", f"--save={tmp_path / 'out'}")
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []


def test_grey_input(data, run_vertebra, tmp_path):
    words = [f"--data.path={data}", f"--output={tmp_path / 'run'}", *TINY["detection"], "--data.channels=1"]
    run_vertebra("train", "detection", *words)
    assert vertebra.load(tmp_path / "run", device="cpu").task.preprocess.channels == 1


def test_masks_that_the_data_does_not_have(data, complaint, run_vertebra, tmp_path):
    run_vertebra("data", "convert", data, "--to=voc", f"--save={tmp_path / 'voc'}")
    sentence = complaint("train", "instance", f"--data.path={tmp_path / 'voc'}", *TINY["instance"])
    assert "mask" in sentence
    assert str(tmp_path / "voc") in sentence


# -- options that do not fit


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--balance", "--balance is not an option of vertebra train instance. There is no --balance for this task."),
        ("--data.resize=crop", "data.resize is 'crop'; there are auto, shortest, fit, squash"),
        ("--augment.mixup=0.2", "--augment.mixup is not an option of vertebra train instance"),
        ("--augment.copy_paste=2", "augment.copy_paste is 2; it must lie between 0 and 1"),
        (
            "--model.method=mask_rcn",
            "model.method is 'mask_rcn'; there are mask_rcnn, cascade_mask_rcnn, mask_rcnn_c4",
        ),
        ("--model.method=mask_rcn", "Did you mean 'mask_rcnn'?"),
        ("--model.box_width=wide", "model.box_width is 'wide'; it must be an integer"),
        ("--model.anchors.scal=2", "Did you mean '--model.anchors.scale'?"),
        ("--model.norm=bach", "Did you mean 'batch'?"),
        ("--model.average=logits", "mask_rcnn has no option average"),
        ("--model.anchors.scale=-1", "anchors.scale is -1; it must lie between 0.01 and 1,000"),
        ("--model.anchors.ratios=[]", "anchors.ratios is []; it must hold numbers in 0.001..1000"),
        ("--model.anchors.ratios=[1,0]", "anchors.ratios is [1, 0]; it must hold"),
        ("--model.score_threshold=2", "score_threshold is 2; it must lie between 0 and 1"),
        ("--model.nms_threshold=-1", "nms_threshold is -1; it must lie between 0 and 1"),
        ("--model.max_detections=0", "max_detections is 0; it must lie between 1 and 1,000,000"),
        ("--model.neck.channels=0", "neck.channels is 0; it must lie between 1 and 65,536"),
        ("--model.rpn_post_nms_top_n_test=0", "rpn_post_nms_top_n_test is 0; it must lie between 1 and 1,000,000"),
        ("--model.roi_batch_size=0", "roi_batch_size is 0; it must lie between 1 and 1,000,000"),
        ("--model.roi_positive_fraction=3", "roi_positive_fraction is 3; it must lie between 0 and 1"),
        ("--model.rpn_num_convs=-1", "rpn_num_convs is -1; it must lie between 0 and 100"),
        ("--model.norm_eps=-1", "norm_eps is -1; it must lie between 0 and 1"),
        ("--model.drop_path=1.5", "drop_path is 1.5; it must lie between 0 and 1"),
        ("--model.method=cascade_mask_rcnn --model.mask_stages=2", "mask_stages is 2; it must be 1 or 3"),
        ("--data.image_size=-8", "data.image_size is -8; it must lie between 8 and 10,000"),
    ],
)
def test_options_that_do_not_fit(data, complaint, tmp_path, flag, sentence):
    words = [f"--data.path={data}", f"--output={tmp_path / 'run'}", *TINY["instance"], *flag.split()]
    assert sentence in complaint("train", "instance", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "flag", "sentence"),
    [
        ("detection", "--augment.copy_paste=0.5", "cuts objects out by their masks, and this task learns boxes"),
        ("keypoints", "--augment.copy_paste=0.5", "this task learns keypoints"),
        ("keypoints", "--model.keypoint_width=0", "keypoint_width is 0; it must lie between 1 and 65,536"),
        ("keypoints", "--model.keypoint_num_convs=-1", "keypoint_num_convs is -1; it must lie between 1 and 100"),
        (
            "detection",
            "--model.mask_head.kind=class",
            "--model.mask_head.kind is not an option of vertebra train detection",
        ),
    ],
)
def test_options_of_other_tasks(data, complaint, tmp_path, task, flag, sentence):
    words = [f"--data.path={data}", f"--output={tmp_path / 'run'}", *TINY[task], flag]
    assert sentence in complaint("train", task, *words)


@pytest.mark.slow
def test_synchronous_norms_on_several_processes_of_a_cpu_are_refused(data, tmp_path, complaint):
    """Before the second process is started."""
    words = ["train", "detection", f"--data.path={data}", f"--output={tmp_path / 'run'}", *TINY["detection"]]
    assert "norm sync works on GPUs alone" in complaint(*words, "--model.norm=sync", "--processes=2")


def test_options_of_other_methods(data, complaint, tmp_path):
    words = [f"--data.path={data}", f"--output={tmp_path / 'run'}", *COMMON, "--model.method=retinanet"]
    assert "retinanet has no option rpn_num_convs" in complaint("train", "detection", *words, "--model.rpn_num_convs=2")
