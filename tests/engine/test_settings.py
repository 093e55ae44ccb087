"""What decides a run: default < recipe < what the user gave, in Python as on the command line."""

import dataclasses

import pytest
import yaml

import vertebra
from vertebra import kinds, options, tasks
from vertebra.cli import main
from vertebra.engine import settings as engine
from vertebra.engine.settings import Data, Settings, plain, resolve
from vertebra.errors import VertebraError


def test_recipe_over_default_and_user_over_recipe(brightness):
    settings = resolve(brightness, None, {"epochs": 7, "model": {"head": {"bias": True}}})
    assert settings.method == "means"
    assert (settings.optimizer, settings.lr, settings.epochs) == ("adamw", 0.01, 7)
    assert (settings.data.batch_size, settings.data.path) == (8, Data.path)
    assert settings.augment == kinds.find("category").augment(flip=0.25)
    assert settings.model == {"head.bias": True}  # set, though it is the default


@pytest.mark.parametrize(
    ("overrides", "lr"),
    [
        ({}, 0.01),
        ({"optimizer": "adamw"}, 0.01),
        ({"optimizer": "sgd"}, None),  # the recipe's rate is for the recipe's optimizer
        ({"optimizer": "sgd", "lr": 0.3}, 0.3),
        ({"lr": None}, None),
    ],
)
def test_the_recipes_learning_rate(brightness, overrides, lr):
    assert resolve(brightness, None, overrides).lr == lr


@pytest.mark.parametrize(
    ("overrides", "peak"),
    [
        ({}, 2.5e-5 * 4 / 16),
        ({"data.batch_size": 16}, 2.5e-5),
        ({"data.batch_size": 8, "accumulate": 4}, 5e-5),
        ({"lr": 1e-4}, 1e-4),  # the user's rate is that of the run
        ({"lr": 1e-4, "base_batch_size": 8}, 5e-5),
        ({"optimizer": "sgd"}, 0.02),
    ],
)
def test_the_recipes_learning_rate_is_scaled_to_the_images_per_step(overrides, peak):
    assert resolve("detection", "sparse_rcnn", overrides).peak_lr == pytest.approx(peak)


def test_nested_and_dotted_names_are_the_same(brightness):
    nested = {"data": {"batch_size": 2}, "augment": {"flip": 1.0}, "model": {"head": {"bias": False}, "width": 3}}
    dotted = {"data.batch_size": 2, "augment.flip": 1.0, "model.head.bias": False, "model": {"width": 3}}
    short = {"batch_size": 2, "augment.flip": 1, "model": {"head.bias": False, "width": 3}}
    assert resolve(brightness, None, nested) == resolve(brightness, None, dotted) == resolve(brightness, None, short)


def test_the_method_may_stand_among_the_options(brightness):
    assert resolve(brightness, None, {"model": {"method": "medians", "depth": 2}}).method == "medians"
    assert resolve(brightness, "medians", {"model.depth": 2}).model == {"depth": 2}


def test_every_recipe_is_made_of_settings():
    for task in tasks.names():
        for method in tasks.methods(task):
            settings = resolve(task, method, {})
            assert (settings.task, settings.method, settings.model) == (task, method, {})


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"epoch": 3}, "has no setting 'epoch'. Here it is epochs."),
        ({"batchsize": 3}, "has no setting 'batchsize'. Did you mean 'batch_size'?"),
        ({"data.batchsize": 3}, "has no setting 'data.batchsize'. Did you mean 'data.batch_size'?"),
        ({"augment": {"flop": 1}}, "has no setting 'augment.flop'. Did you mean 'augment.flip'?"),
        ({"width": 3}, "width is an option of the model, not of the run: give model={'width': ...}"),
        ({"head": {}}, "head is an option of the model"),
        ({"model": {"widht": 3}}, "no option 'widht'.*Did you mean 'width'?"),
        ({"model": {"head": {"bais": True}}}, "head has no option 'bais'.*Did you mean 'bias'?"),
        ({"model": {"depth": 3}}, "model.depth is an option of medians, not of means"),
        ({"model": {"depth": 3}}, "leave it out, or choose model.method=medians"),
        ({"model": 3}, "model is 3; it takes a mapping"),
        ({"epochs": "3"}, "epochs is '3'; it must be an integer"),
        ({"epochs": True}, "epochs is True; it must be an integer"),
        ({"lr": "high"}, "lr is 'high'; it must be a number or auto"),
        ({"strict": 1}, "strict is 1; it must be a boolean"),
        ({"batch_size": 2.5}, "data.batch_size is 2.5; it must be an integer"),
        ({"augment": {"flip": "x"}}, "augment.flip is 'x'; it must be a number"),
        ({"model": {"width": "x"}}, "model.width is 'x'; it must be an integer"),
        ({"model": {"head": {"bias": 2}}}, "model.head.bias is 2; it must be a boolean"),
        ({"optimizer": "adamv"}, "optimizer is 'adamv'; there are sgd, adamw, adam, rmsprop. Did you mean 'adam'?"),
        ({"schedule": "cosin"}, "schedule is 'cosin'; there are cosine, .*Did you mean 'cosine'?"),
        ({"schedule": "step"}, "schedule step needs step_epochs, such as"),
        ({"step_epochs": [3]}, "step_epochs has no effect with schedule cosine: leave it out, or choose schedule step"),
        ({"schedule": "step", "step_epochs": [3], "poly_power": 2}, "poly_power has no effect with schedule step"),
        ({"schedule": "constant", "final_lr_ratio": 0.5}, "choose schedule cosine or poly or one_cycle"),
        ({"schedule": "step", "step_epochs": [-1]}, "step_epochs is -1; it must lie between 0 and"),
        ({"nesterov": False}, "nesterov has no effect with optimizer adamw: leave it out, or choose optimizer sgd"),
        ({"warmup": 2, "warmup_steps": 5}, "warmup, in epochs, and warmup_steps are both given"),
        ({"resize": "crp"}, "resize is 'crp'.*Did you mean 'crop'?"),
        ({"imgsz": 64}, "has no setting 'imgsz'. Here it is data.image_size."),
        ({"seed": 2**70}, "seed is 1,180,591,620,717,411,303,424; it must lie between 0 and 4,294,967,295"),
        ({"epochs": 10**9}, "epochs is 1,000,000,000; it must lie between 1 and 1,000,000"),
        ({"lr": float("nan")}, "lr is nan; it must be a number"),
        ({"clip": float("inf")}, "clip is inf; it must be 0 or more and finite"),
        ({"layer_decay": 1e300}, "layer_decay is 1e.300; it must lie between 0 and 1"),
        ({"workers": 10**5}, "data.workers is 100,000; it must lie between 0 and"),
        ({"image_size": 1}, "data.image_size is 1; it must lie between 8 and 10,000"),
        ({"augment": {"colour": 1e9}}, "augment.colour is 1e.09; it must lie between 0 and 1"),
        ({"balance": True}, "balance has no effect in brightness: leave it out"),
        ({"freeze": "all"}, "freeze has no effect in brightness: leave it out"),
        ({"freeze_backbone": True}, "has no setting 'freeze_backbone'. Here it is freeze."),
        ({"freeze": "both"}, "freeze is 'both'; it must be a number or all"),
        ({"freeze": -1}, "freeze is -1; it must lie between 0 and"),
        ({"freeze": "all", "unfreeze_every": 2}, "unfreeze_every has no effect with freeze all"),
        ({"progressive": 1}, "progressive is 1; it must be 0, or the number of two or more stages"),
        ({"progressive": 4, "epochs": 3}, "progressive is 4; it must be 0, .* each at least, of 3"),
        ({"progressive_size": 32}, "progressive_size has no effect without progressive"),
        ({"repeats": 0}, "data.repeats is 0; it must lie between 1 and 1,000"),
        ({"resize": "fit"}, "data.resize is 'fit'; there are crop, squash"),
        ({"resume": "nowhere"}, "nowhere is not a run folder: it holds no config.yaml"),
    ],
)
def test_mistakes_are_named(brightness, overrides, sentence):
    with pytest.raises(VertebraError, match=sentence.replace("?", r"\?")):
        resolve(brightness, None, overrides)


def test_unknown_tasks_and_methods(brightness):
    with pytest.raises(VertebraError, match="Did you mean 'brightness'"):
        resolve("brightnes", None, {})
    with pytest.raises(VertebraError, match="Did you mean 'means'"):
        resolve(brightness, "mean", {})


def test_written_and_read_again(brightness):
    overrides = {"model": {"head": {"bias": False}}, "augment": {"flip": 1.0}, "lr": 0.5, "output": "run"}
    settings = resolve(brightness, "medians", overrides)
    written = yaml.safe_load(yaml.safe_dump(plain(settings)))
    assert written["model"] == {"method": "medians", "head": {"bias": False}}
    assert "method" not in written
    assert resolve(written["task"], None, written) == settings


def test_python_and_the_command_line_give_the_same_settings(tmp_path, monkeypatch):
    """Every task and method, with its recipe; an option that equals its default counts as set."""
    runs: list[Settings] = []
    monkeypatch.setattr("vertebra.engine.train.train", lambda settings, *_, **__: runs.append(settings))
    for task in tasks.names():
        for method in tasks.methods(task):
            trunk = {}
            if "backbone" in options.names(tasks.find(task, method).Config):
                trunk = {"backbone": "resnet50"}
            words = [f"--model.{name}={value}" for name, value in trunk.items()]
            words += [f"--model.method={method}", "--data.batch_size=6", "--epochs=3"]
            assert main(["train", task, f"--data.path={tmp_path}", *words]) == 0
            vertebra.train(task, data=tmp_path, method=method, batch_size=6, epochs=3, **trunk)
            assert dataclasses.asdict(runs[-1]) == dataclasses.asdict(runs[-2])
            assert runs[-1].model == trunk


def test_the_help_lists_the_options_of_one_method(brightness, capsys):
    for method, listed in (("means", False), ("medians", True)):
        with pytest.raises(SystemExit):
            main(["train", brightness, f"--model.method={method}", "--help"])
        text = capsys.readouterr().out
        assert "--model.head.bias" in text
        assert "--model.method {means,medians}" in text
        assert ("--model.depth" in text) == listed


@pytest.mark.parametrize("form", ["flag", "config"])
def test_an_option_of_another_method_on_the_command_line(brightness, tmp_path, capsys, form):
    words = ["--model.depth=2"]
    if form == "config":
        (tmp_path / "c.yaml").write_text("task: brightness\nmodel:\n  depth: 2\n")
        words = [f"--config={tmp_path / 'c.yaml'}"]
    assert main(["train", brightness, *words]) == 2
    assert "model.depth is an option of medians, not of means" in capsys.readouterr().err


def test_the_scalars_are_all_settings_without_groups():
    assert {*engine.SCALARS, *engine.GROUPS, "task", "method"} == {field.name for field in dataclasses.fields(Settings)}
