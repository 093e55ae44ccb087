"""`vertebra predict CHECKPOINT SOURCE...`: predictions on the screen, and in files with --save."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vertebra.cli.parsing import parse, parser
from vertebra.errors import VertebraError, escaped
from vertebra.files import expanded

if TYPE_CHECKING:
    from vertebra.predict import Predictor
    from vertebra.predict.sources import VideoSource


@dataclass
class Options:
    save: str | None = None
    """Folder for the images and videos with the predictions drawn in, and the files of --format."""
    format: str | None = None
    """Files beside the drawings: of objects `coco` (COCO results and a table; the default), `yolo` (a label file per
    image: boxes, polygons or keypoints), or for annotation tools `voc` (boxes), `labelme` and `cvat`, each with the
    images; of label maps and saliency maps `coco` adds the polygons of their regions. Needs --save."""
    scores: bool = False
    """With --format=yolo, end each line with the object's score."""
    crops: bool = False
    """Save each object as an image of its own, in a folder per class; needs --save."""
    stream: bool = False
    """Write each result at once, as a line of JSON: to predictions.jsonl in the folder of --save, or else to standard
    output. Ctrl-C ends the command with all files complete."""
    threshold: float | None = None
    """Detections with a lower score are dropped, 0..1; default: the checkpoint's best F1, else 0.5."""
    tile: int = 0
    """Cut images with a longer side into tiles of this side in pixels; 0 predicts on whole images."""
    overlap: float | None = None
    """Smallest share of a tile's side that neighbouring tiles have in common, up to 0.5; default: 0.2."""
    tta: bool = False
    """Test-time augmentation: merge the predictions on the image, the mirrored image and, for objects, smaller and
    larger images."""
    refine: str | None = None
    """Checkpoint of `vertebra train refinement`, by which the masks are refined."""
    detector: str | None = None
    """Checkpoint of a detector, which finds the objects whose keypoints are predicted; without one, every image is
    taken for one object."""
    head: str | None = None
    """Of a checkpoint of several heads, the one whose model predicts; all of them without it."""
    model: dict[str, Any] = field(default_factory=dict)
    """Options of the model by which predictions are made of its outputs, in place of those that it was trained with,
    such as --model.nms_threshold=0.6 of a detector or --model.beam=1 of a translator."""
    every: int | None = None
    """Of videos, predict on every N-th frame; default: 1."""
    top: int | None = None
    """Classes listed per image, of tasks that rank classes; default: 3."""
    embeddings: bool = False
    """Save the pooled features too, as embeddings.npz with `paths` and `embeddings`; needs --save."""
    runner: Literal["ray"] | None = None
    """Runs a big job on the processes of a Ray cluster, or of this machine: folders, .tar and .parquet files, also by
    URL, to Parquet tables; needs --output."""
    output: str | None = None
    """With --runner, folder or URL for the tables. Images whose rows are there are not predicted on again."""
    workers: int | None = None
    """With --runner, processes with a model each; default: one per GPU, else one per CPU."""
    annotations: str | None = None
    """COCO file of the dataset, whose ids of images and classes predictions.json then has."""
    batch_size: int | None = None
    """Most images per forward pass; default: 16, on a CPU fewer if they are large, and 1 with --stream."""
    strict: bool = False
    """Stop at the first image that cannot be read, instead of skipping it."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`, one GPU such as cuda:1, or `auto`: a GPU if there is one, else the CPU; default: auto."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "int8"] = "32-true"
    """Number format of the computation; bf16-mixed is faster on processors that have such instructions; int8 is for
    engines that run the model exported, and for auto."""
    engine: Literal["eager", "folded", "compiled", "frozen", "onnx", "openvino", "auto"] | None = None
    """What computes: `eager` is the model as trained, `folded` has its norms in the weights, `compiled` is that by
    torch.compile, and `frozen` the same with constant weights; `onnx` and `openvino` run it exported; `auto` is the
    fastest of these on this machine; default: folded."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("predict", "Runs a trained model on images, videos, cameras and streams.")
    arguments.add_argument(
        "checkpoint", help="best.safetensors, the run folder that holds it, or an exported .onnx or .xml."
    )
    arguments.add_argument(
        "sources",
        nargs="+",
        help="Image and video files, folders, patterns such as 'in/*.jpg', URLs, lists (.txt) of paths and URLs, "
        "a camera's index such as 0, rtsp:// and rtmp:// streams, or - for an image or a list on standard input. "
        "Of models that read texts: files with a text per line, texts, or - for lines on standard input.",
    )
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)

    if options.runner:
        _run_job(options)
        return
    for name in ("output", "workers"):
        if getattr(options, name) is not None:
            raise VertebraError(f"--{name} is for big jobs: it needs --runner=ray.")

    import vertebra
    from vertebra.predict.folder import PredictionFolder
    from vertebra.predict.multi import MultiFolder, MultiPredictor
    from vertebra.predict.predictor import usual_batch_size
    from vertebra.predict.session import Session
    from vertebra.predict.sources import VideoSource, expand

    predictor = vertebra.load(
        options.checkpoint,
        device=options.device,
        precision=options.precision,
        engine=options.engine,
        refine=options.refine,
        detector=options.detector,
        head=options.head,
        model=options.model,
    )
    several = isinstance(predictor, MultiPredictor)
    if several:
        _check_heads(options)
    elif not predictor.kind.reads_images:
        _predict_texts(options, predictor)
        return
    sources = list({source.name: source for word in options.sources for source in expand(word)}.values())
    videos = [source for source in sources if isinstance(source, VideoSource)]
    _check(options, videos)
    if not several:
        _check_kind(options, predictor)
    ids = predictor.kind.dataset_ids(options.annotations, predictor.classes) if options.annotations else None
    image_ids = ids.of_all([Path(source.name) for source in sources]) if ids else [None] * len(sources)
    stream = partial(
        predictor.stream,
        batch_size=options.batch_size or usual_batch_size(predictor.task, stream=options.stream),
        threshold=options.threshold,
        every=options.every or 1,
    )
    if not several:
        overlap = 0.2 if options.overlap is None else options.overlap
        stream = partial(stream, tile=options.tile, overlap=overlap, tta=options.tta)
    stream([])  # checks the options before the first image is read
    top = options.top or 3
    with ExitStack() as stack:
        folder: Any = None
        lines: Any = None
        if options.save:
            more = {"format": options.format or "", "scores": options.scores, "crops": options.crops}
            if several:
                folder = MultiFolder(options.save, sources, predictor, top=top)
            else:
                folder = PredictionFolder(options.save, sources, predictor, ids=ids, top=top, **more)
            stack.enter_context(folder)
        if options.stream:
            path = expanded(options.save) / "predictions.jsonl" if options.save else None
            lines = stack.enter_context(path.open("w", encoding="utf-8")) if path else sys.stdout
        session = Session(predictor, stream, top=top, strict=options.strict, folder=folder, lines=lines)
        session.run(sources, image_ids)
        word = "files" if videos else "images"
        if session.skipped:
            session.say(f"{session.skipped} of {len(sources)} {word} could not be read and were skipped")
        if not session.read and not session.stopped.is_set():
            raise VertebraError(f"none of the {word} could be read.")
    for name, model in predictor.heads.items() if several else [("", predictor)]:
        if "detector" in model.kind.options and model.detector is None:
            session.say("without --detector, every image was taken for one object")
        if "threshold" in model.kind.options:
            hidden = model.below_threshold if several else session.below_threshold
            session.say(f"{name}{': ' * several}{_threshold_line(model, options.threshold, hidden)}")
    if options.engine == "auto" and not several:
        measured = ", the fastest on this machine" if predictor.device.type == "cpu" else ""
        session.say(f"engine {predictor.engine} in {predictor.precision}{measured}")
    if folder:
        if options.embeddings:
            folder.embed()
        session.say(folder.summary())
    if session.stopped.is_set() and not any(source.live for source in videos):
        raise KeyboardInterrupt  # of a live source it is the usual end


def _check_heads(options: Any) -> None:
    """Refuses the options that are for a single model, where a checkpoint has several heads."""
    kept = ("save", "stream", "threshold", "every", "top", "batch_size", "strict", "device", "precision", "engine")
    _only(options, kept, "is for one head: name it with --head, and it predicts as a model of its own")


def _only(options: Any, kept: Collection[str], why: str) -> None:
    """Refuses options that have no effect."""
    for name, value in vars(Options()).items():
        if name not in kept and getattr(options, name) != value:
            raise VertebraError(f"--{name} {why}.")


def _run_job(options: Any) -> None:
    """Predicts on a cluster."""
    from vertebra.predict import jobs

    load = ("device", "precision", "engine", "refine", "detector", "head", "model")
    stream = ("threshold", "tile", "overlap", "tta")
    kept = (*load, *stream, "runner", "output", "workers", "batch_size", "top")
    _only(options, kept, "has no effect on big jobs, which write Parquet tables: leave it out")
    if not options.output:
        raise VertebraError("--runner needs --output=FOLDER to write to.")
    _check(options, [])
    summary = jobs.run(
        options.checkpoint,
        options.sources,
        options.output,
        workers=options.workers,
        load={name: value for name in load if (value := getattr(options, name)) not in (None, {})},
        stream={name: getattr(options, name) for name in (*stream, "batch_size") if getattr(options, name) is not None},
        top=options.top or 3,
    )
    if summary.before:
        print(f"{summary.before} images were done before")
    print(escaped(f"{summary.predicted} images predicted on, in {options.output}/predictions"))
    if summary.unreadable:
        print(escaped(f"{summary.unreadable} images could not be read: see {options.output}/errors"))


def _predict_texts(options: Any, predictor: Predictor) -> None:
    """Predicts on texts."""
    from vertebra.predict import sentences

    kept = {"save", "batch_size", "strict", "device", "precision", "refine", "detector", "model", "engine"}
    kept |= {"top"} & predictor.kind.options
    _only(options, kept, f"is for models that read images; {options.checkpoint} reads texts")
    for flag in ("batch_size", "top"):
        if (number := getattr(options, flag)) is not None and number < 1:
            raise VertebraError(f"--{flag} is {number}; it must be 1 or more.")
    sentences.predict(
        predictor,
        options.sources,
        save=options.save,
        batch_size=options.batch_size or 32,
        strict=options.strict,
        top=options.top or 3,
    )


def _threshold_line(predictor: Predictor, option: float | None, hidden: int) -> str:
    """The score threshold, where it comes from, and what it hides."""
    if option is not None:
        threshold, origin = option, "--threshold"
    elif predictor.class_thresholds is not None:
        return "thresholds of the classes: best F1 of the checkpoint's evaluation"
    elif predictor.measured_threshold is not None:
        threshold, origin = predictor.threshold, "best F1 of the checkpoint's evaluation"
    else:
        threshold, origin = predictor.threshold, "default"
    line = f"score threshold {threshold:.4g} ({origin})"
    return f"{line}: {hidden} detection{'s' * (hidden != 1)} below it" if predictor.kind.objects else line


def _check(options: Any, videos: Sequence[VideoSource]) -> None:
    """Checks that need no model."""
    for flag in ("embeddings", "annotations", "format", "crops"):
        if getattr(options, flag) and not options.save:
            raise VertebraError(f"--{flag} needs --save=FOLDER to write to.")
    for flag in ("embeddings", "annotations"):
        if getattr(options, flag) and videos:
            raise VertebraError(f"--{flag} is for images, and {videos[0].name} is a video.")
    written = options.annotations and expanded(options.save) / "images.json"
    if written and written.resolve() == expanded(options.annotations).resolve():
        raise VertebraError(f"{options.annotations} would be overwritten: choose another folder to save to.")
    for flag in ("top", "every", "batch_size", "workers"):
        if (number := getattr(options, flag)) is not None and number < 1:
            raise VertebraError(f"--{flag} is {number}; it must be 1 or more.")
    if options.overlap is not None and not options.tile:
        raise VertebraError("--overlap is for tiles: it needs --tile=PIXELS.")
    if options.scores and options.format != "yolo":
        raise VertebraError("--scores is for label files: it needs --format=yolo; other files have the scores.")
    from vertebra.predict import video

    if options.every is not None and not videos:
        raise VertebraError(f"--every is for videos ({', '.join(video.SUFFIXES)}), and none is given.")
    if videos:
        video.library()


def _check_kind(options: Any, predictor: Predictor) -> None:
    """Refuses the options that do not apply to the kind of prediction."""
    from vertebra import kinds

    for name in ("threshold", "tile", "overlap", "annotations", "top", "embeddings", "crops", "scores"):
        value = getattr(options, name)
        if value is not None and value is not False and (value != 0 or name == "threshold"):
            kinds.check_option(name, predictor.task, f"--{name}")
