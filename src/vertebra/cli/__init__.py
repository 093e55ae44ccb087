"""The command line: one module per verb. This one imports nothing heavy, so that help is printed at once."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import time
import warnings
from collections.abc import Sequence

import vertebra
from vertebra import synonyms
from vertebra.cli.stand_ins import stand_ins
from vertebra.errors import VertebraError, escaped, is_out_of_memory, nearest, shown

VERBS = {
    "train": "train a model on your images",
    "evaluate": "compute a trained model's metrics on a dataset",
    "predict": "run a trained model on images and videos",
    "label": "store a model's predictions as a dataset to train others on",
    "serve": "serve trained models over HTTP, with a web page",
    "explain": "show which pixels an answer of a trained model depends on",
    "refine": "sharpen the masks in the results of any tool, and judge them before and after",
    "export": "write a trained model as ONNX, OpenVINO or torch.export, compared with the original",
    "tune": "measure the engines that can run a trained model, and remember the fastest",
    "models": "list all backbones: parameters, multiply-adds, levels, known weights",
    "methods": "list all methods: task, paper, checkpoints they read",
    "recipes": "list published training recipes: task, source, score",
    "data": "show the contents of a dataset and its problems; convert it",
    "verify": "compare every backbone with its reference outputs on this machine",
}

MEMORY = {
    "train": "lower --data.batch_size (and raise --accumulate), or set --checkpointing",
    "evaluate": "lower --data.batch_size or --data.workers",
    "refine": "lower --batch_size",
    "label": "lower --batch_size",
    "predict": "lower --batch_size, or cut large images with --tile",
    "serve": "serve fewer models, or lower --max_batch",
    "explain": "use smaller images, or --techniques=occlusion",
}
"""By verb, what takes less memory."""

EXAMPLES = """
  vertebra train classification --data.path=images/ --model.backbone=resnet18 --epochs=30
  vertebra evaluate runs/classification-resnet18-1/best.safetensors --data.path=images/
  vertebra predict runs/classification-resnet18-1/best.safetensors photo.jpg --save=out/

  vertebra train instance --data.path=my_coco/ --model.backbone=resnet50 --weights=resnet50.a1_in1k
  vertebra predict runs/instance-resnet50-1 street.jpg --threshold=0.5 --save=out/
"""


def task_names() -> list[str]:
    """The folders of `vertebra.tasks`, without importing it and torch with it."""
    spec = importlib.util.find_spec("vertebra.tasks")
    assert spec is not None
    return [module.name for module in pkgutil.iter_modules(spec.submodule_search_locations) if module.ispkg]


def help_text() -> str:
    """The text of `vertebra --help`."""
    verbs = "\n".join(f"  {verb:10}{text}" for verb, text in VERBS.items())
    return (
        f"vertebra {vertebra.__version__}: every vision backbone under every recognition task\n\n"
        "usage: vertebra VERB [options]        vertebra VERB --help lists the options\n\n"
        f"{verbs}\n\nexamples:{EXAMPLES}\ntasks: {', '.join(task_names())}\n"
    )


def _run(verb: str, words: Sequence[str]) -> None:
    importlib.import_module(f"vertebra.cli.{verb}").run(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the process's exit status: 0, or 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # the name of a file may not be valid text
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"vertebra {vertebra.__version__}")
        return 0
    warnings.formatwarning = lambda message, *_: f"vertebra: {message}\n"
    verb, *rest = arguments
    try:
        if verb not in VERBS:
            here = synonyms.find(synonyms.VERBS, verb)
            hint = f" Here it is {here!r}." if here else nearest(verb, VERBS)
            raise VertebraError(f"no command is called {shown(verb)}; there are {', '.join(VERBS)}.{hint}")
        if {"-h", "--help"} & set(rest):
            with contextlib.suppress(Exception), stand_ins():  # what does not work with them works without
                _run(verb, rest)
        _run(verb, rest)
    except VertebraError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":  # of several processes, all may fail for the same reason
            time.sleep(3)  # until the first has ended, and with it this one
        print(f"vertebra: {escaped(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        with contextlib.suppress(OSError, ValueError):  # what is left to write at the end goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            hint = MEMORY.get(verb, "use smaller images")
            print(f"vertebra: there is not enough memory: {hint}.", file=sys.stderr)
        elif isinstance(error, OSError):  # no space, no permission, a file where a folder should be
            where = escaped(f"{error.filename}: ") if error.filename else ""
            print(f"vertebra: {where}{error.strerror or error}.", file=sys.stderr)
        else:
            raise  # a bug
        return 2
    except KeyboardInterrupt:
        print("vertebra: stopped.", file=sys.stderr)
        return 130
    return 0
