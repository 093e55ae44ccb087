"""Fine-tuning: stages that are frozen, or unfrozen one by one; another image size than the checkpoint's."""

import pytest
import torch
from safetensors.torch import load_file

from vertebra import tasks
from vertebra.engine.freezing import Freezing
from vertebra.engine.settings import Settings, resolve
from vertebra.engine.train import train
from vertebra.errors import VertebraError

SHALLOW = {"backbone_options": {"depths": (1, 1, 1, 1)}}


def make() -> tasks.Task:
    return tasks.create("classification", backbone="resnet18", classes=2, **SHALLOW)


def trained(task: tasks.Task) -> list[str]:
    """The parts of the network that are trained: `stem`, the numbers of the stages, `head`."""
    names = {name.removeprefix("backbone.") for name, p in task.named_parameters() if p.requires_grad}
    return sorted({name.split(".")[1] if name.startswith("stages") else name.split(".")[0] for name in names})


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [(0, ["0", "1", "2", "3", "head", "stem"]), (1, ["1", "2", "3", "head"]), (4, ["head"]), ("all", ["head"])],
)
def test_the_first_stages_are_frozen_and_their_norms_keep_their_statistics(freeze, expected):
    task = make().train()
    Freezing(task, Settings("classification", freeze=freeze)).start(0)
    assert trained(task) == expected
    assert task.backbone.stem.training == ("stem" in expected)
    assert [stage[0].training for stage in task.backbone.stages] == [str(i) in expected for i in range(4)]


def test_one_more_stage_is_trained_every_few_epochs():
    task = make().train()
    freezing = Freezing(task, Settings("classification", freeze=2, unfreeze_every=3))
    seen = []
    for epoch in range(12):
        freezing.start(epoch)
        seen.append(trained(task))
        assert [stage[0].training for stage in task.backbone.stages] == [str(i) in seen[-1] for i in range(4)]
    assert seen == [["head"]] * 3 + [["3", "head"]] * 3 + [["2", "3", "head"]] * 6
    Freezing(make(), Settings("classification", unfreeze_every=1)).start(4)


def test_a_parameter_that_is_fixed_stays_so():
    task = make()
    fixed = task.backbone.stages[3][0].conv1.conv.weight.requires_grad_(False)
    Freezing(task, Settings("classification", unfreeze_every=1)).start(4)
    assert trained(task) == ["0", "1", "2", "3", "head", "stem"]
    assert not fixed.requires_grad


def test_more_stages_than_there_are(tmp_path, photos):
    sentence = "freeze is 5, and resnet18 has 4 stages: give 0 to 4, or all"
    quick = {"data.path": photos, "output": tmp_path / "run", "image_size": 32, "workers": 0, "device": "cpu"}
    model = {"backbone": "resnet18", **SHALLOW}
    with pytest.raises(VertebraError, match=sentence):
        train(resolve("classification", None, {"freeze": 5, "model": model, **quick}))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_trained_on_at_another_image_size(tmp_path, photos, capsys):
    """The position embedding is interpolated, and the head of other classes replaced."""
    options = {"backbone": "vit_tiny_16", "backbone_options": {"depth": 2, "width": 24, "heads": 2}}
    common = {"data.path": photos, "epochs": 1, "workers": 0, "device": "cpu", "model": options, "batch_size": 20}
    first = train(resolve("classification", None, {**common, "image_size": 32, "output": tmp_path / "first"}))
    again = {"image_size": 64, "weights": first.best, "lr": 0.0, "output": tmp_path / "second"}
    second = train(resolve("classification", None, {**common, **again}))
    assert "positions of a grid of 2 x 2 -> 4 x 4" in capsys.readouterr().out
    small, large = (load_file(run.best)["backbone.stem.position"] for run in (first, second))
    assert small.shape[1] + 12 == large.shape[1]
    grid = small[0, -4:].T.reshape(1, 24, 2, 2)
    corners = torch.nn.functional.interpolate(grid, (4, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(large[0, -16:].T.reshape(1, 24, 4, 4), corners)
    assert second.load(device="cpu").task.preprocess.size == (64, 64)
