"""`vertebra train TASK`: trains a model and leaves a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vertebra import tasks
from vertebra.cli.parsing import check_config, option, parse, parser
from vertebra.data.transforms import Augment, InstanceAugment
from vertebra.engine.settings import Data, Settings
from vertebra.engine.train import train
from vertebra.errors import VertebraError


def run(argv: Sequence[str]) -> None:
    words = list(argv)
    task = words.pop(0) if words and not words[0].startswith("-") else ""
    task = task or option(words, "task")
    config = option(words, "config")
    if resume := option(words, "resume"):  # a resumed run starts from its own config
        folder = Path(resume).parent if resume.endswith(".ckpt") else Path(resume)
        if not (folder / "config.yaml").is_file():
            raise VertebraError(f"{folder} is not a run folder: it holds no config.yaml.")
        if not config:
            config = str(folder / "config.yaml")
            words.insert(0, f"--config={config}")
    written = str(check_config(config).get("task", "")) if config else ""
    if task and written and task != written:
        raise VertebraError(f"config {config} is for task {written!r}, not {task!r}.")
    task = task or written or "classification"
    module = tasks.find(task)
    augment = Augment if module.TASK.truth == "label" else InstanceAugment

    arguments = parser(f"train {task}", f"Trains a {task} model. Every option can also stand in a --config file.")
    arguments.add_argument("--config", action="config", help="YAML file of options, such as a run's config.yaml.")
    arguments.add_class_arguments(Settings, skip={"model", "task", "data", "augment"})
    arguments.add_class_arguments(module.Config, "model")
    arguments.add_class_arguments(Data, "data")
    arguments.add_class_arguments(augment, "augment")
    arguments.add_argument("--task", default=task, help="Stands in config files; on the command line it comes first.")
    arguments.set_defaults(module.RECIPE)
    if config:
        check_config(config, arguments)
    values = parse(arguments, words).as_dict()
    values |= {
        "model": module.Config(**values["model"]),
        "data": Data(**values["data"]),
        "augment": augment(**values["augment"]),
    }
    chosen = option(words, "lr") or (config and "lr" in check_config(config))
    if not chosen and values["optimizer"] != module.RECIPE.get("optimizer", values["optimizer"]):
        values["lr"] = None  # the task's usual rate is for its usual optimizer
    train(Settings(**{field.name: values[field.name] for field in dataclasses.fields(Settings)}))
