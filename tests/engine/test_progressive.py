"""Progressive learning by hand, and the exact resumption of it and of gradual unfreezing."""

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

import vertebra
from vertebra import tasks
from vertebra.engine import progressive
from vertebra.engine.settings import Settings
from vertebra.errors import VertebraError
from vertebra.structures import Preprocess


def test_the_stages_are_equally_long():
    settings = Settings("classification", epochs=8, progressive=4)
    shares = [progressive.share(settings, epoch) for epoch in range(8)]
    assert shares == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1])
    uneven = Settings("classification", epochs=5, progressive=2)
    assert [progressive.share(uneven, epoch) for epoch in range(5)] == [0, 0, 0, 1, 1]
    assert progressive.share(Settings("classification"), 0) == 1


def test_the_image_size_rises_to_the_final_one():
    """From EfficientNetV2-S's 128 of 300 pixels, by thirds of what is between, in multiples of 8."""
    final = Preprocess(size=(300, 300))
    settings = Settings("classification", progressive=4)
    sizes = [progressive.preprocess(final, settings, i / 3).size for i in range(4)]
    assert sizes == [(128, 128), (184, 184), (240, 240), (300, 300)]
    settings.progressive_size = 200
    assert progressive.preprocess(final, settings, 0.5).size == (248, 248)


def test_dropout_rises_to_its_rate():
    task = tasks.create("classification", backbone="resnet18", classes=2, dropout=0.3)
    dropout = progressive.GrowingDropout(task)
    rates = []
    for share in (0, 0.5, 1):
        dropout.start(share)
        rates.append(task.dropout.p)
    assert rates == pytest.approx([0.1, 0.2, 0.3])
    low = tasks.create("classification", backbone="resnet18", classes=2, dropout=0.05)
    progressive.GrowingDropout(low).start(0)
    assert low.dropout.p == 0.05


def test_a_network_of_one_size_cannot_grow():
    task = tasks.create("classification", backbone="mixer_s16", classes=2, preprocess=Preprocess((32, 32)))
    with pytest.raises(VertebraError, match="mixer_s16 takes one input size, so its images cannot grow"):
        progressive.check(task, Settings("classification", progressive=2))
    task = tasks.create("classification", backbone="resnet18", classes=2, preprocess=Preprocess((32, 32)))
    with pytest.raises(VertebraError, match="progressive_size is 40, and images grow to 32 pixels"):
        progressive.check(task, Settings("classification", progressive=2, progressive_size=40))


def stop(trainer, module, batch, batch_idx):
    """In the middle of the fourth epoch: of the second of two stages, with two stages of the backbone unfrozen."""
    if (trainer.current_epoch, batch_idx) == (3, 2):
        raise KeyboardInterrupt


def test_a_run_that_is_stopped_inside_a_stage_resumes_to_the_same_weights(tmp_path, photos, capsys):
    """Bit for bit, with everything that changes from epoch to epoch."""
    sizes = []
    note = LambdaCallback(on_train_batch_end=lambda *step: sizes.append(step[3].images.shape[-1]))
    options = {
        "model": {"dropout": 0.5, "loss": "bce", "backbone_options": {"depths": (1, 1, 1, 1)}},
        "augment": {"mixup": 0.2, "randaugment": 9, "crop": 0.5},
        "optimizer": "rmsprop",
        "schedule": "one_cycle",
        "warmup_steps": 2,
        "lr": 0.001,
    }
    growth = {"progressive": 2, "unfreeze_every": 1, "freeze": 1, "repeats": 2, "ema": 0.9}
    quick = {"epochs": 5, "image_size": 32, "batch_size": 10, "workers": 0, "device": "cpu"}
    common = {"data": photos, "backbone": "resnet18", **options, **growth, **quick}
    whole = vertebra.train("classification", output=tmp_path / "whole", callbacks=[note], **common)
    assert sizes == [16] * 12 + [32] * 8
    assert "images of 16 x 16 pixels\n" in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        vertebra.train(
            "classification",
            output=tmp_path / "stopped",
            callbacks=[LambdaCallback(on_train_batch_start=stop)],
            **common,
        )
    capsys.readouterr()
    resumed = vertebra.train("classification", data=photos, resume=tmp_path / "stopped")
    assert "images of 32 x 32 pixels\n" in capsys.readouterr().out
    a, b = (torch.load(run.folder / "last.ckpt", weights_only=True) for run in (whole, resumed))
    for part in ("state_dict", "current_model_state"):
        assert a[part].keys() == b[part].keys()
        assert [name for name in a[part] if not torch.equal(a[part][name], b[part][name])] == []
    unequal = {"seconds", "waiting"}  # the clock is not seeded
    for x, y in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in x.items() if k not in unequal} == {k: v for k, v in y.items() if k not in unequal}
