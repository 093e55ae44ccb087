"""What the commands import: help needs no torch, and one prediction none of the libraries of training."""

import json
import subprocess
import sys

import pytest

from vertebra import synonyms, tasks
from vertebra.cli import main
from vertebra.cli.stand_ins import HEAVY, stand_ins

COMMANDS = [[*command.split(), "--help"] for command in synonyms.OPTIONS]
METHODS = [
    ["train", task, f"--model.method={method}", "--help"] for task in tasks.names() for method in tasks.methods(task)
]
SCRIPT = """
import contextlib, io, json, sys
from vertebra.cli import main
from vertebra.cli.stand_ins import stand_ins
out, texts = sys.stdout, []
def run(commands):
    for words in commands:
        sys.stdout = io.StringIO()
        with contextlib.suppress(SystemExit):
            main(words)
        texts.append(sys.stdout.getvalue())
run(json.loads(sys.argv[1]))
if sys.argv[2:]:
    with stand_ins():
        import torch  # a stand-in, if no command has imported the real one
        run(json.loads(sys.argv[2]))
json.dump({"texts": texts, "modules": list(sys.modules)}, out)
"""


def run(*commands: list[list[str]]) -> dict[str, list[str]]:
    """What commands print in a fresh process, and the modules that they import; those of a second list share one
    import of their modules, with stand-ins."""
    words = [sys.executable, "-c", SCRIPT, *map(json.dumps, commands)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_help_without_torch_is_that_with_it(capsys):
    without = run(COMMANDS, METHODS)
    assert not {*HEAVY, "matplotlib", "huggingface_hub"} & set(without["modules"])
    for words, text in zip([*COMMANDS, *METHODS], without["texts"], strict=True):
        with pytest.raises(SystemExit):
            main(words)
        assert capsys.readouterr().out == text, words


def test_help_leaves_no_stand_ins():
    """A help, and then training's modules: they take the real torch."""
    code = (
        "import contextlib; from vertebra.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['train', '--help'])\n"
        "from vertebra import tasks; import torch; import vertebra.kinds.base as base\n"
        "assert issubclass(tasks.Task, torch.nn.Module) and base.torch is torch and torch.zeros(2).sum() == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_stand_ins_do_nothing_where_torch_is_imported():
    import torch

    with stand_ins():
        assert sys.modules["torch"] is torch
        assert not any(type(finder).__module__ == stand_ins.__module__ for finder in sys.meta_path)


def test_a_prediction_imports_nothing_of_training(trained):
    result = run([["predict", str(trained), str(trained.parent / "photos" / "cat" / "0.png"), "--device=cpu"]])
    assert "cat" in result["texts"][0]
    slow = {
        "torchvision",
        "torch._dynamo",
        "lightning",
        "torchmetrics",
        "faster_coco_eval",
        "tensorboard",
        "matplotlib",
    }
    assert not slow & set(result["modules"])
