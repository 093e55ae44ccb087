"""Published training recipes: YAML files of options in `recipes/`, found because they are there.

The comment at the top of a file says in lines `# Name: text` where the recipe is from (Source), what it reached there
(Published), what it costs (Cost) and what is otherwise here (Differs).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import vertebra
from vertebra.errors import VertebraError, nearest, shown
from vertebra.files import expanded, read_text, read_yaml

FOLDER = Path(vertebra.__file__).parent / "recipes"
MAX_BYTES = 1 << 20
"""Of a recipe."""


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(recipe: str) -> Path:
    """The file of a recipe: one of `names`, or a path that ends in .yaml or .yml.

    Raises:
        VertebraError: if there is none.
    """
    if recipe in names():
        return FOLDER / f"{recipe}.yaml"
    if recipe.endswith((".yaml", ".yml")):
        return expanded(recipe)
    raise VertebraError(
        f"no recipe is called {shown(recipe)}; there are {', '.join(names())}, and any path that ends in "
        f".yaml.{nearest(recipe, names())}"
    )


def read(recipe: str) -> dict[str, Any]:
    """The options of a recipe, as in a config file; whether they exist is not checked yet.

    Raises:
        VertebraError: if it is missing or damaged, or holds an option that belongs to one run alone.
    """
    path = find(recipe)
    content, _ = read_yaml(path)
    if not isinstance(content, dict):
        raise VertebraError(f"recipe {path} is not a mapping of option names to values.")
    for name in ("recipe", "resume"):
        if content.get(name) is not None:
            raise VertebraError(f"recipe {path} sets {name}, which a recipe cannot: leave it out.")
    return content


def text(recipe: str) -> str:
    """The file of a recipe."""
    return read_text(find(recipe), MAX_BYTES)


def about(recipe: str) -> dict[str, str]:
    """The comment at the top of a recipe: the text of each of its names, such as `Source`."""
    entries: dict[str, str] = {}
    name = ""
    for line in text(recipe).splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("# ").rstrip()
        if match := re.fullmatch(r"([A-Z]\w+): (.+)", words):
            name, words = match.groups()
        entries[name] = f"{entries.get(name, '')} {words}".strip()
    return entries
