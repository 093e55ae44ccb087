"""Every example of README.md, CONTRIBUTING.md and docs/ runs.

A page's blocks run in their order, in one temporary folder that `place` furnishes:

- ```python blocks share a namespace. One with a title is a file: below src/vertebra/ it becomes part of the package
  while the page runs, below tests/ its tests are called, anything else is written and executed.
- ```console blocks: lines that begin with `$ vertebra` run, and every line shown below one has to be in what it
  prints (… stands for anything, runs of spaces count as one).
- ```sh and ```text blocks: lines with a `vertebra` command are only checked against its options.
- ```yaml and ```csv blocks with a title are written to that file.

The Hub is played by a timm model with random weights.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vertebra

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SLOW = ("README.md", "CONTRIBUTING.md", "quickstart.md", "training.md")
FEW = {"train": 48, "val": 24}  # pictures of the shapes, while pages run
FENCE = re.compile(r"^```(?P<info>\w[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, title, text and first line's number."""

    kind: str
    title: str
    text: str
    line: int


class Parsed(Exception):
    """The options of a command are known."""


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks; those inside lists are none, so an indented fence is an error."""
    content = page.read_text(encoding="utf-8")
    assert not re.search(r"^[ \t]+```", content, re.MULTILINE), f"{page} has an indented block, which is not tested"
    found = []
    for match in FENCE.finditer(content):
        kind, _, rest = match["info"].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        line = content[: match.start("body")].count("\n") + 1
        found.append(Block(kind, title[1] if title else "", match["body"], line))
    return found


@pytest.fixture(scope="module")
def furniture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages may use: pictures/, photo.jpg, best.safetensors, and foreign.safetensors with timm's names."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from vertebra.data import shapes
    from vertebra.engine import checkpoint
    from vertebra.structures import Preprocess

    folder = tmp_path_factory.mktemp("furniture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", FEW)
        shapes.scenes.cache_clear()
        shapes.write_folder(folder / "pictures")
        shapes.scenes.cache_clear()
    Image.new("RGB", (90, 60), (200, 30, 30)).save(folder / "photo.jpg")
    torch.manual_seed(0)
    task = vertebra.create(
        "classification", backbone="resnet18", classes=shapes.CLASSES, preprocess=Preprocess((64, 64))
    )
    checkpoint.save(task, folder / "best.safetensors", data={"path": "pictures"}, epoch=1)
    save_file(timm.create_model("resnet18").state_dict(), folder / "foreign.safetensors")
    return folder


@pytest.fixture
def place(tmp_path: Path, furniture: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A furnished working folder; package folders for the page's own families and tasks; a Hub without a network."""
    from vertebra import backbones, tasks
    from vertebra.data import shapes
    from vertebra.weights import fetch

    shutil.copytree(furniture, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shapes, "COUNTS", FEW)
    shapes.scenes.cache_clear()
    monkeypatch.setattr(fetch, "_download", lambda repository: furniture / "foreign.safetensors")
    modules = set(sys.modules)
    for package in (backbones, tasks):
        extra = tmp_path / "src" / package.__name__.replace(".", "/")
        extra.mkdir(parents=True)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(extra)])
    yield tmp_path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(child, None)
    backbones.families.cache_clear()
    shapes.scenes.cache_clear()


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    padding = "\n" * (block.line - 1)  # so that a traceback names the page's own line
    code = compile(padding + block.text, str(page), "exec")
    if not block.title:
        exec(code, namespace)
        return
    Path(block.title).parent.mkdir(parents=True, exist_ok=True)
    Path(block.title).write_text(block.text, encoding="utf-8")
    if block.title.startswith("src/vertebra/"):
        from vertebra import backbones

        importlib.invalidate_caches()
        backbones.families.cache_clear()
        name = block.title.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if block.title.endswith("__init__.py") or name.count(".") == 2:  # a module inside a task comes with its task
            importlib.import_module(name)
        return
    scope: dict[str, Any] = {"__name__": Path(block.title).stem}
    exec(code, scope)
    if block.title.startswith("tests/"):
        tests = [value for name, value in scope.items() if name.startswith("test_")]
        assert tests, f"{page}: {block.title} holds no test"
        for test in tests:
            test()


def run_console(block: Block, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = ""
    for line in block.text.splitlines():
        if line.startswith("$ "):
            words = shlex.split(line[2:], comments=True)
            assert words[0] == "vertebra", f"{page}: {line!r} cannot be run here; use a ```sh block"
            capsys.readouterr()
            try:
                status = vertebra_main(words[1:])
            except SystemExit as stop:  # --help
                status = int(stop.code or 0)
            out = capsys.readouterr()
            assert status == 0 or "vertebra: " in block.text, f"{page}: {line!r} failed: {out.err}"
            printed = squeeze(out.out + out.err)
        elif line.strip():
            pattern = ".*".join(re.escape(part) for part in squeeze(line).split("…"))
            assert re.search(pattern, printed), f"{page}: {line!r} is not in what was printed:\n{printed}"


def squeeze(text: str) -> str:
    """Every run of spaces and table borders as one space, line by line."""
    return "\n".join(" ".join(re.sub(r"[│┃┏┓┗┛┡┩├┤└┘╇┳┻┼┴━─]", " ", line).split()) for line in text.splitlines())


def vertebra_main(words: list[str]) -> int:
    from vertebra.cli import main

    return main(words)


def check_options(block: Block, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses every vertebra command of the block; nothing runs."""
    for line in block.text.replace("\\\n", " ").splitlines():
        match = re.match(r"^(?:torchrun .*?-m vertebra|vertebra) (.+)$", line.strip().removeprefix("$ "))
        if not match:
            continue
        words = shlex.split(match[1], comments=True)
        module = importlib.import_module(f"vertebra.cli.{words[0]}")
        original: Callable[..., Any] = module.parse

        def stop(*arguments: Any, original: Callable[..., Any] = original) -> None:
            original(*arguments)
            raise Parsed

        with monkeypatch.context() as patch:
            patch.setattr(module, "parse", stop)
            try:
                status = vertebra_main(words)
                pytest.fail(f"{page}: {line!r} is not understood (status {status})")
            except Parsed:
                pass


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=str(page.relative_to(ROOT)),
            marks=[pytest.mark.slow] if page.name in SLOW else [],
        )
        for page in PAGES
    ],
)
def test_every_example_runs(
    page: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        assert block.kind in {"python", "console", "sh", "text", "yaml", "csv"}, f"{page}: a block of {block.kind!r}"
        if block.kind == "python":
            run_python(block, page, namespace)
        elif block.kind == "console":
            run_console(block, page, capsys)
        elif block.kind in ("yaml", "csv"):
            if block.title:
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(block.text, encoding="utf-8")
        else:
            check_options(block, page, monkeypatch)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page} links to {target}"


def test_variant_tables_are_the_ledgers() -> None:
    from vertebra.ledger import entries

    for entry in entries():
        page = ROOT / "docs" / "backbones" / f"{entry.family}.md"
        row = f"| `{entry.name}` | {entry.parameters:,} | {entry.macs / 1e9:.3f} |"
        lines = page.read_text(encoding="utf-8").splitlines()
        found = [line.removeprefix(row) for line in lines if line.startswith(row)]
        assert found, f"{page} lacks the row {row}"
        if entry.family not in ("resnet", "efficientnetv2"):  # which tell it checkpoint by checkpoint
            said = found[0].strip(" |")
            assert (None if said == "-" else float(said)) == entry.top1, f"{page}: top-1 of {entry.name}"


def test_every_option_of_training_is_explained() -> None:
    import dataclasses

    from vertebra import tasks
    from vertebra.data.transforms import Augment, InstanceAugment
    from vertebra.engine.settings import Data, Settings

    groups = ((Settings, ""), (Data, "data."), (Augment, "augment."), (InstanceAugment, "augment."))
    explained: list[tuple[list[str], Any, str]] = [(["guides/training"], group, prefix) for group, prefix in groups]
    own = {"classification": ["guides/training"], "detection": ["tasks/detection"]}
    for name in tasks.names():
        explained.append((own.get(name, [f"tasks/{name}", "tasks/detection"]), tasks.find(name).Config, "model."))
    for pages, group, prefix in explained:
        text = "".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in pages)
        for field in dataclasses.fields(group):
            if f"{prefix}{field.name}" not in ("model", "task", "data", "augment"):
                assert f"`--{prefix}{field.name}`" in text, f"{pages[0]}.md does not explain --{prefix}{field.name}"


def test_the_built_in_shapes_are_counted() -> None:
    from vertebra.data.shapes import CLASSES, COUNTS

    text = " ".join((ROOT / "docs" / "guides" / "data.md").read_text(encoding="utf-8").split())
    assert f"{COUNTS['train']} to train, {COUNTS['val']} to validate" in text
    assert f"set of {sum(COUNTS.values())} drawn pictures" in text
    assert ", ".join(CLASSES) in text


def test_pages_name_no_machine() -> None:
    home = re.compile(r"/(work|home|root|tmp)/\w")
    for page in PAGES:
        assert not home.search(page.read_text(encoding="utf-8")), f"{page} names a path of one machine"
