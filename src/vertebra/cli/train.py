"""`vertebra train TASK`: trains a model and leaves a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from vertebra import kinds, tasks
from vertebra.cli.parsing import check_config, explicit_options, option, parser
from vertebra.engine.settings import (
    GROUPS,
    Data,
    Settings,
    check_resumed_method,
    resolve,
    run_config,
    run_folder,
)
from vertebra.engine.train import train
from vertebra.errors import VertebraError, one_of


def run(argv: Sequence[str]) -> None:
    words = list(argv)
    task = words.pop(0) if words and not words[0].startswith("-") else ""
    config = option(words, "config")
    resume = option(words, "resume")
    if not config and (config := _config_of_resumed(resume)):
        words.insert(0, f"--config={config}")
    content = check_config(config) if config else {}
    task = _task(task or option(words, "task"), str(content.get("task", "")), config)
    tasks.find(task)  # raises if there is none
    method = _method(task, words, content)
    if resume:
        check_resumed_method(resume, task, method)
    arguments = _arguments(task, method)
    tasks.check_options(task, method, _model_options(words, content), "model.", unknown_ok=True)
    if config:
        check_config(config, arguments)
    train(resolve(task, None, explicit_options(arguments, words)))  # among them model.method, if the user chose it


def _config_of_resumed(resume: str) -> str:
    """The config of the run to resume, whose settings it starts from; empty without one."""
    if not resume:
        return ""
    run_config(resume)  # raises if there is none
    return str(run_folder(resume) / "config.yaml")


def _task(typed: str, configured: str, config: str) -> str:
    if typed and configured and typed != configured:
        raise VertebraError(f"config {config} is for task {configured!r}, not {typed!r}.")
    return typed or configured or "classification"


def _method(task: str, words: Sequence[str], content: Mapping[str, Any]) -> str:
    model = content.get("model")
    configured = model.get("method") if isinstance(model, Mapping) else None
    method = option(words, "model.method") or str(configured or tasks.default_method(task))
    one_of("--model.method", method, tasks.methods(task))
    return method


def _arguments(task: str, method: str) -> ArgumentParser:
    """The parser of one method's training: its options alone, with the defaults of its recipe."""
    module = tasks.find(task, method)
    arguments = parser(f"train {task}", f"Trains a {task} model. Every option can also stand in a --config file.")
    arguments.add_argument("--config", action="config", help="YAML file of options, such as a run's config.yaml.")
    arguments.add_class_arguments(Settings, skip={"task", "method", *GROUPS})
    arguments.add_argument(
        "--model.method",
        choices=tasks.methods(task),
        default=method,
        help=f"Method; --help lists the options of the one given, here {method}.",
    )
    arguments.add_class_arguments(module.Config, "model")
    arguments.add_class_arguments(Data, "data")
    arguments.add_class_arguments(kinds.find(module.MODEL.kind).augment, "augment")
    arguments.add_argument("--task", default=task, help="For config files; on the command line it comes first.")
    arguments.set_defaults(module.RECIPE)
    return arguments


def _model_options(words: Sequence[str], content: Mapping[str, Any]) -> list[str]:
    """The names of the model's options on the command line and in the config file."""
    flags = [word.partition("=")[0] for word in words]
    named = [flag.removeprefix("--model.") for flag in flags if flag.startswith("--model.")]
    model = content.get("model")
    named += _dotted(model) if isinstance(model, Mapping) else []
    return [name for name in named if name != "method"]


def _dotted(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in options.items():
        names += _dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [f"{prefix}{name}"]
    return names
