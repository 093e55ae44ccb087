"""The predictor gives what the trained model gives, for pictures from anywhere."""

import numpy as np
import pytest
import torch
from PIL import Image

import vertebra
from vertebra import tasks
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.pictures import BrokenPicture
from vertebra.structures import Prediction, Preprocess


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with statistics unlike a fresh one's, and the folder that holds its file."""
    torch.manual_seed(0)
    options = {"backbone": "resnet18", "classes": ["cat", "dog", "emu"], "preprocess": Preprocess(size=(32, 32))}
    task = tasks.create("classification", **options)
    with torch.no_grad():
        for _ in range(3):
            task(torch.randn(8, 3, 32, 32) * 2 + 1)
        task.head.weight.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(task, folder / "best.safetensors")
    return task.eval(), folder


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(random.integers(0, 256, (40, 30 + i, 3), np.uint8)).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.glob("*.png"))


def probabilities(predictions: list[Prediction]) -> torch.Tensor:
    return torch.stack([p.probabilities for p in predictions])


def test_it_says_what_the_trained_model_says(saved, files):
    task, folder = saved
    predictor = vertebra.load(folder, device="cpu")
    assert predictor.classes == ("cat", "dog", "emu")
    found = predictor.predict(files)
    want = probabilities(task.predict(files))
    assert want.std() > 0.01  # else any two models would agree
    assert torch.allclose(probabilities(found), want, atol=1e-5)
    assert torch.allclose(probabilities(found).sum(1), torch.ones(5))
    assert [p.path for p in found] == [str(f) for f in files]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_batch_size_changes_nothing(saved, files, batch_size):
    predictor = vertebra.load(saved[1], device="cpu")
    found = probabilities(predictor.predict(files, batch_size=batch_size))
    assert torch.allclose(found, probabilities(predictor.predict(files)), atol=1e-6)


def test_every_source_of_one_picture(saved, files):
    predictor = vertebra.load(saved[1], device="cpu")
    array = np.array(Image.open(files[0]))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    want = predictor.predict(str(files[0]))[0].probabilities
    for source in (files[0], Image.open(files[0]), array, tensor, tensor / 255, tensor[None], [array]):
        (found,) = predictor.predict(source)
        assert torch.allclose(found.probabilities, want, atol=1e-6)
    assert predictor.predict(array)[0].path == ""


def test_no_pictures(saved):
    assert vertebra.load(saved[1], device="cpu").predict([]) == []


def test_top():
    prediction = Prediction(probabilities=torch.tensor([0.2, 0.5, 0.3]))
    assert [i for i, _ in prediction.top(2)] == [1, 2]
    assert [p for _, p in prediction.top(9)] == pytest.approx([0.5, 0.3, 0.2])


def test_stream_passes_broken_pictures_by(saved, files):
    files[1].write_bytes(b"")
    files[3].write_text("no picture")
    found = list(vertebra.load(saved[1], device="cpu").stream(files))
    assert [isinstance(answer, BrokenPicture) for answer in found] == [False, True, False, True, False]
    assert found[0].path == str(files[0])
    assert str(files[3]) in str(found[3])


def test_predict_stops_at_a_broken_picture(saved, files):
    files[1].write_bytes(b"")
    with pytest.raises(VertebraError, match=r"1\.png: the file is empty"):
        vertebra.load(saved[1], device="cpu").predict(files)


def test_embeddings(saved, files):
    task, folder = saved
    predictor = vertebra.load(folder, device="cpu")
    found = predictor.embed(files, batch_size=2)
    assert found.shape == (5, 512)
    with torch.no_grad():
        logits = task.head(found)
    assert torch.allclose(logits.softmax(1), probabilities(predictor.predict(files)), atol=1e-5)


def test_a_grey_model_takes_colour(tmp_path, files):
    preprocess = Preprocess(size=(32, 32), mean=(0.5,), std=(0.2,))
    task = tasks.create("classification", backbone="resnet18", classes=2, preprocess=preprocess)
    checkpoint.save(task, tmp_path / "grey.safetensors")
    predictor = vertebra.load(tmp_path / "grey.safetensors", device="cpu")
    from_file, from_array = predictor.predict([files[0], np.array(Image.open(files[0]))])
    assert torch.allclose(from_file.probabilities, from_array.probabilities, atol=1e-2)
