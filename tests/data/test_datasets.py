"""Torch Datasets of users: read only when needed, checked item by item, and trained on as any other data."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, random_split

import vertebra
from vertebra import kinds
from vertebra.data import open_data
from vertebra.data.augment.category import CategoryAugment
from vertebra.data.augment.objects import ObjectsAugment
from vertebra.data.catalogue import Sample, map_classes
from vertebra.data.datasets import catalogue_of
from vertebra.data.loader import loader
from vertebra.errors import VertebraError
from vertebra.images import UnreadableImage
from vertebra.structures import KeypointSchema, Masks, Preprocess, Target


class UserData(Dataset):
    """Items from a function of the index; counts how often each is read."""

    def __init__(self, item, count: int = 6, **attributes) -> None:
        self.item, self.count, self.reads = item, count, []
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        self.reads.append(index)
        return self.item(index)


def image(index: int = 0, size: tuple[int, int] = (20, 30)) -> torch.Tensor:
    return torch.full((3, *size), index, dtype=torch.uint8)


def labelled(index: int):
    return image(index), Target(label=torch.tensor(index % 3))


def with_objects(index: int):
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 3:9, 4:10] = masks[1, 10:18, 20:26] = True
    return image(index), Target(labels=torch.tensor([0, 1]), masks=masks, id=index)


def with_captions(index: int):
    return image(index), Target(text=f"image {index}", references=("a pixel", "a square")[: 1 + index])


# -- the catalogue


def test_a_dataset_is_listed_without_reading_it():
    data = UserData(labelled, classes=("cat", "dog", "owl"))
    catalogue = catalogue_of(data)
    assert data.reads == [0]
    assert (catalogue.path, catalogue.format, catalogue.classes) == ("UserData", "dataset", ("cat", "dog", "owl"))
    assert (catalogue.has, len(catalogue.split("train"))) == ({"label"}, 6)
    sample = catalogue.split("train")[4]
    assert (sample.size, data.reads) == (None, [0])
    assert torch.equal(sample.image, image(4))
    assert sample.target == Target(label=torch.tensor(1), size=(20, 30))
    assert data.reads == [0, 4]  # once for both


def test_classes_are_numbered_where_they_have_no_names():
    data = UserData(labelled)
    assert catalogue_of(data).classes == ("0", "1", "2")
    assert sorted(set(data.reads)) == list(range(6))
    assert catalogue_of(UserData(with_objects)).classes == ("0", "1")
    semantic = UserData(lambda i: (image(), Target(semantic=torch.tensor([[4, 255] * 15] * 20))))
    assert len(catalogue_of(semantic).classes) == 5


def test_splits():
    train, val = UserData(labelled, 5, classes=("a", "b", "c")), UserData(labelled, 3)
    catalogue = open_data({"train": train, "val": val})
    assert {name: len(samples) for name, samples in catalogue.splits.items()} == {"train": 5, "val": 3}
    assert catalogue.classes == ("a", "b", "c")
    catalogue = open_data(UserData(labelled, 30, classes=("a", "b", "c")), val_share=0.2)
    assert {name: len(samples) for name, samples in catalogue.splits.items()} == {"train": 24, "val": 6}
    assert sorted(int(sample.image[0, 0, 0]) for part in catalogue.splits.values() for sample in part) == list(
        range(30)
    )
    assert [catalogue.counts(split, lambda target: target.label) for split in ("train", "val")] == [[8] * 3, [2] * 3]


def test_classes_of_a_part_are_those_of_the_whole():
    first, second = random_split(UserData(labelled, 6, classes=("a", "b", "c")), [4, 2])
    assert catalogue_of({"train": first, "val": second}).classes == ("a", "b", "c")


def test_keypoints():
    schema = KeypointSchema(("head", "tail"), flip_indices=(0, 1))

    def item(index: int):
        boxes, positions = torch.tensor([[2.0, 3, 9, 9]]), torch.tensor([[[3.0, 4, 2], [0, 0, 0]]])
        return image(), Target(boxes=boxes, labels=torch.tensor([0]), keypoints=positions)

    assert catalogue_of(UserData(item, keypoints=schema)).keypoints == schema
    catalogue = catalogue_of(UserData(item))
    assert (catalogue.keypoints, catalogue.has) == (KeypointSchema(("0", "1")), {"boxes", "keypoints"})
    assert catalogue_of(UserData(labelled, keypoints=schema)).keypoints is None


def test_keypoints_without_boxes_have_boxes_around_them():
    """A quarter of the longer side on every side; an object without a labelled keypoint has no box."""

    def item(index: int):
        positions = torch.tensor([[[3.0, 4, 2], [5, 8, 1]], [[1.0, 1, 0], [2, 2, 0]]])
        return image(), Target(labels=torch.tensor([0, 0]), keypoints=positions)

    catalogue = catalogue_of(UserData(item))
    target = catalogue.splits["train"][0].target
    assert catalogue.has == {"boxes", "keypoints"}
    assert target.boxes.tolist() == [[2, 3, 6, 9]]
    assert target.areas.tolist() == [2 * 4]
    assert len(target.labels) == len(target.keypoints) == 1


def test_boxes_and_areas_come_from_masks():
    def item(index: int):
        image, target = with_objects(index)
        masks = torch.cat([target.masks, torch.zeros(1, 20, 30, dtype=torch.bool)])
        if index:
            masks = Masks.from_dense(masks)
        return image, Target(masks=masks, labels=torch.tensor([1, 0, 0]), crowd=torch.tensor([False, True, False]))

    catalogue = catalogue_of(UserData(item))
    assert catalogue.has == {"boxes", "masks"}
    for sample in catalogue.split("train")[:2]:
        target = sample.target
        assert target.boxes.tolist() == [[4, 3, 10, 9], [20, 10, 26, 18]]
        assert (target.areas.tolist(), target.labels.tolist(), target.crowd.tolist()) == (
            [36, 48],
            [1, 0],
            [False, True],
        )
        assert isinstance(target.masks, Masks)
        assert torch.equal(target.masks.dense(), with_objects(0)[1].masks)
        assert (target.areas.dtype, target.boxes.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize(
    ("pixels", "shape"),
    [
        (Image.new("RGB", (30, 20)), (3, 20, 30)),
        (Image.new("RGBA", (30, 20)), (3, 20, 30)),
        (Image.new("L", (30, 20)), (1, 20, 30)),
        (np.zeros((20, 30), np.uint8), (1, 20, 30)),
        (np.zeros((20, 30, 3), np.float32), (3, 20, 30)),
        (np.zeros((20, 30, 5), np.uint8), (5, 20, 30)),
        (torch.zeros(4, 20, 30), (4, 20, 30)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_type_of_image(pixels, shape):
    (sample,) = catalogue_of(UserData(lambda i: (pixels, Target(label=torch.tensor(0))), 1)).split("train")
    assert (sample.image.shape, sample.image.dtype) == (shape, torch.uint8)


def test_an_image_and_its_target_are_of_one_draw():
    """A Dataset may augment at random, and gives another item each time."""
    random = torch.Generator().manual_seed(0)

    def item(index: int):
        value = int(torch.randint(100, (), generator=random))
        return image(value), Target(label=torch.tensor(value))

    samples = catalogue_of(UserData(item, classes=tuple(map(str, range(100))))).split("train")
    values = []
    for _ in range(5):
        for sample in samples:
            pixel = int(sample.image[0, 0, 0])
            assert int(sample.target.label) == pixel
            values.append(pixel)
    assert len(set(values)) > 10


# -- as data


def test_training_and_evaluation():
    catalogue = catalogue_of(UserData(labelled, 8, classes=("a", "b", "c")))
    options = {"num_classes": 3, "batch_size": 4, "workers": 0}
    preprocess, kind = Preprocess((16, 16)), kinds.find("category")
    (batch, other) = loader(catalogue.split("train"), preprocess, kind, augment=CategoryAugment(), **options)
    assert (batch.images.shape, len(other.targets)) == ((4, 3, 16, 16), 4)
    evaluated = list(loader(catalogue.split("train"), preprocess, kind, **options))
    assert [int(t.label) for batch in evaluated for t in batch.targets] == [i % 3 for i in range(8)]


@pytest.mark.parametrize("workers", [0, 1])
def test_training_and_evaluation_of_masks(workers):
    catalogue = catalogue_of(UserData(with_objects, 4, classes=("a", "b")))
    options = {"num_classes": 2, "batch_size": 4, "workers": workers}
    preprocess, kind = Preprocess((40, 80), resize="shortest"), kinds.find("masks")
    (batch,) = loader(catalogue.split("train"), preprocess, kind, augment=ObjectsAugment(), **options)
    assert [len(target.masks) for target in batch.targets] == [2] * 4
    evaluated = list(loader(catalogue.split("train"), preprocess, kind, **options))
    assert [batch.indices for batch in evaluated] == [[0], [1], [2], [3]]  # of unknown size
    assert [target.masks.areas().tolist() for batch in evaluated for target in batch.targets] == [[36, 48]] * 4


@pytest.mark.parametrize("reader", [True, False])
def test_captions_are_samples_in_training_and_references_in_evaluation(reader):
    catalogue = catalogue_of({"train": UserData(with_captions, 2)})
    if not reader:
        listed = [Sample(sample.image, sample.target) for sample in catalogue.split("train")]
        catalogue = replace(catalogue, splits={"train": listed})
    kind = kinds.find("captions")
    kind.check_fields(catalogue)
    options = kind.model_options(catalogue)
    task = vertebra.create("captioning", backbone="resnet18", width=16, **options)
    samples = kind.samples(catalogue, "train", task, training=True)
    assert [(int(s.image[0, 0, 0]), s.target.text, s.target.references) for s in samples] == [
        *((0, text, ()) for text in ("image 0", "a pixel")),
        *((1, text, ()) for text in ("image 1", "a pixel", "a square")),
    ]
    assert [task.vocabulary.decode(s.target.tokens.tolist()) for s in samples] == [s.target.text for s in samples]
    samples = pickle.loads(pickle.dumps(kind.samples(catalogue, "train", task)))
    assert [(s.target.text, s.target.references) for s in samples] == [
        ("image 0", ("a pixel",)),
        ("image 1", ("a pixel", "a square")),
    ]


def test_masks_are_converted_only_if_they_are_needed():
    def item(index: int):
        return image(), Target(boxes=torch.ones(1, 4).cumsum(1), labels=torch.tensor([0]), masks="none")

    assert catalogue_of(UserData(item), {"boxes"}).split("train")[0].target.masks is None
    with pytest.raises(VertebraError, match=r"item 0 of the train split: its masks are a str; they must be"):
        catalogue_of(UserData(item))


def test_samples_can_be_sent_and_renumbered():
    catalogue = catalogue_of(UserData(with_objects, 2, classes=("a", "b")))
    sample = catalogue.split("train")[1]
    sent = pickle.loads(pickle.dumps(sample))
    assert torch.equal(sent.image, sample.image)
    renumbered = map_classes(catalogue.split("train"), ("a", "b"), ("b", "a"))
    assert [sample.target.labels.tolist() for sample in renumbered] == [[1, 0]] * 2
    assert torch.equal(renumbered[1].image, sample.image)


# -- what is not as it should be


def fails(item, words: str, error: type = VertebraError, count: int = 3, **attributes) -> None:
    with pytest.raises(error, match=words):
        catalogue_of({"val": UserData(item, count, **attributes)}).split("val")[count - 1].image  # noqa: B018


def late(wrong, right=labelled):
    """Items of which the last of three is wrong."""
    return lambda index: wrong if index == 2 else right(index)


BOX = torch.tensor([[2.0, 3, 9, 9]])
ONE = torch.tensor([0])


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ((image(), 3), r"is \(Tensor, int\); it must be \(image, Target\), .* such as Target\(label="),
        (image(), r"is a Tensor; it must be \(image, Target\)"),
        ((image(), Target(), 1), r"is \(Tensor, Target, int\); it must be"),
        (("a.png", Target()), r": (a\.png: there is no such file|an image is)"),
        ((image().long(), Target()), r": an image holds uint8, uint16 or floats in 0\.\.1, not torch\.int64"),
        ((image(9).float(), Target()), r": a floating-point image holds values in 0\.\.1"),
        (
            (torch.zeros(20, 30), Target()),
            r": an image tensor is \[C, H, W\] with pixels in it; this one is \[20, 30\]",
        ),
        ((image(), Target(boxes=[[1, 2, 3, 4]])), r": its boxes is a list; it must be a tensor"),
        ((image(), Target(boxes=torch.ones(2, 3))), r": its boxes is \[2, 3\]; it must be \[2, 4\]"),
        ((image(), Target(boxes=BOX)), r": it has boxes without labels"),
        ((image(), Target(boxes=BOX, labels=torch.tensor([0, 1]))), r": its labels is \[2\]; it must be \[1\]"),
        ((image(), Target(boxes=BOX[:, [2, 1, 0, 3]], labels=ONE)), r": box 0 is \[9\.0, 3\.0, 2\.0, 9\.0\]; x1 < x2"),
        ((image(), Target(boxes=BOX * float("nan"), labels=ONE)), r": box 0 is \[nan, "),
        (
            (image(), Target(boxes=BOX * torch.tensor([0, 0, torch.inf, 1]), labels=ONE)),
            r": box 0 is \[0\.0, 0\.0, inf, ",
        ),
        (
            (image(), Target(boxes=BOX, labels=ONE, keypoints=torch.full((1, 2, 3), torch.inf))),
            r": its keypoints have a number that is not finite",
        ),
        (
            (image(), Target(boxes=BOX, labels=ONE, areas=torch.tensor([torch.nan]))),
            r": its areas have a number that is not finite",
        ),
        (
            (image(), Target(boxes=BOX, labels=torch.tensor([0.5]))),
            r": its labels is torch\.float32; classes are int64",
        ),
        ((image(), Target(boxes=BOX, labels=torch.tensor([3]))), r": it has class 3; classes are from 0 to 2"),
        ((image(), Target(boxes=BOX, labels=torch.tensor([-1]))), r": it has class -1; classes are from 0 to 2"),
        ((image(), Target(label=7)), r": its label is an int; it must be a tensor"),
        ((image(), Target(label=torch.ones(2, 2))), r": its label is \[2, 2\]; it must be \[K\]"),
        ((image(), Target(label=torch.tensor(7))), r": it has class 7; classes are from 0 to 2"),
        (
            (image(), Target(boxes=BOX, labels=ONE, keypoints=torch.full((1, 2, 3), 3))),
            r": its keypoints have a visibility that is not 0 \(not labelled\), 1 \(occluded\) or 2 \(visible\)",
        ),
        (
            (image(), Target(keypoints=torch.ones(1, 2, 3))),
            r": it has keypoints without labels, the class of each object",
        ),
        (
            (image(), Target(boxes=BOX, labels=ONE, keypoints=torch.ones(1, 3))),
            r": its keypoints is \[1, 3\]; it must be \[1, K, 3\]",
        ),
        ((image(), Target(masks=torch.zeros(1, 20, 30), labels=ONE)), r": its masks are \[1, 20, 30\] torch\.float32"),
        (
            (image(), Target(masks=torch.zeros(1, 20, 31, dtype=torch.bool), labels=ONE)),
            r": its masks are for 20 x 31 pixels, the image has 20 x 30",
        ),
        ((image(), Target(masks=Masks((20, 30)), labels=ONE)), r": it has 0 masks; labels must hold the class of each"),
        ((image(), Target(boxes=BOX, labels=ONE, masks=Masks((20, 30)))), r": it has 0 masks and 1 boxes"),
        ((image(), Target(text=" ")), r": a caption is ' '; it must be a sentence"),
        ((image(), Target(text="a cat", references=(3,))), r": a caption is 3; it must be a sentence"),
        ((image(), Target(semantic=torch.zeros(4, 4).long())), r": its semantic is \[4, 4\]; it must be \[20, 30\]"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_wrong_item_is_one_sentence_with_its_index(item, words):
    fails(late(item), rf"^item 2 of the val split{words if words[0] == ':' else ' ' + words}", classes=("a", "b", "c"))


def test_errors_of_the_dataset():
    def item(index: int):
        if index == 1:
            raise OSError("truncated")
        return [labelled(0)][index]

    data = UserData(item, 3, classes=("a", "b", "c"))
    samples = catalogue_of(data).split("train")
    with pytest.raises(UnreadableImage, match=r"^item 1 of the train split: cannot be read \(truncated\)\.$"):
        samples[1].image  # noqa: B018
    with pytest.raises(VertebraError, match=r"^item 2 of the train split: IndexError: list index out of range$"):
        samples[2].target  # noqa: B018
    options = {"num_classes": 3, "batch_size": 2, "workers": 0}
    (batch,) = loader(samples[:2], Preprocess((16, 16)), kinds.find("category"), **options)
    assert (batch.indices, len(batch.unreadable)) == ([0], 1)  # an image that cannot be read is skipped, as in files


def test_what_is_no_dataset():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(VertebraError, match="the train split is a Stream without a length"):
        open_data(Stream())
    with pytest.raises(VertebraError, match="the val split, a UserData, has no items"):
        open_data({"train": UserData(labelled), "val": UserData(labelled, 0)})
    with pytest.raises(VertebraError, match=r"split is 'trian'; .* Did you mean 'train'\?"):
        open_data({"trian": UserData(labelled)})
    with pytest.raises(VertebraError, match="data is an empty mapping"):
        open_data({})


@pytest.mark.parametrize("classes", [("a", "a"), ("a", ""), ("a", "x" * 1001)])
def test_class_names_that_are_invalid(classes):
    fails(late((image(), Target(label=torch.tensor(0)))), "attribute classes of .*: .* called", classes=classes)
