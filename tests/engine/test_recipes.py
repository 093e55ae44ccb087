"""The published recipes: each is whole, fits its task, and starts; where it stands among the layers of options."""

import dataclasses

import pytest
import torch
import yaml

import vertebra
from vertebra import kinds, options, tasks
from vertebra.cli import main
from vertebra.engine import optim, recipes
from vertebra.engine.settings import Settings, resolve
from vertebra.errors import VertebraError


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_where_it_is_from_and_fits_its_task(name):
    assert recipes.about(name).keys() >= {"Source", "Published", "Cost"}
    assert all(len(line) <= 120 for line in recipes.text(name).splitlines())
    content = recipes.read(name)
    settings = resolve(content["task"], None, {"recipe": name})
    with torch.device("meta"):
        task = tasks.create(settings.task, method=settings.method, classes=2, **settings.model)
    optimizer = optim.optimizer(task, settings)
    optim.schedule(optimizer, settings, steps=1000)
    augment = kinds.find(task.kind).augment
    for part, config in (("data", type(settings.data)), ("augment", augment)):
        assert content.get(part, {}).keys() <= {field.name for field in dataclasses.fields(config)}
    assert settings.peak_lr == pytest.approx(settings.lr)  # at the recipe's own batch size


def test_a_recipe_can_be_used_without_its_progressive_learning():
    settings = resolve("classification", None, {"recipe": "efficientnetv2", "progressive": 0})
    assert (settings.progressive, settings.progressive_size) == (0, 0)


def test_an_option_that_does_not_exist_fails(tmp_path, capsys):
    """In Python and, with its line, on the command line; as does what could not be trained."""
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 3\nschedul: step\n")
    with pytest.raises(VertebraError, match=r"recipe .*mine.yaml: .* no setting 'schedul'. Did you mean 'schedule'?"):
        resolve("classification", None, {"recipe": file})
    assert main(["train", "classification", f"--recipe={file}"]) == 2
    assert f"config {file}, line 2: there is no option 'schedul'. Did you mean 'schedule'?" in capsys.readouterr().err
    for text, sentence in {
        "schedule: step": "mine.yaml: schedule step needs step_epochs",
        "augment: {flip: 2}": "mine.yaml: augment.flip is 2; it must lie between 0 and 1",
        "model: {dropuot: 0.1}": "mine.yaml: .*Did you mean 'dropout'",
        "resume: runs/1": "mine.yaml sets resume, which a recipe cannot",
        "[1]": "mine.yaml is not a mapping",
        "task: detection": "mine.yaml is for task 'detection', not 'classification'",
    }.items():
        file.write_text(text)
        with pytest.raises(VertebraError, match=sentence):
            resolve("classification", None, {"recipe": file})


def test_an_unknown_recipe_and_one_of_another_task(tmp_path, capsys):
    with pytest.raises(VertebraError, match=r"no recipe is called 'deitt'; there are .* Did you mean 'deit'?"):
        resolve("classification", None, {"recipe": "deitt"})
    with pytest.raises(VertebraError, match=r"nowhere.yaml"):
        resolve("classification", None, {"recipe": "nowhere.yaml"})
    with pytest.raises(VertebraError, match="recipe atss_1x is for task 'detection', not 'classification'"):
        resolve("classification", None, {"recipe": "atss_1x"})
    assert main(["train", "classification", "--recipe=atss_1x"]) == 2
    assert "config atss_1x is for task 'detection', not 'classification'" in capsys.readouterr().err
    with pytest.raises(VertebraError, match="recipe is for a new run"):
        resolve("classification", None, {"recipe": "deit", "resume": "runs/1"})
    with pytest.raises(VertebraError, match="recipe is 3; it must be a string or null"):
        resolve("classification", None, {"recipe": 3})


def test_method_under_recipe_under_user():
    settings = resolve("detection", None, {"recipe": "atss_1x", "epochs": 3, "model": {"topk": 4}})
    assert (settings.method, settings.optimizer, settings.clip) == ("atss", "sgd", 0.0)  # RECIPE clips at 1
    assert (settings.epochs, settings.model["topk"], settings.model["backbone"]) == (3, 4, "resnet50")
    assert (settings.warmup, settings.warmup_steps) == (0.0, 500)
    assert resolve("detection", "retinanet", {"recipe": "atss_1x"}).method == "retinanet"


def test_what_does_not_apply_with_the_users_options_is_left_out():
    """Of a recipe with sgd at 0.1 for 256 images, in steps."""
    base = {"recipe": "resnet_torchvision"}
    smaller = resolve("classification", None, {**base, "batch_size": 64})
    assert (smaller.peak_lr, smaller.step_epochs) == (pytest.approx(0.025), (30, 60))
    adamw = resolve("classification", None, {**base, "optimizer": "adamw"})
    assert (adamw.peak_lr, adamw.decay, adamw.nesterov) == (0.001, 0.05, True)
    cosine = resolve("classification", None, {**base, "schedule": "cosine", "lr": 0.3})
    assert (cosine.step_epochs, cosine.peak_lr, cosine.epochs) == ((), 0.3, 90)
    steps = resolve("classification", None, {**base, "warmup_steps": 7})
    assert (steps.warmup, steps.warmup_steps) == (0.0, 7)
    epochs = resolve("detection", None, {"recipe": "atss_1x", "warmup": 2})
    assert (epochs.warmup, epochs.warmup_steps) == (2, 0)


def test_the_command_line_takes_a_recipe_alone_or_over_a_file(tmp_path, monkeypatch):
    runs: list[Settings] = []
    monkeypatch.setattr("vertebra.engine.train.train", runs.append)
    assert main(["train", "--recipe=hrnet_pose", "--epochs=2"]) == 0
    assert (runs[-1].task, runs[-1].method, runs[-1].epochs) == ("pose", "simple_baseline", 2)
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: resnet_torchvision\nlr: 0.3\nschedule: step\nstep_epochs: [3]\nwarmup: 2\n")
    assert main(["train", f"--config={file}", "--schedule=cosine", "--warmup_steps=9"]) == 0
    assert (runs[-1].task, runs[-1].lr, runs[-1].schedule) == ("classification", 0.3, "cosine")
    assert (runs[-1].step_epochs, runs[-1].warmup, runs[-1].warmup_steps) == ((), 0.0, 9)


def test_a_recipe_trains_and_its_config_needs_it_no_more(tmp_path, photos):
    own = tmp_path / "own.yaml"
    own.write_text(recipes.text("resnet_rsb_a2"))
    quick = {"epochs": 1, "warmup_steps": 1, "image_size": 32, "batch_size": 20, "workers": 0, "device": "cpu"}
    model = {"backbone": "resnet18", "backbone_options": {"depths": (1, 1, 1, 1)}}
    run = vertebra.train("classification", data=photos, recipe=own, output=tmp_path / "run", model=model, **quick)
    written = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert written["recipe"] is None
    assert (written["model"]["loss"], written["data"]["repeats"], written["augment"]["cutmix"]) == ("bce", 3, 1.0)
    assert options.build(tasks.find("classification").Config, {"loss": "bce"}).loss == "bce"
    own.unlink()
    assert len(vertebra.train("classification", data=photos, resume=run.folder, epochs=2).history) == 2


def test_recipes_are_listed_and_printed(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in recipes.names())
    assert "79.9 top-1" in " ".join(out.split())
    assert main(["recipes", "deit"]) == 0
    assert capsys.readouterr().out == recipes.text("deit")
    assert main(["recipes", "diet"]) == 2
    assert "Did you mean 'deit'?" in capsys.readouterr().err
