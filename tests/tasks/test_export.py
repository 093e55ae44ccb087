"""The smallest model of every method, exported: the program computes what the model does."""

import pytest
import torch

from vertebra import kinds, tasks
from vertebra.options import names as option_names
from vertebra.structures import Frame

METHODS = [(task, method) for task in tasks.names() for method in tasks.methods(task)]
BACKBONE = {"depths": (1, 1, 1, 1), "zero_init_residual": True}  # small numbers, of small rounding errors
FRAMES = [Frame((100, 80), (64, 51)), Frame((64, 64), (64, 64))]


def inputs(model):
    """Random images, or token ids for a model that reads texts: of sentences, or of the sentences of texts."""
    if kinds.find(model.kind).reads_images:
        return torch.randn(2, model.preprocess.channels, 64, 64)
    return torch.randint(4, 260, (2, 9) if model.kind == "sentences" else (2, 3, 5))


def equal(one, other):
    """Whether two predictions have the same fields, to rounding."""
    for name, value in vars(one).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(other, name), value, atol=1e-4, rtol=1e-4, msg=name)
        elif name == "masks" and value is not None:
            different = (value.dense() != getattr(other, name).dense()).flatten(1).sum(1)
            assert (different <= 2).all()  # pixels whose probability is 0.5 to rounding
        elif name == "alignment" and value is not None:
            torch.testing.assert_close(getattr(other, name).weights, value.weights, atol=1e-4, rtol=1e-4)
        else:
            assert getattr(other, name) == value
    return True


@pytest.mark.slow
@pytest.mark.parametrize(("task", "method"), METHODS)
def test_the_exported_program_computes_what_the_model_does(make, task, method):
    has_boxes = "score_threshold" in option_names(tasks.find(task, method).Config)
    options = {"score_threshold": 0.2, "max_detections": 24} if has_boxes else {}  # more than there are
    if "backbone_options" in option_names(tasks.find(task, method).Config):
        options["backbone_options"] = BACKBONE
    classes = len(tasks.find(task, method).MODEL.fixed_classes) or 7
    model = make(task, method, classes=classes, **options).eval()
    for name, parameter in model.named_parameters():
        if "classify" in name:  # scores on both sides of the threshold
            torch.nn.init.normal_(parameter) if parameter.ndim > 1 else torch.nn.init.zeros_(parameter)
    images = inputs(model)
    with torch.no_grad():
        raw = model(images)
        program = torch.export.export(model, (images,)).module()
        exported = program(images)
        assert isinstance(raw, tuple)
        assert len(exported) == len(raw)
        for x, y in zip(raw, exported, strict=True):
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
            torch.testing.assert_close(y, x, atol=1e-4, rtol=1e-4)
        predictions = model.decode(raw, FRAMES)
        for prediction, other in zip(predictions, model.decode(exported, FRAMES), strict=True):
            assert equal(prediction, other)
        # Of other images, so that nothing that depends on the data is a constant of the program.
        images = inputs(model)
        for x, y in zip(model(images), program(images), strict=True):
            torch.testing.assert_close(y, x, atol=1e-4, rtol=1e-4)
    if has_boxes:
        assert any(len(prediction.boxes) for prediction in predictions)
