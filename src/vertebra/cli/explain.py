"""`vertebra explain CHECKPOINT SOURCE... --save=FOLDER`: which pixels the answers of a model depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from vertebra.cli.parsing import REQUIRED, parse, parser
from vertebra.errors import VertebraError, escaped
from vertebra.files import expanded


@dataclass
class Options:
    techniques: tuple[str, ...] = ("grad_cam",)
    """`grad_cam`, `grad_cam_plus_plus` and `occlusion`, for every backbone; `attention_rollout` and `last_attention`,
    for ViT, DeiT and Swin."""
    classes: tuple[str, ...] = ()
    """Classes whose answers are explained; default: those that the model predicts."""
    point: tuple[int, int] | None = None
    """x, y of a pixel: its class is explained, or the object in whose box it lies."""
    keypoint: str | None = None
    """Name of the keypoint that is explained, of models that predict keypoints; default: the object as a whole."""
    top: int = 1
    """Answers explained per image: the top classes, the top-scoring objects, or the classes with most pixels."""
    level: int | None = None
    """Feature map that Grad-CAM reads, 0 is the finest; default: the coarsest one that the answer depends on."""
    window: int | None = None
    """Side of the occluded squares in pixels of the input; default: an eighth of its longer side."""
    strict: bool = False
    """Stop at the first image that cannot be read, instead of skipping it."""
    device: str | None = None
    """`cpu`, `cuda`, `mps`, one GPU such as cuda:1, or `auto`: a GPU if there is one, else the CPU; default: auto."""


def run(argv: Sequence[str]) -> None:
    arguments = parser("explain", "Shows which pixels of images the answers of a trained model depend on.")
    arguments.add_argument("checkpoint", help="best.safetensors, or the run folder that holds it.")
    arguments.add_argument("sources", nargs="+", help="Image files, folders, patterns such as 'in/*.jpg', and URLs.")
    arguments.add_option("save", "Folder for an image per source, and explanations.html.", default=REQUIRED)
    arguments.add_class_arguments(Options)
    options = parse(arguments, argv)

    from vertebra.images import UnreadableImage
    from vertebra.predict.explain import Explainer
    from vertebra.predict.explain.explainer import save_sheet
    from vertebra.predict.folder import check_inputs, unique_names
    from vertebra.predict.sources import ImageSource, expand
    from vertebra.viz.report import write_page

    sources = list({source.name: source for word in options.sources for source in expand(word)}.values())
    for source in sources:
        if not isinstance(source, ImageSource):
            raise VertebraError(f"{source.name} is a video; images are explained: save its frames as images first.")
    folder, names = expanded(options.save), list(unique_names(sources))
    check_inputs(folder, names, sources)
    explainer = Explainer(
        options.checkpoint, options.techniques, device=options.device, level=options.level, window=options.window
    )
    explainer.labels(options.classes)  # unknown ones are an error before the first image
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{options.checkpoint} explained"
    parts = [f"<h1>{escape(escaped(title))}</h1>"]
    skipped = without = 0
    for source, name in zip(sources, names, strict=True):
        assert isinstance(source, ImageSource)
        try:
            pixels = source.fetch().read(explainer.task.preprocess.channels)
        except UnreadableImage as error:
            if options.strict:
                raise
            print(escaped(f"skipped: {error}"))
            skipped += 1
            continue
        explained = explainer(
            pixels,
            classes=options.classes,
            point=options.point,
            keypoint=options.keypoint or "",
            top=options.top,
        )
        answers = ", ".join(dict.fromkeys(explanation.answer.name for explanation in explained))
        print(escaped(f"{source.name}  {answers or 'nothing to explain'}"))
        if not explained:
            without += 1
            continue
        save_sheet(folder / name, explained)
        shown_name = escape(escaped(source.name))
        parts.append(f'<h2>{shown_name}</h2><img alt="{escape(escaped(answers))}" src="{quote(name)}">')
    count = len(sources) - skipped - without
    if skipped:
        print(f"{skipped} of {len(sources)} images could not be read and were skipped")
    if skipped == len(sources):
        raise VertebraError("none of the images could be read.")
    write_page(folder / "explanations.html", title, parts)
    print(f"{count} image{'s' * (count != 1)} and explanations.html in {folder}")
