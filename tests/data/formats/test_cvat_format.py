"""CVAT's XML to samples, as its exports for images, for video and of projects have it."""

import math
import re

import pytest

from vertebra.cli import main
from vertebra.data.reading import read
from vertebra.errors import VertebraError

LABELS = "<label><name>dog</name><type>any</type></label><label><name>cat</name><type>any</type></label>"


def xml(*elements, labels=LABELS, meta=""):
    task = f"<task><id>1</id><size>1</size><mode>annotation</mode><labels>{labels}</labels>{meta}</task>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta>{task}<dumped>2024-01-01 00:00:00</dumped></meta>\n{''.join(elements)}\n</annotations>\n"
    )


def image(*shapes, name="a.jpg", more=""):
    return f'<image id="0" name="{name}"{more} width="20" height="10">{"".join(shapes)}</image>'


def box(label="cat", x1=2, y1=3, x2=6.5, y2=7, more=""):
    sides = f'xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"'
    return f'<box label="{label}" source="manual" occluded="0" {sides} z_order="0"{more}></box>'


@pytest.fixture
def cvat(tmp_path, save_image):
    """Writes annotations.xml and images, and returns their folder."""

    def write(*elements, images=("images/a.jpg",), file="annotations.xml", **more):
        for name in images:
            save_image(name)
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(xml(*elements, **more))
        return tmp_path

    return write


def test_boxes_and_polygons(cvat, read_one, mask_of):
    polygon = '<polygon label="dog" occluded="0" points="2.00,3.00;6.00,3.00;6.00,5.00;2.00,5.00" z_order="0"/>'
    catalogue, sample = read_one(cvat(image(box(), polygon)))
    assert (catalogue.format, catalogue.classes, catalogue.has) == ("cvat", ("dog", "cat"), {"boxes", "masks"})
    assert sample.target.boxes.tolist() == [[2, 3, 6.5, 7], [2, 3, 6, 5]]
    assert sample.target.labels.tolist() == [1, 0]  # in the order of the task's labels
    assert sample.target.areas.tolist() == [18, 8]
    assert mask_of(sample, 1)[3:5] == ["..####" + 14 * "."] * 2


def test_rotated_boxes_are_read_as_the_boxes_around_them(cvat, read_one):
    path = cvat(image(box(x1=4, y1=4, x2=10, y2=6, more=' rotation="90.00"')))  # about its centre, 7, 5
    catalogue, sample = read_one(path, "boxes")
    assert sample.target.boxes.flatten().tolist() == pytest.approx([6, 2, 8, 8])
    assert "rotated boxes, read as the boxes around them: 1" in catalogue.notes


def test_ellipses(cvat, read_one):
    ellipse = '<ellipse label="cat" cx="10" cy="5" rx="6" ry="2" rotation="90.00" z_order="0"/>'
    _, sample = read_one(cvat(image(ellipse.replace(' rotation="90.00"', ""))), "masks")
    assert sample.target.boxes.tolist() == [[4, 3, 16, 7]]
    assert sample.target.areas.item() == pytest.approx(math.pi * 12)
    assert int(sample.load_target((10, 20)).masks[0].sum()) == pytest.approx(math.pi * 12, abs=4)


def test_an_ellipse_that_is_turned(cvat, read_one):
    ellipse = '<ellipse label="cat" cx="10" cy="5" rx="4" ry="1" rotation="90.00" z_order="0"/>'
    _, sample = read_one(cvat(image(ellipse)), "masks")
    assert sample.target.boxes.flatten().tolist() == pytest.approx([9, 1, 11, 9])
    assert sample.load_target((10, 20)).masks[0][2:8, 9:11].all()


def test_masks_are_row_by_row(cvat, read_one, mask_of):
    # 2 rows of 3 pixels: #.# and .##
    mask = (
        '<mask label="cat" source="manual" occluded="0" rle="0, 1, 1, 1, 1, 2" left="4" top="2" width="3" height="2"/>'
    )
    _, sample = read_one(cvat(image(mask)), "masks")
    assert mask_of(sample, 0)[2:4] == ["....#.#" + 13 * ".", ".....##" + 13 * "."]
    assert sample.target.boxes.tolist() == [[4, 2, 7, 4]]


SKELETON = """<label><name>person</name><type>skeleton</type><svg>&lt;line/&gt;</svg></label>
<label><name>nose</name><type>points</type><parent>person</parent></label>
<label><name>left_ear</name><type>points</type><parent>person</parent></label>
<label><name>right_ear</name><type>points</type><parent>person</parent></label>"""


def point(label, x, y, outside=0, occluded=0):
    return f'<points label="{label}" source="m" outside="{outside}" occluded="{occluded}" points="{x},{y}"></points>'


def test_skeletons(cvat, read_one):
    parts = point("left_ear", 3, 4, occluded=1) + point("nose", 6, 2) + point("right_ear", 0, 0, outside=1)
    path = cvat(image(f'<skeleton label="person" source="manual" z_order="0">{parts}</skeleton>'), labels=SKELETON)
    catalogue, sample = read_one(path, "keypoints")
    assert (catalogue.classes, catalogue.keypoints.names) == (("person",), ("nose", "left_ear", "right_ear"))
    assert catalogue.keypoints.flip_indices == (0, 2, 1)
    assert sample.target.keypoints.tolist() == [[[6, 2, 2], [3, 4, 1], [0, 0, 0]]]
    assert sample.target.boxes.tolist() == [[3, 2, 6, 4]]


def test_points_are_keypoints_without_names(cvat, read_one):
    points = '<points label="cat" occluded="0" points="2.00,3.00;6.00,5.00" z_order="0"/>'
    catalogue, sample = read_one(cvat(image(points)), "keypoints")
    assert catalogue.keypoints.names == ("0", "1")
    assert sample.target.keypoints.tolist() == [[[2, 3, 2], [6, 5, 2]]]


def test_labels_with_different_keypoints(cvat):
    other = SKELETON + "<label><name>tail</name><type>points</type><parent>cat</parent></label>"
    skeleton = f'<skeleton label="person">{point("nose", 1, 2) + point("left_ear", 5, 6)}</skeleton>'
    path = cvat(image(skeleton), labels=other)
    with pytest.raises(VertebraError, match="the labels 'person', 'cat' have different keypoints"):
        read(path, fields={"keypoints"})
    assert read(path).has == {"boxes"}
    assert "keypoints are ignored, because the labels have different ones" in read(path).notes


def test_tags_are_classes_of_whole_images(cvat):
    images = [image(f'<tag label="{tag}" source="manual"></tag>', name=f"{tag}.jpg") for tag in ("dog", "cat")]
    catalogue = read(cvat(*images, images=("images/dog.jpg", "images/cat.jpg")))
    assert (catalogue.classes, catalogue.has) == (("cat", "dog"), {"label"})
    assert [sample.label for sample in catalogue.splits["train"]] == [1, 0]


def test_subsets_of_a_project_are_splits(cvat):
    images = [
        image(box(), name=f"{i}.jpg", more=f' subset="{s}" task_id="1"') for i, s in enumerate(("Train", "Validation"))
    ]
    path = cvat(*images, images=("images/Train/0.jpg", "images/Validation/1.jpg"))
    splits = read(path).splits
    assert {split: [str(s.image.relative_to(path)) for s in samples] for split, samples in splits.items()} == {
        "train": ["images/Train/0.jpg"],
        "val": ["images/Validation/1.jpg"],
    }


def test_folders_of_splits(cvat):
    for split in ("train", "val"):
        path = cvat(image(box()), file=f"{split}/annotations.xml", images=(f"{split}/images/a.jpg",))
    assert {split: len(samples) for split, samples in read(path).splits.items()} == {"train": 1, "val": 1}


def track(*shapes):
    return f'<track id="0" label="cat" source="manual">{"".join(shapes)}</track>'


def test_frames_of_a_video(cvat):
    def at(frame, x, outside=0):
        more = f'frame="{frame}" keyframe="1" outside="{outside}" occluded="0"'
        return f'<box {more} xtl="{x}" ytl="1" xbr="{x + 3}" ybr="5" z_order="0"></box>'

    size = "<original_size><width>20</width><height>10</height></original_size>"
    path = cvat(
        track(at(0, 1), at(1, 2), at(2, 3, outside=1), at(3, 4)),
        images=("images/frame_000000.PNG", "images/frame_000001.PNG"),
        meta=size,
    )
    catalogue = read(path)
    assert [s.target.boxes.tolist() for s in catalogue.splits["train"]] == [[[1, 1, 4, 5]], [[2, 1, 5, 5]]]
    missing = path / "images" / "frame_000003.PNG"
    assert catalogue.problems == [
        f"{path / 'annotations.xml'}, frame 3 is skipped with its 1 annotations: {missing} is not there."
    ]


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (
            '<polyline label="cat" points="1,2;3,4"/>',
            "it is a polyline; boxes, polygons, ellipses, masks, skeletons and",
        ),
        ('<cuboid label="cat" xtl1="1"/>', "it is a cuboid"),
        (box(x1="x"), "its xtl is 'x', a number is expected"),
        (box(x1="1_0"), "its xtl is '1_0', a number is expected"),
        (box(x1="1e400"), "its xtl is inf, a number up to 1e"),
        ('<box label="cat" xtl="1" ytl="2" xbr="3"/>', "it has no ybr"),
        (box(label=""), "it has no label"),
        ('<polygon label="cat" points="1,2;3"/>', "its points are not x,y;x,y;..."),
        ('<polygon label="cat" points=""/>', "it has no points"),
        (
            '<mask label="cat" rle="1, 2" left="1" top="2" width="3" height="2"/>',
            "its run lengths do not add up to its 3 x",
        ),
        (
            '<mask label="cat" rle="a" left="1" top="2" width="3" height="2"/>',
            "its rle is 'a', run lengths are expected",
        ),
        ('<mask label="cat" rle="6" left="1" top="2" width="3" height="2"/>', "its mask has no pixel in the image"),
        ('<mask label="cat" rle="1" left="1" top="2" width="999999" height="999999"/>', "its mask is 999999 x 999999"),
        ('<skeleton label="cat"></skeleton>', "it has no points"),
        (f'<skeleton label="cat">{2 * point("a", 1, 2)}</skeleton>', "it is another keypoint 'a' of its object"),
        (
            '<skeleton label="cat"><points label="a" points="1,2;3,4"/></skeleton>',
            "its keypoint 'a' has 2 points, one is",
        ),
        (box(x1=30, x2=40), "its box from 30, 3 to 40, 7 is outside the image"),
    ],
)
def test_shapes_that_are_invalid_are_skipped(cvat, wrong, fault):
    path = cvat(image(box(), wrong))
    catalogue = read(path)
    (problem,) = catalogue.problems
    assert re.match(rf"{path}/annotations\.xml, image 'a\.jpg', \w+ 2 is skipped: {re.escape(fault)}", problem)
    assert [len(sample.target.labels) for sample in catalogue.splits["train"]] == [1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (xml(image(box()))[:-30], r"annotations\.xml, line \d+: not valid XML \(.*\); the file may be cut short"),
        (xml(), "has no images"),
        (xml(image()), "has images but not one object"),
        (xml(image(box(), name="b.jpg")), r"image 'b\.jpg' is skipped with its 1 annotations: .*b\.jpg is not there"),
    ],
)
def test_files_that_are_invalid_are_explained(cvat, text, sentence):
    path = cvat()
    (path / "annotations.xml").write_text(text)
    with pytest.raises(VertebraError, match=sentence):
        read(path)


def test_two_files_of_one_split(cvat):
    cvat(image(box()))
    path = cvat(image(box()), file="more.xml")
    with pytest.raises(VertebraError, match=r"2 annotation files of the train split \(annotations\.xml, more\.xml\)"):
        read(path)
    assert read(path / "more.xml").counts("train", lambda target: target.labels) == [0, 1]


def test_the_export_is_inspected_and_converted(cvat, tmp_path, capsys):
    cvat(image(box()), file="x/annotations.xml", images=("x/images/a.jpg",))
    main(["data", str(tmp_path / "x")])
    assert "cvat" in capsys.readouterr().out
    main(["data", "convert", str(tmp_path / "x"), "--to=coco", f"--save={tmp_path / 'coco'}"])
    (sample,) = read(tmp_path / "coco").splits["train"]
    assert sample.target.boxes.tolist() == [[2, 3, 6.5, 7]]
