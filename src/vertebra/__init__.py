"""Vertebra: every vision backbone under every recognition task.

`create` makes a model, `backbone` a bare backbone, `train` trains a model, `evaluate` measures it, `load` reads it from
a file, `explain` shows what its answers depend on; nothing heavy is imported before one of them is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from torch import Tensor
    from torch.utils.data import Dataset

    from vertebra.backbones import Backbone
    from vertebra.data.augment.custom import Transforms
    from vertebra.engine.train import Run
    from vertebra.metrics.evaluation import Evaluation
    from vertebra.predict import Predictor
    from vertebra.predict.explain import Explanation
    from vertebra.refine import Refiner
    from vertebra.structures import Prediction
    from vertebra.tasks import Task

__version__ = "0.1.0.dev0"
__all__ = ["backbone", "create", "evaluate", "explain", "load", "train", "train_heads"]


def create(
    task: str,
    *,
    backbone: str | None = None,
    method: str | None = None,
    classes: int | Sequence[str] | None = None,
    weights: str | Path | None = None,
    source: str | None = None,
    **options: Any,
) -> Task:
    """A model for a task, ready to train or to load weights into.

    Args:
        task: a task's name, such as `classification`, `detection` (boxes) or `instance` (masks).
        backbone: a public backbone name, or timm's or torchvision's name for the same model; the default of the
            method, mostly resnet50, if None.
        method: a method of the task, such as `retinanet`; the task's default, or that of the checkpoint, if None.
        classes: their number, or their names in order; if None, as many as the detector given as `weights` has, else
            1000.
        weights: a published checkpoint by name (`resnet50.a1_in1k`), a file, a folder, or a Hub name. What does
            not fit, such as a head for other classes, is left out and listed on `model.report`. A detector of
            torchvision, Detectron2 or MMDetection also decides the options that the user does not set.
        source: the library whose tensor names and computation `weights` has, such as `mmdet/caffe`; recognised if None.
        options: fields of the method's Config (`drop_path`, `anchors={"scale": 4}`, ...) and `preprocess`.

    Returns:
        A `torch.nn.Module`; its `predict` takes paths, PIL images, arrays and tensors, and returns predictions that can
        be drawn.

    Raises:
        VertebraError: if a name is unknown or the weights cannot be read.
    """
    from vertebra import tasks

    if backbone is not None:
        options["backbone"] = backbone
    model = tasks.create(task, method=method, classes=classes, weights=weights, source=source, **options)
    model.to_result = _to_result
    return model


def _to_result(task: Task, prediction: Prediction, image: Any, pixels: Tensor) -> Prediction:
    """What a model of `create` predicts for an image, with all that is needed to draw it."""
    from vertebra.predict.result import ImageResult
    from vertebra.predict.sources import ImageSource

    name = str(image) if isinstance(image, str | Path) else ""
    return ImageResult.of(prediction, task, ImageSource(name, image), pixels)


def backbone(name: str, *, weights: str | Path | None = None, source: str | None = None, **overrides: Any) -> Backbone:
    """A bare backbone: images [B, C, H, W] to a list of feature maps, finest first, described by its `levels`.

    Args:
        name: a public backbone name, or timm's or torchvision's name for the same model.
        weights: as in `create`, but every tensor must fit.
        source: as in `create`.
        overrides: `channels` (of the input), `drop_path`, `embedding` (whether layers that only `embed` needs are
            built) and the architecture's own fields.

    Raises:
        VertebraError: if a name is unknown or the weights do not fit.
    """
    from vertebra import backbones

    return backbones.create(name, weights=weights, source=source, **overrides)


def train(
    task: str,
    *,
    data: str | Path | Dataset | Mapping[str, Dataset],
    backbone: str | None = None,
    method: str | None = None,
    model: Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] | None = None,
    transforms: Transforms | None = None,
    callbacks: Sequence[Callback] = (),
    logger: str | Logger | Sequence[str | Logger] | None = None,
    **settings: Any,
) -> Run:
    """Trains a model as `vertebra train` does, with the recipe of its method, and leaves a run folder.

        run = vertebra.train("detection", data="my_coco/", backbone="resnet18", epochs=3, batch_size=8)
        run.metrics["box_ap"], run.load().predict("street.jpg")

    Args:
        task: a task's name, as in `create`.
        data: a path in any format that `vertebra data` reads, `shapes` (built in), a `torch.utils.data.Dataset` whose
            items are (image, Target), or a mapping of split names (`train`, `val`, `test`) to such Datasets.
        backbone: as in `create`.
        method: as in `create`; the task's default if None.
        model: further options of the method, nested or by dotted name: `{"anchors": {"scale": 4}}` or
            `{"anchors.scale": 4}`.
        augment: random changes of training images: the fields of `--augment`, such as `{"flip": 0.5}`.
        transforms: a function of (image, target) that returns the two, such as a composition of
            `torchvision.transforms.v2`, called on every training image. The image is a `tv_tensors.Image`, the target a
            dict with the fields of Target that the task learns: `label`, or `boxes` (`tv_tensors.BoundingBoxes`),
            `labels`, `crowd`, `masks` (`tv_tensors.Mask` [N, H, W]), `keypoints` (`tv_tensors.KeyPoints`) and
            `visibility`. It takes the place of the augmentation; with `augment` as well, it comes before that. Images
            are resized to the input and normalised afterwards.
        callbacks: of Lightning, beside Vertebra's.
        logger: where metrics are logged: `tensorboard` (if None), `csv`, `wandb`, `mlflow`, a Logger of Lightning, or a
            list of these.
        settings: everything else that `vertebra train --help` lists, by the same names: `epochs`, `lr`, `optimizer`,
            `weights`, `output`, `resume`, ...; those of `--data` without that prefix: `batch_size`, `image_size`,
            `workers`, `val_share`, `channels`, `resize`; those of `--distill`, which `teacher` needs, as a mapping:
            `distill={"loss": "hard"}`.

    Returns:
        The run: its folder, the best model's file, epoch and metrics, the history; `run.load()` gives a Predictor.

    Raises:
        VertebraError: for unknown names (with the nearest that exists), values out of range, data that does not fit the
            task, and everything else that the user can correct.
    """
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from vertebra import kinds, tasks
    from vertebra.engine import settings as engine
    from vertebra.engine import train as training
    from vertebra.errors import VertebraError, shown

    options = {**(model or {}), **({} if backbone is None else {"backbone": backbone})}
    is_path = isinstance(data, str | os.PathLike)
    path = os.fspath(data) if isinstance(data, str | os.PathLike) else type(data).__name__
    if transforms is not None and augment is None:
        augment = vars(kinds.find(tasks.find(task, method).MODEL.kind).no_augment)
    overrides = {**settings, "model": options, "augment": augment, "data.path": path}
    loggers = list(logger) if isinstance(logger, list | tuple) else [logger]
    if logger is not None:
        overrides["logger"] = [name for name in loggers if not isinstance(name, Logger)]
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise VertebraError(f"callbacks holds {shown(callback)}; it takes Callbacks of Lightning.")
    return training.train(
        engine.resolve(task, method, overrides),
        None if is_path else data,
        transforms=transforms,
        callbacks=callbacks,
        loggers=[log for log in loggers if isinstance(log, Logger)],
    )


def train_heads(
    heads: Mapping[str, Mapping[str, Any]],
    *,
    backbone: str | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Run:
    """Trains several tasks over one backbone, as `vertebra train multi` does.

        heads = {"boxes": {"task": "detection"}, "classes": {"task": "classification", "weight": 0.5}}
        run = vertebra.train_heads(heads, backbone="resnet18", path="shapes", image_size=128)
        run.load()("street.jpg")[0]["boxes"]

    Args:
        heads: the heads by name; each has a `task`, and may have `model`, `data`, `augment`, `balance`, `weight` and
            `share`, as docs/guides/multi.md has them.
        backbone: as in `create`; resnet50, or that of the run that is resumed, if None.
        callbacks: of Lightning, beside Vertebra's.
        settings: what `vertebra train multi --help` lists besides, by the same names; those of `--data` without that
            prefix, `path` among them.

    Returns:
        The run; the metrics of the best model are called `HEAD/METRIC`.

    Raises:
        VertebraError: for every mistake of the user.
    """
    from vertebra.engine import multi
    from vertebra.engine.head_settings import resolve_heads

    given = {"heads": heads, **({} if backbone is None else {"model.backbone": backbone}), **settings}
    return multi.train(resolve_heads(given), callbacks=callbacks)


def evaluate(
    model: Task | Predictor | Run | str | Path,
    *,
    data: str | Path | Dataset | Mapping[str, Dataset] | None = None,
    split: str = "val",
    batch_size: int | None = None,
    workers: int | None = None,
    val_share: float | None = None,
    seed: int | None = None,
    tta: bool = False,
    tile: int = 0,
    overlap: float = 0.2,
    refine: str | Path | Refiner | None = None,
    detector: str | Path | Predictor | None = None,
    boxes: str | None = None,
    strict: bool = False,
    device: str | None = None,
) -> Evaluation:
    """Measures a trained model on a data set, as `vertebra evaluate` does.

    Args:
        model: a checkpoint of Vertebra or the run folder that holds it, a Run, a Predictor, or a task's model.
        data: as in `train`; the data that the model was trained on if None.
        split: `train`, `val` or `test`.
        batch_size: images per forward pass, which changes no number; chosen by the kind of task if None.
        workers: processes that read images; chosen by the number of cores if None.
        val_share: share set apart for validation where the data has no val split, as in training if None. Data that
            the model was not trained on is then evaluated whole.
        seed: of that split; as in training if None.
        tta, tile, overlap: as in `Predictor.predict`; not for a task's model.
        refine, detector: as in `load`; only for a model from a file. A Predictor that has a refiner or a detector is
            measured with it.
        boxes: of the objects whose keypoints are predicted: `annotations`, `image` (every image shows one object), or a
            file of COCO results; as in training if None.
        strict: whether the first unreadable image or wrong annotation is an error instead of being listed.
        device: where a model from a file runs, as in `load`.

    Returns:
        The evaluation: `metrics`, a row per image, and `worst(count)`.

    Raises:
        VertebraError: if the data is missing, does not fit the model, or cannot be read.
    """
    from vertebra import export, kinds, tasks
    from vertebra.engine import evaluate as engine
    from vertebra.engine.train import Run
    from vertebra.errors import VertebraError
    from vertebra.predict import MultiPredictor, Predictor

    about: Mapping[str, Any] = {}
    if isinstance(model, Run):
        model = model.best
    predict = None
    for name, part in (("refine", refine), ("detector", detector)):
        if isinstance(model, tasks.Task | Predictor) and part is not None:
            raise VertebraError(
                f"{name} needs the model's checkpoint: give its path, or `vertebra.load(..., {name}=...)`."
            )
    parts = (model.refiner, model.detector) if isinstance(model, Predictor) else (refine, detector)
    if tta or tile or any(part is not None for part in parts):
        if isinstance(model, tasks.Task):
            raise VertebraError("tta and tile need a checkpoint or what `vertebra.load` returned, not a model.")
        model = (
            model if isinstance(model, Predictor) else Predictor(model, device=device, refine=refine, detector=detector)
        )
        predict = model.merged(tile=tile, overlap=overlap, tta=tta)
    if isinstance(model, tasks.Task):
        task = model
    elif isinstance(model, Predictor):
        task, about = model.task, model.about
    elif isinstance(model, MultiPredictor):
        raise VertebraError(
            f"a model of the heads {', '.join(model.heads)} is evaluated one by one: give model.heads[NAME]."
        )
    else:
        task, about = export.open_model(model, device=device)
    selection = engine.select(
        task, about, data, split=split, val_share=val_share, seed=seed, boxes=boxes, detector=parts[1] is not None
    )
    selection.catalogue.skipped(strict=strict)
    return engine.evaluate(
        task,
        selection.samples,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
        metric_options=kinds.find(task.kind).metric_options(about, selection.catalogue),
        predict=predict,
    )


def load(
    path: str | Path,
    *,
    device: str | None = None,
    precision: str = "32-true",
    engine: str | None = None,
    refine: str | Path | Refiner | None = None,
    detector: str | Path | Predictor | None = None,
    head: str | None = None,
    model: Mapping[str, Any] | None = None,
) -> Any:
    """A trained model from the one file that `vertebra train` wrote, made fast for prediction.

    Args:
        path: a `best.safetensors`, the run folder that holds it, or an exported `.onnx` or `.xml`, whose engine runs it
            on the CPU.
        device: `cpu`, `cuda`, `mps`, one GPU such as `cuda:1`, or `auto`: a GPU if there is one, else the CPU, as for
            None.
        precision: of convolutions and matrix products: `32-true`, `bf16-mixed` (twice as fast on CPUs and GPUs that
            have such instructions, with predictions that differ in the third digit), `16-mixed` (GPUs), or `int8`
            (engines `onnx`, `openvino` and `auto`; calibrated on the data that the model was trained on).
        engine: `folded` (as for None: the norms in the weights), `eager` (as trained), `compiled` (the folded model by
            torch.compile) or `frozen` (the same with constant weights), `onnx` or `openvino` (exported beside the
            checkpoint at the first call), or `auto`: what is the fastest on this machine, which is measured at the
            first call and remembered beside the checkpoint.
        refine: a checkpoint of `vertebra train refinement`, by which the masks of all predictions are refined, or a
            `vertebra.refine.Refiner` with options of its own.
        detector: of models for pose: a checkpoint or Predictor of a model that predicts boxes, which finds the objects
            whose keypoints are predicted. Without one, every image is taken for one object.
        head: of a checkpoint of several heads, the one whose model it is.
        model: options of the model that decide how predictions are made of its outputs, in place of those that it was
            trained with: `{"nms_threshold": 0.6, "max_detections": 300}` of a detector, `{"beam": 1}` of a translator.

    Returns:
        A Predictor; of a checkpoint of several heads, if `head` is None, a MultiPredictor, whose predictions for an
        image are those of every head by its name.

    Raises:
        VertebraError: if the file is damaged or was not written by Vertebra, the precision does not exist, or `refine`
            or `detector` is given for a model that has no use for it, or does not fit it.
    """
    from vertebra import export
    from vertebra.engine import checkpoint
    from vertebra.errors import VertebraError
    from vertebra.predict import MultiPredictor, Predictor

    if head is None and not export.is_exported(path) and checkpoint.has_heads(path):
        for name, part in (("refine", refine), ("detector", detector)):
            if part is not None:
                raise VertebraError(f"{name} is for one head of {path}: name it, as head=NAME.")
        if model:
            raise VertebraError(f"{', '.join(model)}: options are of one head of {path}: name it, as head=NAME.")
        return MultiPredictor(path, device=device, precision=precision, engine=engine)
    return Predictor(
        path,
        device=device,
        precision=precision,
        engine=engine,
        refine=refine,
        detector=detector,
        head=head,
        model=model,
    )


def explain(
    model: Task | str | Path,
    images: Any,
    *,
    techniques: Sequence[str] = ("grad_cam",),
    classes: Sequence[str] = (),
    point: Sequence[int] | None = None,
    keypoint: str = "",
    top: int = 1,
    level: int | None = None,
    window: int | None = None,
    device: str | None = None,
) -> list[Explanation]:
    """Which pixels the answers of a model depend on, as `vertebra explain` shows it.

        for explanation in vertebra.explain("best.safetensors", "photo.jpg", techniques=["grad_cam", "occlusion"]):
            explanation.plot().save(f"{explanation.technique}.png")

    Args:
        model: a checkpoint of Vertebra or the run folder that holds it, or a task's model.
        images: one image or a sequence of them: path, PIL image, array [H, W, C] or tensor [C, H, W].
        techniques: `grad_cam`, `grad_cam_plus_plus`, `occlusion`; for ViT, DeiT and Swin also `attention_rollout` and
            `last_attention`.
        classes: names of the classes whose answers are explained; those that the model predicts if empty.
        point: x, y of a pixel, whose class is explained, or the object in whose box it lies.
        keypoint: name of the keypoint that is explained, of models that predict keypoints; the object as a whole if
            empty.
        top: answers explained per image: the top classes, the top-scoring objects, or the classes with most pixels.
        level: feature map of the backbone that Grad-CAM reads, 0 is the finest; the coarsest one that the answer
            depends on if None.
        window: side of the occluded squares in pixels of the input; an eighth of its longer side if None.
        device: where a model from a file runs, as in `load`.

    Returns:
        The explanations, image by image, answer by answer; `map` is [H, W] in 0..1, in pixels of the image. Of an image
        in which nothing is predicted there are none.

    Raises:
        VertebraError: if an image cannot be read, a name is unknown, or an option does not apply to the model or to
            the techniques.
    """
    from vertebra.images import as_list
    from vertebra.predict.explain import Explainer

    explainer = Explainer(model, techniques, device=device, level=level, window=window)
    return [
        explanation
        for image in as_list(images)
        for explanation in explainer(image, classes=classes, point=point, keypoint=keypoint, top=top)
    ]
