"""The predictor's predictions equal the trained model's, for images from any source."""

import numpy as np
import pytest
import torch
from PIL import Image

import vertebra
from vertebra import tasks
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage
from vertebra.predict import predictor as predictor_module
from vertebra.structures import Masks, Prediction, Preprocess


def scene(*boxes, size=(150, 200)):
    """Rectangles (x1, y1, x2, y2, red) on a black image [3, H, W] uint8."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for x1, y1, x2, y2, red in boxes:
        image[0, y1:y2, x1:x2] = red
    return image


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


def test_predictions_equal_the_trained_models(saved, files):
    task, folder = saved
    predictor = vertebra.load(folder, device="cpu")
    assert predictor.classes == ("cat", "dog", "emu")
    found = predictor.predict(files)
    want = probabilities(task.predict(files))
    assert want.std() > 0.01  # else any two models would agree
    assert torch.allclose(probabilities(found), want, atol=1e-5)
    assert torch.allclose(probabilities(found).sum(1), torch.ones(5))
    assert [p.path for p in found] == [str(f) for f in files]


def test_half_precision_predicts_nearly_the_same(saved, files):
    exact, half = (vertebra.load(saved[1], device="cpu", precision=name) for name in ("32-true", "bf16-mixed"))
    found, want = (probabilities(predictor.predict(files)) for predictor in (half, exact))
    assert not torch.equal(found, want)
    torch.testing.assert_close(found, want, atol=0.02, rtol=0)
    assert half.embed(files).dtype == torch.float32
    torch.testing.assert_close(half.embed(files), exact.embed(files), atol=0.05, rtol=0.05)
    with pytest.raises(VertebraError, match=r"precision is 'bf16'; there are .*Did you mean 'bf16-mixed'"):
        vertebra.load(saved[1], precision="bf16")


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_batch_size_changes_nothing(saved, files, batch_size):
    predictor = vertebra.load(saved[1], device="cpu")
    found = probabilities(predictor.predict(files, batch_size=batch_size))
    assert torch.allclose(found, probabilities(predictor.predict(files)), atol=1e-6)


def test_every_source_of_one_image(saved, files):
    predictor = vertebra.load(saved[1], device="cpu")
    array = np.array(Image.open(files[0]))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    want = predictor.predict(str(files[0]))[0].probabilities
    for source in (files[0], Image.open(files[0]), array, tensor, tensor / 255, tensor[None], [array]):
        (found,) = predictor.predict(source)
        assert torch.allclose(found.probabilities, want, atol=1e-6)
    assert predictor.predict(array)[0].path == ""


def test_no_images(saved):
    assert vertebra.load(saved[1], device="cpu").predict([]) == []


def test_top():
    prediction = Prediction(probabilities=torch.tensor([0.2, 0.5, 0.3]))
    assert [i for i, _ in prediction.top(2)] == [1, 2]
    assert [p for _, p in prediction.top(9)] == pytest.approx([0.5, 0.3, 0.2])


def test_stream_passes_unreadable_images_by(saved, files):
    files[1].write_bytes(b"")
    files[3].write_text("no image")
    found = list(vertebra.load(saved[1], device="cpu").stream(files))
    assert [isinstance(answer, UnreadableImage) for answer in found] == [False, True, False, True, False]
    assert found[0].path == str(files[0])
    assert str(files[3]) in str(found[3])


def test_predict_stops_at_a_unreadable_image(saved, files):
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


def test_probabilities_are_the_mean_of_the_image_and_its_mirror_image(saved, files):
    predictor = vertebra.load(saved[1], device="cpu")
    image = torch.from_numpy(np.array(Image.open(files[0]))).permute(2, 0, 1)
    want = probabilities(predictor.predict([image, image.flip(-1)])).mean(0)
    (found,) = predictor.predict(files[0], tta=True)
    assert torch.allclose(found.probabilities, want, atol=1e-6)
    assert found.path == str(files[0])
    assert not torch.allclose(found.probabilities, predictor.predict(files[0])[0].probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"threshold": 0.3},
            "threshold is for models that predict {objects} or poses or tags; this one is for classification.",
        ),
        (
            {"tile": 256},
            "tile is for models that predict {objects} or saliency maps or label maps; this one is for classification.",
        ),
        ({"batch_size": 0}, "batch_size is 0; it must be 1 or more."),
    ],
)
def test_options_that_do_not_fit_classification(saved, files, options, sentence):
    predictor = vertebra.load(saved[1], device="cpu")
    for function in (predictor.predict, predictor.stream):
        with pytest.raises(VertebraError) as error:
            function(files, **options)
        assert str(error.value) == sentence.format(objects="boxes or keypoints or masks")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threshold": 1.5}, "threshold is 1.5; it must lie between 0 and 1."),
        ({"tile": 8}, "tile is 8; it must be 16 pixels or more, or 0 for whole images."),
        ({"tile": -64}, "tile is -64; it must be 16 pixels or more, or 0 for whole images."),
        ({"tile": 64, "overlap": 0.0}, "overlap is 0.0; it must be above 0 and 0.5 at most."),
        ({"tile": 64, "overlap": 0.6}, "overlap is 0.6; it must be above 0 and 0.5 at most."),
    ],
)
def test_options_out_of_range(make_detector, options, sentence):
    with pytest.raises(VertebraError) as error:
        make_detector().predict(scene(), **options)
    assert str(error.value) == sentence


THREE = [(0, 0, 10, 10, 96), (20, 20, 30, 30, 160), (40, 40, 50, 50, 224)]  # scores 0.375, 0.625, 0.875


@pytest.mark.parametrize(
    ("about", "threshold", "count"),
    [
        ({}, None, 2),
        ({"metrics": {"map": 0.4}}, None, 2),
        ({"metrics": {"threshold": 0.7}}, None, 1),
        ({"metrics": {"threshold": 0.7}}, 0.0, 3),
        ({}, 0.625, 2),
        ({}, 1.0, 0),
    ],
)
def test_the_threshold(make_detector, about, threshold, count):
    (found,) = make_detector(**about).predict(scene(*THREE, size=(64, 64)), threshold=threshold)
    assert found.scores.tolist() == [0.875, 0.625, 0.375][:count]
    assert len(found.boxes) == len(found.labels) == len(found.masks) == count
    assert isinstance(found.masks, Masks)


def test_detections_below_the_threshold_are_counted(make_detector):
    detector = make_detector()
    image = scene(*THREE, size=(64, 64))
    assert detector.below_threshold == 0
    for threshold, count in ((0.5, 1), (0.9, 3), (0.0, 0)):  # each call counts anew
        detector.predict(image, threshold=threshold)
        assert detector.below_threshold == count
    detector.predict([image, image], threshold=0.7)
    assert detector.below_threshold == 4
    detector.predict(image, threshold=0.7, tta=True)  # of six views, one
    assert detector.below_threshold == 2
    detector.predict(image, threshold=0.9, tile=32, overlap=0.1)
    assert detector.below_threshold >= 3


def test_streams_count_apart(make_detector):
    detector = make_detector()
    image = scene(*THREE, size=(64, 64))
    first = detector.stream([image, image], threshold=0.9)
    next(first)
    second = detector.stream([image], threshold=0.5)
    next(first)
    assert detector.below_threshold == 0  # of the latest
    next(second)
    assert detector.below_threshold == 1


def test_raw_outputs_are_those_of_forward(saved):
    task, folder = saved
    images = torch.randn(2, 3, 32, 32)
    outputs = vertebra.load(folder, device="cpu").raw(images)
    assert isinstance(outputs, tuple)
    with torch.no_grad():
        expected = task(images)
    assert len(outputs) == len(expected)
    for output, tensor in zip(outputs, expected, strict=True):
        assert torch.allclose(output, tensor, atol=1e-4)


def test_images_of_equal_input_size_share_a_batch(make_detector):
    detector = make_detector()
    sizes = [(64, 160), (160, 64), (64, 160), (160, 64), (64, 64), (64, 160)]
    images = [scene((4 * i, 0, 4 * i + 8, 8, 200), size=size) for i, size in enumerate(sizes)]
    predictions = detector.predict(images, batch_size=2)
    assert detector.task.batches == [(2, 3, 64, 160), (1, 3, 64, 160), (2, 3, 160, 64), (1, 3, 64, 64)]
    assert [prediction.boxes[0, 0].item() for prediction in predictions] == [4.0 * i for i in range(6)]
    assert [prediction.size for prediction in predictions] == sizes


def test_batches_on_a_cpu_hold_so_many_pixels(make_detector, monkeypatch):
    monkeypatch.setattr(predictor_module, "CPU_PIXELS", 3 * 64 * 64)
    detector = make_detector()
    images = [scene((4, 4, 12, 12, 200), size=size) for size in [(64, 64)] * 5 + [(256, 64)] * 2]
    assert len(detector.predict(images, batch_size=4)) == 7
    assert detector.task.batches == [(3, 3, 64, 64), (2, 3, 64, 64), (1, 3, 256, 64), (1, 3, 256, 64)]


@pytest.mark.parametrize("resize", ["shortest", "fit"])
def test_an_image_has_the_same_input_alone_and_among_others(make_detector, monkeypatch, resize):
    """Input sizes are 64 x 64..76, in steps of the divisor 4; with `fit` they are equal."""
    detector = make_detector(resize=resize)
    images = [scene((4, 4, 12, 12, 200), size=(64, width)) for width in (75, 64, 74, 70, 76, 65)]
    inputs = []
    infer = detector.task.infer

    def recorded(batch, frames, **options):
        inputs.extend(zip((frame.original for frame in frames), batch, strict=True))
        return infer(batch, frames, **options)

    monkeypatch.setattr(detector.task, "infer", recorded)
    for image in images:
        detector.predict(image)
    alone = dict(inputs)
    for batch_size in (1, 2, 16):
        inputs.clear()
        detector.predict(images, batch_size=batch_size)
        assert len(inputs) == len(images)
        assert all(torch.equal(batch, alone[size]) for size, batch in inputs)


def test_group_norm_does_not_see_the_other_images(tmp_path):
    """Padding to the size of another image would enter its statistics."""
    torch.manual_seed(0)
    task = tasks.create(
        "detection",
        backbone="resnet18",
        classes=3,
        norm="group",
        preprocess=Preprocess(size=(64, 160), resize="shortest", divisor=32),
        **{"neck.channels": 16, "box_width": 16, "rpn_post_nms_top_n_test": 10, "score_threshold": 0.0},
    )
    checkpoint.save(task, tmp_path / "best.safetensors")
    predictor = vertebra.load(tmp_path, device="cpu")
    images = [torch.randint(0, 256, (3, 64, width), dtype=torch.uint8) for width in (150, 64, 90, 149, 66)]
    together = predictor.predict(images, batch_size=5, threshold=0)
    for image, prediction in zip(images, together, strict=True):
        (alone,) = predictor.predict(image, threshold=0)
        assert len(alone.scores)
        assert torch.allclose(prediction.scores, alone.scores, atol=1e-4)
        assert torch.allclose(prediction.boxes, alone.boxes, atol=1e-2)


def test_no_more_is_read_ahead_than_memory_holds(make_detector, monkeypatch):
    monkeypatch.setattr(predictor_module, "PIXELS_AHEAD", 10_000)
    taken = []

    def images():
        for i in range(8):
            taken.append(i)
            yield scene(size=(64, 64))

    answers = make_detector().stream(images(), batch_size=16)
    next(answers)
    assert len(taken) == 3  # 12,288 pixels


def test_the_stream_of_a_batch_passes_unreadable_images_by(make_detector, files):
    for file in files:
        Image.new("RGB", (64, 64)).save(file)
    files[1].write_bytes(b"")
    found = list(make_detector().stream(files, batch_size=4))
    assert [isinstance(answer, UnreadableImage) for answer in found] == [False, True, False, False, False]
    assert [one.path for one in found if isinstance(one, Prediction)] == [str(files[i]) for i in (0, 2, 3, 4)]


def test_scales_of_test_time_augmentation():
    shortest = Preprocess((800, 1333), resize="shortest")
    assert predictor_module._scaled(shortest, 0.75).size == (600, 1000)
    assert predictor_module._scaled(Preprocess((512, 512), resize="fit"), 1.25).size == (640, 640)
    assert predictor_module._scaled(Preprocess((100, 224), resize="squash"), 0.75).size == (64, 160)  # multiples of 32
    assert predictor_module._scaled(shortest, 1.0) is shortest


@pytest.mark.parametrize("views", [{}, {"tta": True}, {"tile": 32}, {"tile": 32, "overlap": 0.5, "tta": True}])
def test_evaluation_on_views_takes_all_detections(make_detector, views):
    detector = make_detector()
    image = scene(*THREE, size=(64, 64))
    (expected,) = detector.predict(image, threshold=0.0, **views)
    prediction = detector.merged(**views)(image)
    assert len(prediction.boxes) >= len(THREE)
    assert torch.equal(prediction.boxes, expected.boxes)
    assert torch.equal(prediction.scores, expected.scores)
