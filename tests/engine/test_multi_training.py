"""Training several heads over one backbone: from the config file to a run, its heads, and exact resuming."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tests.processes import started_together
from tests.runs import history

import vertebra
from vertebra.cli import main
from vertebra.data.formats import shapes
from vertebra.data.heads import HeadBatches
from vertebra.data.loader import Batch
from vertebra.engine import checkpoint, multi
from vertebra.engine.head_settings import resolve_heads
from vertebra.engine.resume import StoppedRun
from vertebra.engine.trainee import Trainee
from vertebra.errors import VertebraError
from vertebra.structures import Target
from vertebra.tasks.multi import Config

CONFIG = {
    "model": {"backbone": "resnet18", "backbone_options": {"depths": [1, 1, 1, 1]}},
    "data": {"image_size": 64, "batch_size": 4, "workers": 0},
    "epochs": 2,
    "ema": 0.9,
    "weighting": "uncertainty",
    "device": "cpu",
    "logger": ["csv"],
    "heads": {
        "kinds": {"task": "classification", "weight": 0.5},
        "maps": {
            "task": "semantic",
            "model": {"method": "semantic_fpn", "channels": 8},
            "data": {"batch_size": 2},
            "share": 0.5,
        },
    },
}


@pytest.fixture(scope="module", autouse=True)
def few_shapes():
    """Eight training and four val images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", {"train": 8, "val": 4})
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("multi") / "heads.yaml"
    path.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def run(config) -> Path:
    """A run of two epochs of two steps. Not to be written to."""
    folder = config.parent / "run"
    assert main(["train", "multi", f"--config={config}", f"--output={folder}"]) == 0
    return folder


def test_a_run_has_losses_metrics_and_a_report_of_every_head(run):
    (first, second) = ((run / "metrics.csv").read_text().splitlines()[i].split(",") for i in (0, 2))
    row = dict(zip(first, second, strict=True))
    for name in ("train/kinds/classification", "train/maps/log_deviation", "val/kinds/top1", "val/maps/miou"):
        assert row[name]
    mean = (float(row["val/kinds/top1"]) + float(row["val/maps/miou"])) / 2
    assert float(row["val/mean"]) == pytest.approx(mean, abs=1e-4)
    for name, metric in (("kinds", "top1"), ("maps", "miou")):
        assert metric in json.loads((run / name / "evaluation.json").read_text())["metrics"]
        assert (run / name / "report.html").is_file()
    assert yaml.safe_load((run / "config.yaml").read_text())["heads"] == CONFIG["heads"]


def test_a_resumed_run_is_bit_for_bit_that_without_a_stop(run, config, monkeypatch):
    """Weights, their average, the learned weighting and the batches that a head with half the steps has."""
    folder = config.parent / "stopped"
    step = Trainee.training_step

    def killed(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise SystemError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Trainee, "training_step", killed)
        with pytest.raises(SystemError):
            main(["train", "multi", f"--config={config}", f"--output={folder}"])
    with monkeypatch.context() as patch:
        patch.setattr(multi, "write_report", lambda *_, **__: None)
        assert main(["train", "multi", f"--resume={folder}"]) == 0
    states = [torch.load(path / "last.ckpt", weights_only=True) for path in (run, folder)]
    for part in ("state_dict", "current_model_state"):
        one, other = (state[part] for state in states)
        assert all(torch.equal(one[name], other[name]) for name in one), part
    assert states[0]["state_dict"]["distiller.log_variances"].abs().min() > 0  # learned
    one, other = (load_file(path / "best.safetensors") for path in (run, folder))
    assert all(torch.equal(one[name], other[name]) for name in one)
    other_weighting = resolve_heads({"resume": folder, "epochs": 3, "weighting": "fixed"})
    with pytest.raises(VertebraError, match=r"weighting is 'fixed' and was 'uncertainty', which a run that is resumed"):
        multi.train(other_weighting)
    maps = {"task": "semantic", "model": {"method": "semantic_fpn", "channels": 16}}
    with pytest.raises(VertebraError, match=r"heads\.maps\.model\.channels is 16 and was 8"):
        vertebra.train_heads({**CONFIG["heads"], "maps": maps}, resume=folder, epochs=3, batch_size=4)


def test_a_run_of_an_earlier_version_is_resumed_as_it_was(run, tmp_path):
    """It shared no necks, and does not say so; options that did not exist have their defaults."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    state = torch.load(run / "last.ckpt", weights_only=True)
    facts = state["callbacks"]["Facts"]["model"]
    now = replace(Config(**facts), share_necks=False)
    del config["model"]["share_necks"], facts["share_necks"]
    facts["heads"] = {**facts["heads"], "kinds": copy.deepcopy(facts["heads"]["kinds"])}
    del facts["heads"]["kinds"]["model"]["label_smoothing"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(state, tmp_path / "last.ckpt")
    settings = resolve_heads({"resume": tmp_path})
    assert settings.trunk()["share_necks"] is False
    stopped = StoppedRun.open(tmp_path)
    stopped.check_model(settings, now)
    smoothed = copy.deepcopy(now)
    smoothed.heads["kinds"]["model"]["label_smoothing"] = 0.1
    for other, name in (
        (replace(now, share_necks=True), "share_necks"),
        (smoothed, "label_smoothing is 0.1 and was 0"),
    ):
        with pytest.raises(VertebraError, match=name):
            stopped.check_model(settings, other)


def test_two_processes_give_the_metrics_of_one(tmp_path, photos):
    """Also of a head that takes part in every second step; over a frozen backbone nothing depends on how a batch is
    split."""
    heads = {name: {"task": "classification", "augment": {"colour": 0}} for name in ("kinds", "others")}
    heads["others"] |= {"share": 0.5, "weight": 2.0}
    data = {"path": str(photos), "image_size": 32, "batch_size": 8, "workers": 0}
    common = {**CONFIG, "ema": 0.0, "weighting": "fixed", "freeze": "all", "lr": 0.01}
    (tmp_path / "heads.yaml").write_text(yaml.safe_dump(common | {"heads": heads, "data": data}, sort_keys=False))
    words = ["train", "multi", f"--config={tmp_path / 'heads.yaml'}"]
    assert main([*words, f"--output={tmp_path / 'one'}"]) == 0
    with started_together([*words, f"--output={tmp_path / 'two'}"], tmp_path / "printed", 2) as processes:
        for process in processes:
            process.join()
    assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "printed/0/err.txt").read_text()
    rows = [history(tmp_path / count) for count in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 2
    for one, two in zip(*rows, strict=True):
        for name in set(one) - {"seconds", "waiting"}:
            assert two[name] == pytest.approx(one[name], abs=2e-5), name


def test_one_checkpoint_answers_for_all_heads_and_gives_each_away(run, tmp_path, capsys):
    image = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(image)
    assert main(["predict", str(run), str(image), f"--save={tmp_path / 'out'}", "--stream"]) == 0
    assert "kinds: " in capsys.readouterr().out
    line = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert main(["export", str(run), "--head=maps", f"--save={tmp_path / 'maps.safetensors'}"]) == 0
    assert main(["predict", str(tmp_path / "maps.safetensors"), str(image), f"--save={tmp_path / 'one'}"]) == 0
    written = [tmp_path / "out" / "maps", tmp_path / "one"]
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.*")) for folder in written]
    assert files[0] == files[1]
    for name in files[0]:
        assert (written[0] / name).read_bytes() == (written[1] / name).read_bytes(), name
    (result,) = vertebra.load(run, device="cpu")(image)
    assert result.to_dict(top=3) == line
    for words, sentence in (
        (["--tile=32"], "--tile is for one head: name it with --head"),
        (["--head=map"], "head is 'map'; there are kinds, maps. Did you mean 'maps'?"),
        (["--threshold=0.5"], "threshold is for heads that predict objects or tags, and there is none."),
        (["--engine=onnx"], "engine is 'onnx'; several heads at once are computed by folded or eager"),
    ):
        assert main(["predict", str(run), str(image), *words]) == 2
        assert sentence in capsys.readouterr().err


def test_evaluation_gives_the_metrics_of_the_run(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vertebra.viz.report.write", lambda *_, **__: None)  # the page, with its plots
    assert main(["evaluate", str(run), f"--save={tmp_path}", "--data.workers=0", "--device=cpu"]) == 0
    for name in ("kinds", "maps"):
        one, other = (
            json.loads((folder / name / "evaluation.json").read_text())["metrics"] for folder in (run, tmp_path)
        )
        scalars = {key: value for key, value in one.items() if isinstance(value, float)}
        assert scalars == pytest.approx({key: other[key] for key in scalars})
    assert main(["evaluate", str(run), "--data.path=shapes"]) == 2
    assert "--data.path is for one head: name it with --head." in capsys.readouterr().err
    with pytest.raises(VertebraError, match="a model of the heads kinds, maps is evaluated one by one"):
        vertebra.evaluate(vertebra.load(run, device="cpu"))


def settings(**changes):
    return resolve_heads({**CONFIG, **changes})


def heads(**changes):
    return {"heads": {"kinds": {"task": "classification", **changes}}}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": {"a": {"task": "classification", "weight": 0.0}}}, r"the weights of all heads, a, are 0: nothing"),
        ({"heads": {}}, "there are no heads; at least one is needed"),
        ({"heads": {"a": "detection"}}, r"heads\.a is 'detection'; it takes a mapping: task, model, data"),
        ({"heads": {"a": {}}}, r"heads\.a has no task; there are "),
        (heads(wieght=2.0), r"heads\.kinds has no option 'wieght'; there are .* Did you mean 'weight'\?"),
        (heads(weight=-1.0), r"heads\.kinds\.weight is -1; it must lie between 0 and 1,000,000"),
        (heads(share=0.0), r"heads\.kinds\.share is 0; it must lie between"),
        (heads(task="detecton"), r"head 'kinds': task is 'detecton'; .* Did you mean 'detection'\?"),
        (heads(model={"dropuot": 0.1}), r"head 'kinds': linear has no option 'dropuot'|head 'kinds': .*dropuot"),
        (heads(model={"backbone": "resnet50"}), r"head 'kinds': model\.backbone is one for all heads"),
        (heads(data={"pth": "x"}), "head 'kinds': classification training has no setting 'data.pth'"),
        ({"wieghting": "fixed"}, r"has no setting 'wieghting'\. Did you mean 'weighting'\?"),
        ({"monitor": "boxes"}, "monitor is 'boxes'; there are mean, kinds, maps"),
        ({"weighting": "gradnorm"}, "weighting is 'gradnorm'; there are fixed, uncertainty"),
        ({"teacher": "x"}, "training several heads has no setting 'teacher'"),
        ({"strategy": "fsdp"}, "strategy fsdp is for a single task"),
        ({"lr": "auto"}, "lr and data.batch_size auto are for a single task"),
        (heads(data={"batch_size": "auto"}), "lr and data.batch_size auto are for a single task"),
        ({"heads": {"a": {"task": "classification"}, "b": {"task": "pose"}}}, "heads a, b want incompatible inputs"),
    ],
)
def test_mistakes_are_named(changes, sentence):
    with pytest.raises(VertebraError, match=sentence):
        settings(**changes)


def test_a_mistake_in_the_file_is_named_with_its_line(config, tmp_path, capsys):
    text = config.read_text().replace("share: 0.5", "shrae: 0.5")
    (tmp_path / "heads.yaml").write_text(text)
    line = text.splitlines().index("  maps:") + 1
    assert main(["train", "multi", f"--config={tmp_path / 'heads.yaml'}"]) == 2
    error = capsys.readouterr().err
    assert f"heads.yaml, line {line}: heads.maps has no option 'shrae'" in error
    assert "Did you mean 'share'?" in error
    assert main(["train", "detection", f"--config={config}"]) == 2
    assert "has heads, so it is for task 'multi', not 'detection'" in capsys.readouterr().err
    assert main(["train", "multi"]) == 2
    assert "there are no heads" in capsys.readouterr().err


def test_an_option_of_a_head_can_stand_on_the_command_line(config, capsys):
    words = ["--heads.maps.share=0.25", "--heads.kinds.data.val_share=0.1", "--print_config"]
    assert main(["train", "multi", f"--config={config}", *words]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["heads"]["maps"] == {**CONFIG["heads"]["maps"], "share": 0.25}
    assert printed["heads"]["kinds"] == {**CONFIG["heads"]["kinds"], "data": {"val_share": 0.1}}


def test_the_losses_are_weighed_and_their_variances_have_terms_of_their_own(run):
    task, _ = checkpoint.load_heads(run, device="cpu")
    images = torch.rand(2, 3, 64, 64)
    kinds, maps = (
        [Target(label=torch.tensor(i)) for i in (0, 1)],
        [Target(semantic=torch.ones(64, 64, dtype=torch.uint8))],
    )
    parts = {"kinds": Batch(images, kinds, [], [], [0, 1]), "maps": Batch(images[:1] * 1, maps, [], [], [0])}
    plain = multi.WeightedLosses({"kinds": 1.0, "maps": 1.0}, uncertainty=False)(task, HeadBatches(parts))
    losses = multi.WeightedLosses({"kinds": 2.0, "maps": 1.0}, uncertainty=True)
    with torch.no_grad():
        losses.log_variances.copy_(torch.tensor([1.0, -1.0]))
    terms = losses(task, HeadBatches(parts))
    assert float(terms["kinds/log_deviation"]) == 0.5
    assert float(terms["maps/log_deviation"]) == -0.5
    for name, factor in (("kinds", 2 / math.e), ("maps", math.e)):
        for key in (key for key in plain if key.startswith(name)):
            torch.testing.assert_close(terms[key], factor * plain[key])
    assert "maps/log_deviation" not in losses(task, HeadBatches({"kinds": parts["kinds"]}))  # takes no part in the step
    ignored = multi.WeightedLosses({"kinds": 1.0, "maps": 0.0}, uncertainty=True)
    assert "maps/log_deviation" not in ignored(task, HeadBatches(parts))  # it would fall for ever
    parts["maps"] = Batch(torch.empty(0), [], ["a.png: damaged"], [], [])
    with pytest.raises(VertebraError, match=r"no training image of head 'maps' can be read: a\.png: damaged"):
        losses(task, HeadBatches(parts))
