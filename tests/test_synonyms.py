"""What users of other libraries type: each table leads to something that exists."""

import pytest

from vertebra import synonyms, tasks
from vertebra.cli import VERBS, main
from vertebra.cli.train import _arguments

PAIRS = [(task, method) for task in tasks.names() for method in tasks.methods(task)]


@pytest.fixture(scope="module")
def train_options():
    """The options of each task and method."""
    return {pair: list(_arguments(*pair).options) for pair in PAIRS}


def test_every_option_of_training_exists_for_some_task(train_options):
    known = {name for options in train_options.values() for name in options}
    assert set(synonyms.OPTIONS["train"]) <= known


@pytest.mark.parametrize("command", [command for command in synonyms.OPTIONS if command != "train"])
def test_every_option_of_the_other_commands_exists(command, capsys):
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    words = capsys.readouterr().out.split()
    assert {f"--{name}" for name in synonyms.OPTIONS[command]} <= set(words)


@pytest.mark.parametrize("command", [verb for verb in VERBS if verb not in synonyms.OPTIONS])
def test_commands_without_a_table_name_options_that_they_lack(command, capsys):
    assert main([command, "x", "--bogus=1"]) == 2
    assert "bogus" in capsys.readouterr().err


def test_commands_and_tasks_exist():
    assert set(synonyms.VERBS) == set(VERBS)
    assert set(synonyms.TASKS) == set(tasks.names())
    assert {*synonyms.OPTIONS, *synonyms.ARGUMENTS, *synonyms.REMARKS} <= {*VERBS, "data convert"}


def test_no_name_stands_twice_or_is_ours(train_options):
    for table in (synonyms.VERBS, synonyms.TASKS, *synonyms.OPTIONS.values()):
        names = [name for names in table.values() for name in names.split()]
        assert len(names) == len(set(names))
        assert not set(names) & set(table)
    for options in train_options.values():
        assert not set(options) & {name for names in synonyms.OPTIONS["train"].values() for name in names.split()}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "train detection --imgsz=640",
            "--imgsz is not an option of vertebra train detection. Here it is --data.image_size.",
        ),
        ("train --batch 16", "Here it is --data.batch_size."),
        ("train --name x", "Here it is --output."),
        ("train --output-dir x", "Here it is --output."),
        ("train -b 16", "-b is not an option of vertebra train classification. Here it is --data.batch_size."),
        ("train --model=resnet18", "Here it is --model.backbone."),
        ("train --data=images", "Here it is --data.path."),
        ("train --weight-decay=0", "Here it is --weight_decay."),
        ("train --SOLVER.BASE_LR=0.1", "Here it is --lr."),
        ("train detection --conf=0.2", "Here it is --model.score_threshold."),
        ("train --conf=0.2", "There is no --model.score_threshold for this task."),
        ("train detection --balance", "There is no --balance for this task."),
        ("train --num-classes=3", "There is none: the data says how many classes there are."),
        (
            "train data=coco.yaml epochs=3",
            "does not take data=coco.yaml: options begin with --. Here it is --data.path.",
        ),
        ("predict run a.png --conf=0.2", "Here it is --threshold."),
        ("predict --source=a.png", "It stands after the checkpoint: vertebra predict RUN IMAGES."),
        ("predict run a.png --imgsz=64", "There is none: the checkpoint decides the input size."),
        ("evaluate run --batch=2", "Here it is --data.batch_size."),
        (
            "train segment",
            "task is 'segment'; there are captioning, classification, detection, instance, keypoints, multilabel, "
            "pose, refinement, saliency, semantic, text_classification, translation. Here it is 'instance'.",
        ),
        ("train instance-segmentation", "Here it is 'instance'."),
        ("train segmentation", "Here it is 'semantic'."),
        ("train sod", "Here it is 'saliency'."),
        ("train multi-label", "Here it is 'multilabel'."),
        ("train landmarks", "Here it is 'pose'."),
        ("train obb", "There is no task for boxes that are rotated yet."),
        ("val run", "Here it is 'evaluate'."),
        ("fit", "Here it is 'train'."),
        ("--imgsz", "no command is called '--imgsz'; there are train,"),
    ],
)
def test_what_others_type(words, sentence, capsys):
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
