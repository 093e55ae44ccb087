"""Facial landmarks to samples: .pts files, WFLW's lists and HRNet's CSV lists; and a sentence for what is wrong."""

import numpy as np
import pytest

from vertebra.cli import main
from vertebra.data.formats import landmarks
from vertebra.data.reading import read
from vertebra.errors import VertebraError

SIZE = (640, 480)
"""(width, height) of the images."""


def csv_header(count, aflw=False):
    points = [f"original_{i}_{axis}" for i in range(count) for axis in "xy"]
    return ",".join(["image_name", "scale", *["box_size"] * aflw, "center_w", "center_h", *points])


def csv_row(name, points, *centre):
    return ",".join(map(str, [name, *(centre or (1.25, 10, 10)), *(value for point in points for value in point)]))


def pts(points, count=None, version=1):
    lines = [" ".join(map(str, point)) for point in points]
    return "\n".join([f"version: {version}", f"n_points:  {len(points) if count is None else count}", "{", *lines, "}"])


THREE = [(10, 20), (50, 30), (30, 100)]
WFLW = [(100 + i, 200 + 2 * (i % 20)) for i in range(98)]
"""98 points in a rectangle of 97 x 38 pixels."""


def wflw_row(name, *more, points=WFLW):
    return " ".join(map(str, [*(value for point in points for value in point), *more, name]))


@pytest.fixture
def write(tmp_path, save_image):
    """Writes files of text and saves images, by their paths in a folder, which it returns."""

    def write_files(images, **files):
        for name in images:
            save_image(f"faces/{name}", SIZE)
        for name, text in files.items():
            path = tmp_path / "faces" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if isinstance(text, str) else "\n".join(text) + "\n")
        return tmp_path / "faces"

    return write_files


# -- .pts


def test_pts(write, read_one):
    catalogue, sample = read_one(write(["a.jpg"], **{"a.pts": pts(THREE)}), "boxes", "keypoints")
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("landmarks", ("face",), {"boxes", "keypoints"})
    assert catalogue.keypoints.names == ("0", "1", "2")
    assert sample.image.name == "a.jpg"
    assert sample.target.keypoints.tolist() == [[[9, 19, 2], [49, 29, 2], [29, 99, 2]]]  # counted from 0
    assert sample.target.boxes.tolist() == [[0, 0, 69, 119]]  # 20 on every side, within the image
    assert sample.target.areas.tolist() == [3200]
    assert sample.annotation_ids == (1,)


def test_points_without_a_positive_coordinate_are_not_labelled(write, read_one):
    _, sample = read_one(write(["a.jpg"], **{"a.pts": pts([(11, 21), (0, 0), (-1, 31)])}), "keypoints")
    assert sample.target.keypoints.tolist() == [[[10, 20, 2], [0, 0, 0], [-2, 30, 2]]]


def test_splits_are_the_names_of_folders(write):
    names = ("afw/a", "helen/trainset/b", "helen/testset/c", "lfpw/testset/d")
    folder = write([f"{name}.png" for name in names], **{f"{name}.pts": pts(THREE) for name in names})
    catalogue = read(folder)
    assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 2, "test": 2}
    note = f"folders whose names are of no split, read as train: 1, such as {folder / 'afw'}"
    assert note in catalogue.notes
    assert set(read(folder / "helen/testset").splits) == {"test"}


def test_what_pts_files_lack_is_listed(write):
    files = {
        "b.pts": pts(THREE, count=4),
        "c.pts": pts(THREE, version=2),
        "d.pts": pts([*THREE[:2], (30,)]),
        "e.pts": pts([*THREE[:2], (30, "nan")]),
        "f.pts": pts(THREE),
        "g.pts": pts([*THREE, (1, 2)]),
        "h.pts": pts([(0, 0)] * 3),
        "i.pts": pts([*THREE[:2], (3e6, 3)]),
        "j.pts": "version: 1\nn_points: 1\n{\n1 2\n",
        "k.pts": "x" * (landmarks.MAX_PTS + 1),
    }
    folder = write([f"{name}.jpg" for name in "aabcdeghijkz"], **{"a.pts": pts(THREE), **files})
    catalogue = read(folder)
    assert sorted(catalogue.problems) == [
        f"{folder / 'b.pts'} is skipped: n_points is 4, but it has 3 points.",
        f"{folder / 'c.pts'} is skipped: it is not version: 1, n_points: and the points in braces.",
        f"{folder / 'd.pts'} is skipped: line 6 has 1 values, x and y are expected.",
        f"{folder / 'e.pts'} is skipped: its y in line 6 is nan, a number up to 1e+09 is expected.",
        f"{folder / 'f.pts'} is skipped: there is no image of its name beside it.",
        f"{folder / 'g.pts'} is skipped: it has 4 points, most of the faces 3.",
        f"{folder / 'h.pts'} is skipped: none of its points has a positive coordinate.",
        f"{folder / 'i.pts'} is skipped: its box from 0, 0 to 3e+06, 480 reaches further beyond the image "
        "(640 x 480 pixels) than its side.",
        f"{folder / 'j.pts'} is skipped: it is not version: 1, n_points: and the points in braces.",
        f"{folder / 'k.pts'} is skipped: {folder / 'k.pts'} has 1,048,577 bytes; at most 1,048,576 are read.",
    ]
    assert f"images without a .pts file, which are ignored: 1, {folder / 'z.jpg'} for one" in catalogue.notes


def test_other_pts_files_are_not_taken_for_landmarks(write):
    folder = write(["chair/a.jpg", "table/b.jpg"], **{"chair/a.pts": "0.1 0.2 0.3\n0.2 0.2 0.2\n"})
    assert read(folder).format == "folder"


# -- WFLW


def test_wflw(write):
    lists = "WFLW_annotations/list_98pt_rect_attr_train_test"
    images = ["WFLW_images/0--Parade/a.jpg", "WFLW_images/0--Parade/b.jpg"]
    other = [(x + 1, y) for x, y in WFLW]
    rows = [
        wflw_row("0--Parade/a.jpg", 90, 190, 200, 250, *"000000"),
        wflw_row("0--Parade/a.jpg", 10, 20, 30, 40, *"100001", points=other),
    ]
    folder = write(
        images,
        **{
            f"{lists}/list_98pt_rect_attr_train.txt": rows,
            f"{lists}/list_98pt_rect_attr_test.txt": [wflw_row("0--Parade/b.jpg", 1, 2, 3, 4, *"000000")],
            "WFLW_annotations/list_98pt_test/list_98pt_test_blur.txt": [wflw_row("0--Parade/b.jpg")],
        },
    )
    for path in (folder, folder / "WFLW_annotations", folder / lists):
        catalogue = read(path, fields={"boxes", "keypoints"})
        assert {split: len(samples) for split, samples in catalogue.splits.items()} == {"train": 1, "test": 1}
    (sample,) = catalogue.splits["train"]
    assert sample.target.boxes.tolist() == [[90, 190, 200, 250], [10, 20, 30, 40]]
    assert sample.target.keypoints[:, :, :2].tolist() == [[list(p) for p in WFLW], [list(p) for p in other]]
    assert sample.target.areas.tolist() == [97 * 38, 97 * 38]  # of the points, not of the boxes
    assert sample.annotation_ids == (1, 2)
    assert (catalogue.notes, catalogue.problems) == ([], [])
    part = read(folder / "WFLW_annotations/list_98pt_test/list_98pt_test_blur.txt").splits["test"]
    assert part[0].target.boxes.tolist() == [[75.75, 175.75, 221.25, 262.25]]  # around the points


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (wflw_row("a.jpg", 1, 2, 3), "it has 200 values, 197 or 201 or 207 are expected"),
        (wflw_row("b.jpg"), "its image 'b.jpg' is not there, neither beside the list nor in images/"),
        (wflw_row("a.jpg"), "it repeats line 1"),
        (wflw_row("a.jpg", points=[*WFLW[:97], ("nan", 1)]), "its x of point 97 is nan, a number up to 1e+09 is"),
        (wflw_row("a.jpg", points=[(1, "inf"), *WFLW[1:]]), "its y of point 0 is inf, a number up to 1e+09 is"),
        (wflw_row("a.jpg", 5, 5, 1, 9, points=WFLW[::-1]), "its box is -4 x 4 pixels (width x height)"),
        (wflw_row("a.jpg", points=[(-2e6, 1), *WFLW[1:]]), "its box from -2e+06, "),
    ],
)
def test_rows_that_are_invalid_are_skipped(write, row, fault):
    folder = write(["images/a.jpg"], **{"list_98pt_train.txt": [wflw_row("a.jpg"), "", row]})
    (problem,) = read(folder).problems
    assert problem.startswith(f"{folder / 'list_98pt_train.txt'}, line 3 is skipped: {fault}")


# -- CSV


def test_csv(write):
    names = ("face_landmarks_300w_train", "face_landmarks_300w_valid", "face_landmarks_300w_valid_common")
    rows = [csv_header(3), csv_row("afw/a.jpg", THREE), csv_row("afw/b.png", THREE, 0.6, 40, 70)]
    folder = write(["images/afw/a.jpg", "images/afw/b.png"], **{f"{name}.csv": rows for name in names})
    catalogue = read(folder, fields={"keypoints"})
    assert (catalogue.format, set(catalogue.splits)) == ("landmarks", {"train", "val"})
    assert [sample.image.name for sample in catalogue.splits["val"]] == ["a.jpg", "b.png"]
    sample = catalogue.splits["val"][1]
    assert sample.target.keypoints.tolist() == [[[10, 20, 2], [50, 30, 2], [30, 100, 2]]]
    assert sample.target.boxes.tolist() == [[-20, 10, 100, 130]]  # 0.6 x 200 pixels around the centre
    assert sample.annotation_ids == (3,)
    assert catalogue.problems == []
    assert (
        "ignored, parts of face_landmarks_300w_valid.csv by their names: face_landmarks_300w_valid_common.csv; give "
        "the path of one to read it"
    ) in catalogue.notes
    assert set(read(folder / f"{names[2]}.csv").splits) == {"val"}


def test_aflw_has_boxes(write, read_one):
    rows = [csv_header(19, aflw=True), csv_row("0/a.jpg", WFLW[:19], 0.6, 120, 140, 215)]
    _, sample = read_one(write(["images/0/a.jpg"], **{"face_landmarks_aflw_train.csv": rows}))
    assert sample.target.boxes.tolist() == [[80, 155, 200, 275]]
    assert sample.target.areas.tolist() == [18 * 36]


def test_squares_keep_their_size_at_the_border(write, read_one):
    rows = [csv_header(3, aflw=True), csv_row("a.jpg", THREE, 0.5, 100, 30, 45)]
    _, sample = read_one(write(["a.jpg"], **{"face_landmarks_aflw_train.csv": rows}))
    assert sample.target.boxes.tolist() == [[-20, -5, 80, 95]]


def test_two_lists_of_one_split(write):
    rows = [csv_header(3), csv_row("a.jpg", THREE)]
    folder = write(["a.jpg"], **{"ann_test.csv": rows, "bob_test.csv": rows})
    with pytest.raises(VertebraError, match=r"faces has 2 lists of the test split \(ann_test.csv, bob_test.csv\); giv"):
        read(folder)


def test_rows_of_csv_that_are_invalid(write):
    rows = [
        csv_header(3),
        csv_row("a.jpg", THREE),
        csv_row("a.jpg", THREE[:2]),
        csv_row("a.jpg", [*THREE[:2], (1, "")]),
    ]
    folder = write(["a.jpg"], **{"faces.csv": rows})
    assert read(folder).problems == [
        f"{folder / 'faces.csv'}, line 3 is skipped: it has 8 values, the header 10.",
        f"{folder / 'faces.csv'}, line 4 is skipped: it has no y of point 2.",
    ]


def test_an_image_that_cannot_be_read(write):
    rows = [csv_header(3), csv_row("a.jpg", THREE), csv_row("b.jpg", THREE)]
    folder = write(["a.jpg"], **{"faces.csv": rows, "b.jpg": ""})
    assert read(folder).problems == [
        f"{folder / 'faces.csv'}, line 3 is skipped: {folder / 'b.jpg'}: the file is empty (0 bytes)."
    ]


def test_too_many_points(write):
    with pytest.raises(VertebraError, match=r"its objects have 1,001 keypoints; at most 1,000 are read"):
        read(write(["a.jpg"], **{"a.pts": pts([(1, 2)] * 1001)}))


# -- mirror images

# Where some points of a face that looks into the camera are: x, y by their index, in 0..100 from side to side.
FRONTAL = {
    19: {0: (0, 20), 5: (100, 20), 6: (15, 35), 11: (85, 35), 12: (30, 65), 14: (70, 65), 13: (50, 70), 18: (50, 120)},
    29: {0: (5, 20), 1: (95, 20), 8: (15, 35), 9: (85, 35), 16: (25, 36), 17: (75, 36), 18: (38, 65), 19: (62, 65)},
    68: {0: (0, 40), 16: (100, 40), 8: (50, 130), 36: (20, 40), 45: (80, 40), 48: (30, 95), 54: (70, 95), 30: (50, 70)},
    98: {
        0: (0, 40),
        32: (100, 40),
        16: (50, 130),
        60: (20, 40),
        72: (80, 40),
        96: (28, 40),
        97: (72, 40),
        54: (50, 70),
    },
}


@pytest.mark.parametrize("count", [19, 29, 68, 98])
def test_flip_indices(write, count):
    points = [(100 + i, 100) for i in range(count)]
    catalogue = read(write(["a.jpg"], **{"a.pts": pts(points)}), fields={"keypoints"})
    flips = catalogue.keypoints.flip_indices
    assert [flips[i] for i in flips] == list(range(count))
    assert catalogue.notes == []
    for i, (x, y) in FRONTAL[count].items():
        assert FRONTAL[count][flips[i]] == (100 - x, y)


# The contour of 300W and WFLW runs from one ear over the chin to the other; lips and eyes are closed curves.
@pytest.mark.parametrize(
    ("count", "curve", "start"),
    [
        (68, range(17), "ends"),
        (68, range(17, 27), "ends"),
        (68, range(31, 36), "ends"),
        (68, range(48, 60), 51),
        (68, range(60, 68), 62),
        (98, range(33), "ends"),
        (98, range(55, 60), "ends"),
        (98, range(76, 88), 79),
        (98, range(88, 96), 90),
    ],
)
def test_curves_across_the_face_are_reversed(count, curve, start):
    """A curve with both of its ends, or one that is closed about the point `start` in the middle of the face."""
    flips = np.array(landmarks._flip_indices(count))
    points = list(curve)
    if start == "ends":
        assert flips[points].tolist() == points[::-1]
    else:
        turned = np.roll(points, -points.index(start))
        assert flips[turned].tolist() == [start, *turned[:0:-1]]


@pytest.mark.parametrize(
    ("count", "left", "right"),
    [
        (
            68,
            [36, 37, 38, 39, 40, 41],
            [45, 44, 43, 42, 47, 46],
        ),  # eyes: outer corner, upper lid, inner corner, lower lid
        (98, [60, 61, 62, 63, 64, 65, 66, 67], [72, 71, 70, 69, 68, 75, 74, 73]),
        (98, [33, 34, 35, 36, 37, 38, 39, 40, 41], [46, 45, 44, 43, 42, 50, 49, 48, 47]),  # eyebrows
    ],
)
def test_eyes_and_eyebrows(count, left, right):
    flips = landmarks._flip_indices(count)
    assert [flips[i] for i in left] == right


def test_other_numbers_of_points_keep_their_places(write):
    catalogue = read(write(["a.jpg"], **{"a.pts": pts(THREE)}), fields={"keypoints"})
    assert catalogue.keypoints.flip_indices == (0, 1, 2)
    assert any("--augment.flip=0" in note for note in catalogue.notes)


def test_seventeen_points_are_not_taken_for_a_person(write):
    catalogue = read(write(["a.jpg"], **{"a.pts": pts([(10 + i, 10) for i in range(17)])}))
    assert catalogue.keypoints.names == tuple(map(str, range(17)))


def test_a_folder_is_inspected_and_converted(write, tmp_path, capsys):
    folder = write(["a.jpg"], **{"a.pts": pts([(100 + i, 100 + i) for i in range(68)])})
    assert main(["data", str(folder)]) == 0
    assert "landmarks" in capsys.readouterr().out
    main(["data", "convert", str(folder), "--to=coco", f"--save={tmp_path / 'coco'}"])
    again = read(tmp_path / "coco", fields={"keypoints"})
    assert again.keypoints == read(folder).keypoints
    assert again.splits["train"][0].target.boxes.tolist() == read(folder).splits["train"][0].target.boxes.tolist()
