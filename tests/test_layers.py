"""The arrows: a folder imports only from those above it."""

import ast
from pathlib import Path

import vertebra

ROOT = Path(vertebra.__file__).parent
ORDER = [
    "errors",
    "synonyms",
    "options",
    "structures",
    "files",
    "progress",
    "text",
    "ops",
    "images",
    "weights",
    "nn",
    "attention",
    "backbones",
    "necks",
    "heads",
    "metrics",
    "tasks",
    "refine",
    "data",
    "viz",
    "kinds",
    "engine",
    "export",
    "predict",
    "serve",
    "ledger",
    "cli",
    "__main__",
]
SHARED = {
    "backbones": {"__init__", "base", "facts", "fitting", "residual", "isotropic"},
    "tasks": {
        *("__init__", "base", "inputs", "methods", "loading", "sources"),
        *("detector", "dense_detector", "points_detector", "detector_sources", "two_stage", "zoo", "trunk"),
        *("segmenter", "segmenter_sources", "decoders"),
        *("top_down", "top_down_sources", "text_task", "text_classifier", "translator", "captioner"),
    },
}
"""Modules that several families, or several tasks, import."""


def imports(path: Path) -> set[str]:
    """First-level parts of vertebra that a file imports, at its top or inside functions."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("vertebra.")}
    return parts & set(ORDER)


def test_every_part_has_its_place():
    parts = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()} - {"__init__"}
    assert parts <= set(ORDER), parts - set(ORDER)


def test_imports_point_upwards():
    wrong = []
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue  # the public face may reach anything, inside functions
        wrong += [
            f"{path.relative_to(ROOT)} imports {other}"
            for other in imports(path)
            if ORDER.index(other) > ORDER.index(part)
        ]
    assert not wrong, wrong


def test_no_family_imports_another_and_no_task_another():
    for folder in ("backbones", "tasks"):
        shared = SHARED[folder]
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            part = path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
            siblings = {p.stem for p in (ROOT / folder).iterdir() if not p.name.startswith("_")} - shared - {part}
            if part not in shared:
                assert not [s for s in siblings if f"vertebra.{folder}.{s}" in text], path


def test_the_shared_modules_exist_and_import_no_method():
    for folder, shared in SHARED.items():
        modules = {p.stem for p in (ROOT / folder).glob("*.py")}
        assert shared <= modules, shared - modules
        owners = {p.stem for p in (ROOT / folder).iterdir()} - shared
        for module in shared - {"__init__"}:
            names = [f"vertebra.{folder}.{owner}" for owner in owners]
            text = (ROOT / folder / f"{module}.py").read_text()
            assert not [name for name in names if name in text], module


def test_a_kind_imports_no_other():
    shared = {"__init__", "base"}
    kinds = {p.stem: p.read_text() for p in (ROOT / "kinds").glob("*.py")}
    owners = {name for name, text in kinds.items() if "\nKIND = " in text}
    assert owners
    for name in owners:
        others = [f"vertebra.kinds.{other}" for other in owners - shared - {name}]
        assert not [other for other in others if other in kinds[name]], name


FIELDS = ("boxes", "masks", "keypoints", "semantic", "label", "tags")


def test_no_command_asks_for_a_field():
    """Engine, prediction, commands and drawing know a prediction by its kind, not by which fields it has."""
    wrong = []
    for part in ("engine", "predict", "serve", "cli", "ledger"):
        for path in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr in FIELDS:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, wrong


def test_heavy_libraries_stay_out_of_the_light_modules():
    import subprocess
    import sys

    code = "import sys, vertebra, vertebra.cli; print([m for m in ('torch', 'lightning', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
