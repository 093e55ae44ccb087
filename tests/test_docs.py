"""Every example of README.md, CONTRIBUTING.md and docs/ runs.

The blocks of a page run in their order, in a temporary folder that `place` fills:

- ```python blocks share a namespace. One with a title is a file: below src/vertebra/ it becomes part of the package
  while the page runs, below tests/ its tests are called, any other is written and executed.
- ```console blocks: lines that begin with `$ vertebra` run, and every line shown below one must occur in its output
  (… stands for anything, runs of spaces count as one). Numbers of the built-in images are those of the smaller set
  that the tests draw, see COUNTS.
- ```sh and ```text blocks: lines with a `vertebra` command are only checked against its options.
- ```yaml and ```csv blocks with a title are written to that file.

In place of the Hugging Face Hub, a timm model with random weights is read.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import vertebra

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SLOW = (
    *("README.md", "quickstart.md", "training.md", "predicting.md", "python.md", "weights.md"),
    *("backbone.md", "method.md", "task.md"),
)
COUNTS = {"train": 12, "val": 6}
"""Built-in images of each split while pages run."""
FENCE = re.compile(r"^```(?P<info>\w[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, title, text and first line's number."""

    language: str
    title: str
    text: str
    line: int


class Parsed(Exception):
    """Raised once the options of a command are parsed."""


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks; indented ones are not allowed, because they would not be tested."""
    content = page.read_text(encoding="utf-8")
    assert not re.search(r"^[ \t]+```", content, re.MULTILINE), f"{page} has an indented block, which is not tested"
    fenced = []
    for match in FENCE.finditer(content):
        language, _, rest = match["info"].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        line = content[: match.start("body")].count("\n") + 1
        fenced.append(Block(language, title[1] if title else "", match["body"], line))
    return fenced


@pytest.fixture(scope="session")
def furniture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages may use: images/, photo.jpg, best.safetensors, and foreign.safetensors with timm's names."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from vertebra.data.formats import shapes
    from vertebra.engine import checkpoint
    from vertebra.structures import Preprocess

    folder = tmp_path_factory.mktemp("furniture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS", COUNTS)
        shapes.write_folder(folder / "images")
    Image.new("RGB", (90, 60), (200, 30, 30)).save(folder / "photo.jpg")
    torch.manual_seed(0)
    task = vertebra.create(
        "classification", backbone="resnet18", classes=shapes.CLASSES, preprocess=Preprocess((64, 64))
    )
    checkpoint.save(task, folder / "best.safetensors", data={"path": "images"}, epoch=1)
    save_file(timm.create_model("resnet18").state_dict(), folder / "foreign.safetensors")
    return folder


def clear_caches() -> None:
    """Forgets which families, methods and formats there are."""
    from vertebra import backbones
    from vertebra.data import formats

    importlib.invalidate_caches()
    for function in (backbones._libraries, backbones.families):
        function.cache_clear()
    formats.formats.cache_clear()
    methods = importlib.import_module("vertebra.tasks.methods")  # `tasks.methods` is a function
    for function in (methods._tasks, methods._methods):
        function.cache_clear()


def open_packages() -> list[ModuleType]:
    """Packages in which a page may put files: those where a file is found because it is there."""
    from vertebra import backbones, kinds, tasks
    from vertebra.data import formats

    of_tasks = [importlib.import_module(f"vertebra.tasks.{name}") for name in tasks.names()]
    return [backbones, formats, kinds, tasks, *of_tasks]


@pytest.fixture
def place(tmp_path: Path, furniture: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the furniture, package folders for the page's own files, and a Hub without a network."""
    from vertebra.data import loader
    from vertebra.data.formats import shapes
    from vertebra.data.workers import WorkerLoader
    from vertebra.engine import finders
    from vertebra.weights import locate

    def in_this_process(*arguments: Any, **options: Any) -> WorkerLoader:
        """A loader without workers, which take longer to start than the few images to read."""
        return WorkerLoader(
            *arguments, **options | {"num_workers": 0, "persistent_workers": False, "prefetch_factor": None}
        )

    shutil.copytree(furniture, tmp_path, dirs_exist_ok=True, copy_function=os.link)  # nothing writes into these files
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")  # pages show the tables of a narrow terminal
    monkeypatch.setattr(shapes, "COUNTS", COUNTS)
    monkeypatch.setattr(loader, "WorkerLoader", in_this_process)
    monkeypatch.setattr(finders, "RATE_STEPS", 8)
    monkeypatch.setattr(locate, "_from_hub", lambda repository, files: furniture / "foreign.safetensors")
    modules = set(sys.modules)
    for package in open_packages():
        extra = tmp_path / "src" / package.__name__.replace(".", "/")
        extra.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(extra)])
    yield tmp_path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(child, None)
    clear_caches()


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    padding = "\n" * (block.line - 1)  # so that a traceback names the page's own line
    code = compile(padding + block.text, str(page), "exec")
    if not block.title:
        exec(code, namespace)
        return
    Path(block.title).parent.mkdir(parents=True, exist_ok=True)
    Path(block.title).write_text(block.text, encoding="utf-8")
    if block.title.startswith("src/vertebra/"):
        clear_caches()
        name = block.title.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
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
            pattern = ".*".join(re.escape(part) for part in squeeze(with_tested_counts(line)).split("…"))
            assert re.search(pattern, printed), f"{page}: {line!r} is not in the output:\n{printed}"


def with_tested_counts(line: str) -> str:
    """A line of a page with the numbers of images that the tests draw in place of those that users have."""
    from vertebra.data.formats import shapes

    real = {"train": 960, "val": 240}
    numbers = {str(real[split]): str(count) for split, count in shapes.COUNTS.items()}
    numbers[str(sum(real.values()))] = str(sum(shapes.COUNTS.values()))
    return re.sub(r"\d+", lambda match: numbers.get(match[0], match[0]), line)


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
        parse = "explicit_options" if words[0] == "train" else "parse"
        original: Callable[..., Any] = getattr(module, parse)

        def stop(*arguments: Any, original: Callable[..., Any] = original) -> None:
            original(*arguments)
            raise Parsed

        with monkeypatch.context() as patch:
            patch.setattr(module, parse, stop)
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
        assert block.language in {"python", "console", "sh", "text", "yaml", "csv"}, (
            f"{page}: a block of {block.language!r}"
        )
        if block.language == "python":
            run_python(block, page, namespace)
        elif block.language == "console":
            run_console(block, page, capsys)
        elif block.language in ("yaml", "csv"):
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
        rests = [line.removeprefix(row) for line in lines if line.startswith(row)]
        assert rests, f"{page} lacks the row {row}"
        if entry.family not in ("resnet", "efficientnetv2"):  # which list the accuracy by checkpoint
            cell = rests[0].strip(" |")
            assert (None if cell == "-" else float(cell)) == entry.top1, f"{page}: top-1 of {entry.name}"


def test_fields_of_backbones_exist() -> None:
    from vertebra import backbones

    for family, module in backbones.families().items():
        text = (ROOT / "docs" / "backbones" / f"{family}.md").read_text(encoding="utf-8")
        table = text.partition("\n| field | meaning |\n")[2].partition("\n\n")[0]
        listed = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
        fields = {field.name for field in dataclasses.fields(module.Config)}
        assert listed, family
        assert listed <= fields, f"{family}.md describes {sorted(listed - fields)}"


def test_every_option_of_training_is_explained() -> None:
    from vertebra import kinds, options, tasks
    from vertebra.engine.settings import GROUPS, Data, Settings

    general = "guides/training"
    expected: dict[str, set[str]] = {general: set()}
    settings = [field.name for field in dataclasses.fields(Settings) if field.name not in ("task", "method", *GROUPS)]
    augments = [kinds.find(kind).augment for kind in kinds.names()]
    expected[general] |= {*settings, *(f"data.{field.name}" for field in dataclasses.fields(Data))}
    expected[general] |= {f"augment.{field.name}" for augment in augments for field in dataclasses.fields(augment)}
    pages = {"classification": [general], "detection": ["tasks/detection"]}
    for task in tasks.names():
        for method in tasks.methods(task):
            names = {f"model.{name}" for name in options.names(tasks.find(task, method).Config)}
            data = kinds.find(tasks.find(task, method).MODEL.kind).data
            names |= {f"data.{field.name}" for field in dataclasses.fields(data)} if data else set()
            for page in pages.get(task, [f"tasks/{task}", "tasks/detection"]):
                explained = set(re.findall(r"`--([\w.]+)`", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")))
                names -= explained
            assert not names, f"{task} {method}: not explained: {sorted(names)}"
    for page, names in expected.items():
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        assert not (names - set(re.findall(r"`--([\w.]+)`", text))), f"{page}.md does not explain all options"


def test_every_method_is_described() -> None:
    from vertebra import tasks

    text = (ROOT / "docs" / "tasks" / "index.md").read_text(encoding="utf-8")
    for task in tasks.names():
        for method in tasks.methods(task):
            assert f"`{method}`" in text, f"docs/tasks/index.md does not describe {method}"


def test_the_built_in_shapes_are_counted() -> None:
    from vertebra.data.formats.shapes import CLASSES, COUNTS

    text = " ".join((ROOT / "docs" / "guides" / "data.md").read_text(encoding="utf-8").split())
    assert f"{COUNTS['train']} to train and {COUNTS['val']} to validate" in text
    assert f"set of {sum(COUNTS.values())} drawn images" in text
    assert ", ".join(CLASSES) in text


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert f" {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, f"mkdocs.yml lacks {page}"


def test_pages_use_the_terms_of_the_field() -> None:
    banned = re.compile(r"\b(pictures?|films?|what is true|truths?|lrf)\b", re.IGNORECASE)
    for page in PAGES:
        text = re.sub(r"ground[ -]truth", "", page.read_text(encoding="utf-8"), flags=re.IGNORECASE)
        assert not (match := banned.search(text)), f"{page} says {match and match[0]!r}; see docs/glossary.md"


def test_pages_name_no_machine() -> None:
    home = re.compile(r"/(work|home|root|tmp)/\w")
    for page in PAGES:
        assert not home.search(page.read_text(encoding="utf-8")), f"{page} names a path of one machine"
