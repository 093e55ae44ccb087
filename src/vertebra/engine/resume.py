"""What a run that is resumed starts from, and what it must keep."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from vertebra import options
from vertebra.engine.settings import Settings, cannot_change, plain, run_config, run_folder
from vertebra.errors import VertebraError
from vertebra.tasks import Plan


def resume_state(settings: Settings, plan: Plan) -> Path | None:
    """The last.ckpt to resume from; its run's config.yaml is written again after the first further epoch.

    Raises:
        VertebraError: if it is missing, or a setting differs that a resumed run cannot change.
    """
    if not settings.resume:
        return None
    folder = run_folder(settings.resume)
    path = folder / "last.ckpt"
    if not path.is_file():
        raise VertebraError(f"{path} is not there, so there is nothing to resume; a run writes it after each epoch.")
    rows = (folder / "metrics.csv").read_text().splitlines() if (folder / "metrics.csv").exists() else []
    done = max((int(row["epoch"]) for row in csv.DictReader(rows)), default=0)
    if settings.epochs < done:
        raise VertebraError(
            f"{folder} has {done} epochs already, and epochs is {settings.epochs}: give --epochs=NUMBER."
        )
    before, now = run_config(folder), plain(settings)
    fixed = {name: (before.get(name), now[name]) for name in ("optimizer", "freeze_backbone", "layer_decay")}
    fixed["ema"] = (bool(before.get("ema")), bool(now["ema"]))
    old, new = (options.flatten(type(plan.config), _without_method(part["model"])) for part in (before, now))
    lasting = options.names(type(plan.config), training=False)
    fixed |= {f"model.{name}": (options.as_tuples(old.get(name)), options.as_tuples(new[name])) for name in lasting}
    for name, (earlier, later) in fixed.items():
        if earlier != later:
            raise VertebraError(cannot_change(name, later, earlier, folder))
    return path


def _without_method(model: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in model.items() if name != "method"}
