"""Big batch jobs: shards of images, tables of predictions, jobs that go on where they were ended."""

import io
import json
import pickle
import tarfile

import pytest
import torch
from PIL import Image

from vertebra import tasks
from vertebra.cli import main
from vertebra.engine import checkpoint
from vertebra.errors import VertebraError
from vertebra.predict import jobs, shards
from vertebra.predict.tables import TablePredictor
from vertebra.structures import Preprocess

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (20, 30), (value, 0, 255 - value)).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    torch.manual_seed(0)
    preprocess = Preprocess(size=(32, 32))
    options = {"depths": (1, 1, 1, 1)}
    task = tasks.create(
        "classification", classes=("a", "b"), preprocess=preprocess, backbone="resnet18", backbone_options=options
    )
    checkpoint.save(task, path)
    return str(path)


@pytest.fixture
def source(tmp_path):
    """Two image files, of which one is broken, a tar archive and two Parquet tables; ten images."""
    folder = tmp_path / "source"
    (folder / "more").mkdir(parents=True)
    (folder / "0.png").write_bytes(png(0))
    (folder / "more" / "1.png").write_bytes(b"no image")
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for name, content in (("2.png", png(2)), ("2.json", b"{}"), ("3.png", png(3)), ("4.png", png(4))):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    parquet.write_table(pa.table({"id": [5, 6, 7], "image": [png(5), None, png(7)]}), folder / "a.parquet")
    structs = [{"bytes": png(8), "path": "8.png"}, {"bytes": png(9), "path": "9.png"}]
    parquet.write_table(pa.table({"image": structs}), folder / "b.parquet")
    return folder


def local(parts, predictor, workers):
    """As `jobs._results` without Ray, of a worker that was killed after it had answered, so that it does so again."""
    for part in parts:
        for table in shards.read(pa.Table.from_pylist(shards.columns([part]))):
            yield predictor(table)
            yield predictor(table)


def written(output):
    return {
        table: [row for part in sorted((output / table).glob("*")) for row in parquet.read_table(part).to_pylist()]
        for table in jobs.TABLES
    }


def test_a_killed_job_goes_on_and_answers_every_image_once(model, source, tmp_path, monkeypatch, capsys):
    output = tmp_path / "source" / "results"  # is not taken for a source
    monkeypatch.setattr(jobs, "PART_ROWS", 2)
    monkeypatch.setattr(jobs, "PACKAGES", ("pyarrow", "fsspec"))  # what Ray does is done here

    def killed(parts, predictor, workers):
        for number, table in enumerate(local(parts, predictor, workers)):
            if number == 4:
                raise KeyboardInterrupt
            yield table

    arguments = ["predict", model, str(source), "--runner=ray", f"--output={output}", "--workers=2"]
    monkeypatch.setattr(jobs, "_results", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        raise SystemExit(main(arguments))
    before = written(output)
    assert 0 < len(before["predictions"]) < 8
    asked = []

    def resumed(parts, predictor, workers):
        for table in local(parts, predictor, workers):
            asked.extend(table.column("path").to_pylist())
            yield table

    monkeypatch.setattr(jobs, "_results", resumed)
    assert main(arguments) == 0
    assert "images were done before" in capsys.readouterr().out
    tables = written(output)
    keys = {table: sorted(row["path"] for row in rows) for table, rows in tables.items()}
    assert keys["errors"] == [f"{source}/a.parquet#1", f"{source}/more/1.png"]
    members = [f"shard.tar#{i}.png" for i in (2, 3, 4)]
    names = ["0.png", "a.parquet#0", "a.parquet#2", "b.parquet#0", "b.parquet#1", *members]
    assert keys["predictions"] == [f"{source}/{name}" for name in names]
    assert not set(asked) & {row["path"] for rows in before.values() for row in rows}
    first = min(tables["predictions"], key=lambda row: row["path"])
    assert json.loads(first["prediction"])["classes"][0]["class"] in ("a", "b")

    assert main([*arguments, "--top=1"]) == 2
    assert "holds the predictions of another model or other options" in capsys.readouterr().err


def test_the_predictor_of_tables_is_sent_to_other_processes(model):
    pandas = pytest.importorskip("pandas")
    predictor = TablePredictor(model, stream={"batch_size": 2}, top=1)
    assert len(predictor.rows(["one"], [png(1)])) == 1
    assert len(pickle.dumps(predictor)) < 1000
    frames = [
        pandas.DataFrame({"path": ["x", "y"], "content": [png(1), b"?"]}),
        pandas.DataFrame({"path": ["z"], "content": [png(2)]}),
    ]
    rows = [row for frame in pickle.loads(pickle.dumps(predictor)).frames(frames) for row in frame.to_dict("records")]
    assert [(row["path"], bool(row["prediction"]), bool(row["error"])) for row in rows] == [
        ("x", True, False),
        ("y", False, True),
        ("z", True, False),
    ]
    assert rows[1]["error"].startswith("y")


def test_label_maps_are_in_the_rows(make_detector, tmp_path, monkeypatch):
    make_detector("boxes", size=32)
    predictor = TablePredictor(str(tmp_path / "detector"))
    monkeypatch.setattr(type(predictor.predictor.kind), "map_images", lambda *_: {"labels": Image.new("L", (4, 5))})
    table = predictor(pa.table({"path": ["x"], "bytes": [png(80)]}))
    ((entry,),) = table.column("maps").to_pylist()
    assert entry["name"] == "labels"
    assert Image.open(io.BytesIO(entry["png"])).size == (4, 5)


def test_damaged_shards_are_listed(source):
    content = (source / "shard.tar").read_bytes()
    (source / "shard.tar").write_bytes(content[:1800])
    (source / "a.parquet").write_bytes(b"PAR1 and nothing else")
    rows = [row for shard in shards.find(str(source)) for row in shards.images(shard)]
    failed = {row["path"]: row["error"] for row in rows if row["error"]}
    assert set(failed) == {f"{source}/shard.tar", f"{source}/a.parquet"}
    assert all(path in error for path, error in failed.items())


def test_names_with_signs_of_patterns_and_numbers(tmp_path):
    folder = tmp_path / "a [1]"
    folder.mkdir()
    (folder / "x.png").write_bytes(png(10))
    with tarfile.open(folder / "b#1.tar", "w") as archive:
        for name in ("c#1.png", "d.png"):
            info = tarfile.TarInfo(name)
            info.size = len(content := png(20))
            archive.addfile(info, io.BytesIO(content))
    found = shards.find(str(folder), done=[f"{folder}/b#1.tar#c#1.png"])
    rows = [row for shard in found for row in shards.images(shard)]
    assert [row["path"] for row in rows] == [f"{folder}/x.png", f"{folder}/b#1.tar#d.png"]


def test_refused_jobs(model, source, tmp_path, monkeypatch, capsys):
    parquet.write_table(pa.table({"id": [1]}), source / "c.parquet")
    with pytest.raises(VertebraError, match="one column with the bytes of images; it has none in id"):
        list(shards.images(shards.Shard([f"{source}/c.parquet"], [])))
    (tmp_path / "empty").mkdir()
    with pytest.raises(VertebraError, match="holds no images"):
        shards.find(str(tmp_path / "empty"))
    with pytest.raises(VertebraError, match="does not exist"):
        shards.find(str(tmp_path / "nowhere"))
    with pytest.raises(VertebraError, match="cannot be read"):
        shards.find("nosuchscheme://x")
    for options, message in (
        (["--runner=ray"], "--runner needs --output"),
        (["--runner=ray", "--output=x", "--save=y"], "--save has no effect on big jobs"),
        (["--output=x"], "--output is for big jobs"),
        (["--runner=ray", "--output=x", "--workers=0"], "--workers is 0"),
    ):
        assert main(["predict", model, str(source), *options]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(jobs, "PACKAGES", ("no_such_package",))
    with pytest.raises(VertebraError, match=r"vertebra\[ray\]"):
        jobs.run(model, [str(source)], str(tmp_path / "output"))


def test_members_of_one_name_have_a_row_each(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for size in (1, 2, 3):
            info = tarfile.TarInfo("x.png")
            info.size = size
            archive.addfile(info, io.BytesIO(b"." * size))
    names = [f"{tmp_path}/a.tar#x.png{number}" for number in ("", "#2", "#3")]
    for done in ([], names[:1], names[1:2]):
        found = shards.find(str(tmp_path / "a.tar"), done=done)
        rows = [row for shard in found for row in shards.images(shard)]
        assert [row["path"] for row in rows] == [name for name in names if name not in done]
