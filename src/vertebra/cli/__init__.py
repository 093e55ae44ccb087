"""The command line: one module per verb. This one imports nothing heavy, so that help comes at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import vertebra
from vertebra.errors import VertebraError, nearest

VERBS = {
    "train": "train a model on your pictures",
    "evaluate": "measure a trained model on a data set",
    "predict": "ask a trained model about pictures",
    "models": "list every backbone: parameters, multiply-adds, levels, known weights",
    "data": "show what is in a data set and what is wrong with it",
    "verify": "compare every backbone with its reference numbers on this machine",
}

HELP = f"""vertebra {vertebra.__version__}: every vision backbone under every recognition task

usage: vertebra VERB [options]        vertebra VERB --help says more

{chr(10).join(f"  {verb:10}{text}" for verb, text in VERBS.items())}

examples:
  vertebra train classification --data.path=pictures/ --model.backbone=resnet18 --epochs=30
  vertebra evaluate runs/classification-resnet18-1/best.safetensors --data.path=pictures/
  vertebra predict runs/classification-resnet18-1/best.safetensors photo.jpg --save=out/

  vertebra train instance --data.path=my_coco/ --model.backbone=resnet50 --weights=resnet50.a1_in1k
  vertebra predict runs/instance-resnet50-1 street.jpg --threshold=0.5 --save=out/

tasks: classification, detection (boxes), instance (masks), keypoints
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the process's exit status: 0, or 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a file's name may be no text
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"vertebra {vertebra.__version__}")
        return 0
    try:
        verb, *rest = arguments
        if verb not in VERBS:
            raise VertebraError(f"no command is called {verb!r}; there are {', '.join(VERBS)}.{nearest(verb, VERBS)}")
        importlib.import_module(f"vertebra.cli.{verb}").run(rest)
    except VertebraError as error:
        print(f"vertebra: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        sys.stderr.close()
        return 0
    except OSError as error:  # no space, no permission, a file where a folder should be
        where = f"{error.filename}: " if error.filename else ""
        print(f"vertebra: {where}{error.strerror or error}.", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ != "OutOfMemoryError" and not isinstance(error, MemoryError):
            raise  # a fault of ours
        print("vertebra: there is not enough memory: lower the batch size, or use smaller pictures.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vertebra: stopped.", file=sys.stderr)
        return 130
    return 0
