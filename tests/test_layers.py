"""The arrows: a folder imports only from those above it."""

import ast
from pathlib import Path

import vertebra

ROOT = Path(vertebra.__file__).parent
ORDER = [
    "errors",
    "structures",
    "files",
    "pictures",
    "ops",
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
    "engine",
    "predict",
    "export",
    "serve",
    "ledger",
    "cli",
    "__main__",
]


def imports(path: Path) -> set[str]:
    """First-level parts of vertebra that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("vertebra.")}
    return found & set(ORDER)


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
        own = {"__init__", "base", "facts", "residual", "isotropic", "foreign", "region", "two_stage"}
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            part = path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
            siblings = {p.stem for p in (ROOT / folder).iterdir() if not p.name.startswith("_")} - own - {part}
            if part not in own:
                assert not [s for s in siblings if f"vertebra.{folder}.{s}" in text], path


def test_heavy_libraries_stay_out_of_the_light_modules():
    import subprocess
    import sys

    code = "import sys, vertebra, vertebra.cli; print([m for m in ('torch', 'lightning', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
