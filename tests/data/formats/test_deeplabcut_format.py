"""DeepLabCut's lists of labels to samples, of one animal and of several, and a sentence for what is wrong with them."""

import pytest

from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError

HEADER = (
    "scorer,ann,ann,ann,ann,ann,ann",
    "bodyparts,snout,snout,leftear,leftear,rightear,rightear",
    "coords,x,y,x,y,x,y",
)
ANIMALS = (
    "scorer,,,ann,ann,ann,ann,ann,ann,ann,ann,ann,ann",
    "individuals,,,one,one,one,one,two,two,two,two,single,single",
    "bodyparts,,,L_ear,L_ear,R_ear,R_ear,L_ear,L_ear,R_ear,R_ear,corner,corner",
    "coords,,,x,y,x,y,x,y,x,y,x,y",
)
LIST = "mice/labeled-data/m1/CollectedData_ann.csv"


@pytest.fixture
def write(tmp_path, save_image):
    """Writes the lines of a list and saves images of 40 x 20 beside it, and returns the folder of the project."""

    def write_lines(*lines, file=LIST, images=("img1.png",), config=None):
        for name in images:
            save_image(f"{file.rpartition('/')[0]}/{name}", (40, 20))
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("\n".join(lines) + "\n")
        if config is not None:
            (tmp_path / "mice/config.yaml").write_text(config)
        return tmp_path / "mice"

    return write_lines


def test_one_animal(write, read_one):
    catalogue, sample = read_one(write(*HEADER, "labeled-data/m1/img1.png,10,5,18.5,9,,"), "boxes", "keypoints")
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("deeplabcut", ("animal",), {"boxes", "keypoints"})
    assert catalogue.keypoints.names == ("snout", "leftear", "rightear")
    assert catalogue.keypoints.flip_indices == (0, 2, 1)
    assert sample.target.keypoints.tolist() == [[[10, 5, 2], [18.5, 9, 2], [0, 0, 0]]]
    assert sample.target.boxes.tolist() == [[7.875, 2.875, 20.625, 11.125]]  # a quarter of 8.5 on every side
    assert sample.target.areas.tolist() == [34]  # 8.5 x 4
    assert sample.target.labels.tolist() == [0]
    assert sample.annotation_ids == (4,)
    assert (catalogue.notes, catalogue.problems) == ([], [])


@pytest.mark.parametrize(
    ("point", "box"),
    [
        ("10,5", [9, 4, 11, 6]),  # a pixel on every side
        ("0,20", [0, 19, 1, 20]),  # but not beyond the image
        ("40.5,5", [39.5, 4, 40, 6]),  # nor beside a keypoint that is just outside of it
    ],
)
def test_the_box_of_one_keypoint(write, read_one, point, box):
    _, sample = read_one(write(*HEADER, f"labeled-data/m1/img1.png,,,{point},,"))
    assert sample.target.boxes.tolist() == [box]
    assert sample.target.areas.tolist() == [1]


def test_several_animals(write, read_one):
    row = "labeled-data,m1,img1.png,1,2,3,4,,,8,9,10,11"
    catalogue, sample = read_one(write(*ANIMALS, row), "keypoints")
    assert catalogue.keypoints.names == ("L_ear", "R_ear", "corner")
    assert catalogue.keypoints.flip_indices == (1, 0, 2)
    assert sample.target.keypoints.tolist() == [
        [[1, 2, 2], [3, 4, 2], [0, 0, 0]],
        [[0, 0, 0], [8, 9, 2], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [10, 11, 2]],
    ]
    assert sample.annotation_ids == (5, 5, 5)


@pytest.mark.parametrize(
    "path",
    [
        "labeled-data/m1/img1.png",
        "labeled-data\\m1\\img1.png",
        "C:\\Users\\ann\\labeled-data\\m1\\img1.png",
        "/home/ann/mice/labeled-data/m1/img1.png",
        "m1/img1.png",
        "labeled-data/before it was renamed/img1.png",
    ],
)
@pytest.mark.parametrize(
    "given", ["", "config.yaml", "labeled-data", "labeled-data/m1", "labeled-data/m1/CollectedData_ann.csv"]
)
def test_paths(write, read_one, path, given):
    folder = write(*HEADER, f"{path},1,2,3,4,5,6", config="Task: mice\n")
    assert read_one(folder / given)[1].image == folder / "labeled-data/m1/img1.png"


def test_a_list_of_two_videos(write):
    write(file="mice/labeled-data/m2/x.txt")
    folder = write(*HEADER, "labeled-data/m1/img1.png,1,2,3,4,5,6", "labeled-data/m2/img1.png,1,2,3,4,5,6")
    assert [sample.image.parent.name for sample in read(folder).splits["train"]] == ["m1", "m2"]


def test_videos_with_body_parts_in_another_order(write):
    write(*HEADER, "labeled-data/m1/img1.png,1,2,3,4,5,6")
    lines = ("scorer,ann,ann,ann,ann", "bodyparts,tail,tail,snout,snout", "coords,x,y,x,y")
    file = "mice/labeled-data/m2/CollectedData_ann.csv"
    folder = write(*lines, "labeled-data/m2/img7.png,7,8,9,10", file=file, images=("img7.png",))
    catalogue = read(folder, fields={"keypoints"})
    assert catalogue.keypoints.names == ("snout", "leftear", "rightear", "tail")
    assert [sample.target.keypoints.tolist() for sample in catalogue.splits["train"]] == [
        [[[1, 2, 2], [3, 4, 2], [5, 6, 2], [0, 0, 0]]],
        [[[9, 10, 2], [0, 0, 0], [0, 0, 0], [7, 8, 2]]],
    ]


def test_the_skeleton_of_the_project(write):
    config = "Task: mice\nskeleton:\n- [leftear, snout]\n- - objectA\n  - snout\n- [rightear, snout]\n"
    folder = write(*HEADER, "labeled-data/m1/img1.png,1,2,3,4,5,6", config=config)
    for path in (folder, folder / "labeled-data/m1"):
        catalogue = read(path)
        assert catalogue.keypoints.skeleton == ((1, 0), (2, 0))
        assert catalogue.keypoints.flip_indices == (0, 2, 1)
        assert catalogue.notes == [
            "config.yaml: pairs of its skeleton that are not two body parts of the lists are ignored: 1, "
            "['objectA', 'snout'] for one"
        ]


def test_the_scorer_of_the_project(write):
    write(*HEADER, "labeled-data/m1/img1.png,1,2,3,4,5,6")
    folder = write(*HEADER, "labeled-data/m1/img1.png,7,7,7,7,7,7", file=LIST.replace("ann", "bob"))
    with pytest.raises(VertebraError, match=r"m1 has lists of 2 scorers \(CollectedData_ann.csv, CollectedData_bob.cs"):
        read(folder)
    write(*HEADER, "labeled-data/m1/img1.png,1,2,3,4,5,6", config="scorer: bob\n")
    catalogue = read(folder, fields={"keypoints"})
    assert catalogue.splits["train"][0].target.keypoints[0, 0].tolist() == [7, 7, 2]
    assert catalogue.notes == [f"{folder / 'labeled-data/m1'}: lists of other scorers than 'bob' are ignored: 1"]
    assert catalogue.problems == []


def test_images_without_a_label_and_without_a_row(write):
    images = ("img1.png", "img2.png", "img3.png", "._img4.png")
    folder = write(*HEADER, "m1/img1.png,1,2,3,4,5,6", "m1/img2.png,,,,,,", images=images)
    catalogue = read(folder)
    assert [len(sample.target.labels) for sample in catalogue.splits["train"]] == [1, 0]
    assert catalogue.notes == [
        "images without a labelled body part, taken to show no animal: 1",
        f"images that no row lists, which are ignored: 1, {folder / 'labeled-data/m1/img3.png'} for one",
    ]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("m1/img2.png,1,nan,3,4,5,6", "its y of 'snout' is nan, a number up to 1e+09 is expected"),
        ("m1/img2.png,1,2,inf,4,5,6", "its x of 'leftear' is inf, a number up to 1e+09 is expected"),
        ("m1/img2.png,1,2,x,4,5,6", "its x of 'leftear' is 'x', a number is expected"),
        ("m1/img2.png,1,,3,4,5,6", "it has no y of 'snout'"),
        ("m1/img2.png,1,2,3,4,5", "it has 6 values, the header 7"),
        ("m1/img2.png,1,2,3,4,5,6,7", "it has 8 values, the header 7"),
        (",1,2,3,4,5,6", "it has no image"),
        ("m1/img3.png,1,2,3,4,5,6", "{folder}/img3.png is not there"),
        ("m1/img1.png,1,2,3,4,5,6", "{folder}/img1.png is in {file}, line 4 as well"),
        (
            "m1/img2.png,1,2,3,4,5e6,6",
            "its box from 0, 0 to 5e+06, 20 reaches further beyond the image (40 x 20 pixels) than its side",
        ),
        (
            "m1/img2.png,50,2,55,4,50,6",
            "its box from 48.75, 0.75 to 55, 7.25 is outside the image (40 x 20 pixels)",
        ),
    ],
)
def test_rows_that_are_invalid_are_skipped(write, row, fault):
    path = write(*HEADER, "m1/img1.png,1,2,3,4,5,6", row, images=("img1.png", "img2.png"))
    folder, file = path / "labeled-data/m1", path / "labeled-data/m1/CollectedData_ann.csv"
    fault = fault.format(folder=folder, file=file)
    assert read(path).problems == [f"{file}, line 5 is skipped: {fault}."]


def test_an_animal_that_is_invalid_is_skipped_alone(write):
    folder = write(*ANIMALS, "labeled-data,m1,img1.png,1,2,3,4,900,9,8,9,,")
    catalogue = read(folder)
    (problem,) = catalogue.problems
    assert problem.startswith(f"{folder / 'labeled-data/m1/CollectedData_ann.csv'}, line 5, two is skipped: its box ")
    assert len(catalogue.splits["train"][0].target.labels) == 1


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (("scorer,a,a", "bodyparts,s,s", "x.png,1,2"), "rows scorer, individuals, bodyparts, coords of one length"),
        (("scorer,a,a", "bodyparts,s,s", "coords,x"), "rows scorer, individuals, bodyparts, coords of one length"),
        (("scorer,a,a", "bodyparts,s,s", "coords,y,x"), "its row coords is not x, y of each body part in turn."),
        (("scorer,a,a,a", "bodyparts,s,s,s", "coords,x,y,likelihood"), "with likelihood, these are predictions and"),
        (("scorer,a,a", "bodyparts,s,t", "coords,x,y"), "column 2: two columns, x and y, are expected for each body"),
        (("scorer,a,a,a,a", "bodyparts,s,s,s,s", "coords,x,y,x,y"), "column 4: two columns, x and y, are expected"),
        (("scorer,a,a,a,a", "bodyparts,s,s,S,S", "coords,x,y,x,y"), "two keypoints are called 's'"),
        (("scorer,a,a", "bodyparts,s,s", "coords,x,y"), "has no images."),
        (("scorer,a,a", "bodyparts,s,s", "coords,x,y", "img1.png,,"), "has images but not one object."),
    ],
)
def test_a_list_that_is_damaged(write, lines, sentence):
    with pytest.raises(VertebraError) as error:
        read(write(*lines))
    assert sentence in str(error.value)


def test_a_damaged_list_of_one_video_is_not_passed_over(write):
    write(*HEADER, "m1/img1.png,1,2,3,4,5,6")
    folder = write("m2/img1.png,1,2", file="mice/labeled-data/m2/CollectedData_ann.csv")
    with pytest.raises(VertebraError, match=r"m2/CollectedData_ann\.csv: rows scorer, individuals, bodyparts"):
        read(folder)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("skeleton: snout", "config.yaml: its skeleton is 'snout', a list of pairs of body parts is expected."),
        ("skeleton: [[snout]]", "config.yaml: its skeleton is [['snout']], a list of pairs of body parts is expected."),
        ("[1]", "config.yaml is not DeepLabCut's: a mapping of options is expected."),
        ("a: [", "config.yaml, line 2: not valid YAML"),
    ],
)
def test_a_configuration_that_is_damaged(write, config, sentence):
    with pytest.raises(VertebraError) as error:
        read(write(*HEADER, "m1/img1.png,1,2,3,4,5,6", config=config))
    assert sentence in str(error.value)


def test_a_folder_is_inspected_and_converted(write, tmp_path, capsys):
    config = "skeleton: [[snout, leftear]]\n"
    folder = write(*HEADER, "m1/img1.png,1,2,3,4,,", config=config)
    assert main(["data", str(folder)]) == 0
    assert "deeplabcut" in capsys.readouterr().out
    main(["data", "convert", str(folder), "--to=coco", f"--save={tmp_path / 'coco'}"])
    again = read(tmp_path / "coco", fields={"keypoints"})
    assert again.keypoints == read(folder).keypoints
    assert again.splits["train"][0].target.keypoints.tolist() == [[[1, 2, 2], [3, 4, 2], [0, 0, 0]]]
