"""`vertebra train TASK`: trains a model and leaves a run folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from vertebra import kinds, tasks
from vertebra.cli.parsing import ArgumentParser, Config, explicit_options, option, parser, read_config
from vertebra.engine import recipes
from vertebra.engine.head_settings import LEFT_OUT, MultiSettings, Trunk, resolve_heads
from vertebra.engine.head_settings import RECIPE as HEADS_RECIPE
from vertebra.engine.settings import (
    GROUPS,
    Data,
    Distill,
    Settings,
    check_resumed_method,
    plain,
    resolve,
    run_config,
    run_folder,
    superseded,
    unused,
)
from vertebra.errors import VertebraError, one_of
from vertebra.tasks import multi

PRINT = "--print_config"


def run(argv: Sequence[str]) -> None:
    words = [word for word in argv if word != PRINT]
    task = words.pop(0) if words and not words[0].startswith("-") and "=" not in words[0] else ""
    resume = option(words, "resume")
    file = option(words, "config") or _config_of_resumed(resume)
    config = read_config(file) if file else None
    content = config.content if config else {}
    recipe = option(words, "recipe") or str(content.get("recipe") or "")
    start = read_config(str(recipes.find(recipe))) if recipe else None
    base = start.content if start else {}
    if multi.NAME in (task, option(words, "task"), content.get("task")) or "heads" in content:
        _run_heads(task, words, config, printing=PRINT in argv)
        return
    task = _task(task or option(words, "task"), str(content.get("task") or base.get("task") or ""), file or recipe)
    method = _method(task, words, content, base)
    if resume:
        check_resumed_method(resume, task, method)
    arguments = _arguments(task, method)
    tasks.check_options(task, method, _model_options(words, content), "model.", unknown_ok=True)
    given = explicit_options(arguments, words, config)  # among them model.method, if the user chose it
    if start:
        explicit_options(arguments, [], start)  # its mistakes are named by their lines
    for name in superseded(explicit_options(arguments, [], config), explicit_options(arguments, words)):
        del given[name]
    settings = resolve(task, None, {name: value for name, value in given.items() if name != "config"})
    if PRINT in argv:
        print(yaml.safe_dump(plain(settings), sort_keys=False), end="")
    else:
        from vertebra.engine.train import train

        train(settings)


def _run_heads(task: str, words: Sequence[str], config: Config | None, *, printing: bool) -> None:
    """Trains several heads over one backbone."""
    if task not in ("", multi.NAME):
        raise VertebraError(f"config {config and config.path} has heads, so it is for task 'multi', not {task!r}.")
    arguments = _head_arguments()
    given = explicit_options(arguments, words, config)
    for name in superseded(explicit_options(arguments, [], config), explicit_options(arguments, words)):
        del given[name]
    try:
        settings = resolve_heads({name: value for name, value in given.items() if name != "config"})
    except VertebraError as error:
        named = re.match(r"(?:heads\.|head ')([\w-]+)", str(error))
        if config is None or named is None:
            raise
        raise VertebraError(f"{config.where(f'heads.{named[1]}')}: {error}") from error
    if printing:
        print(yaml.safe_dump(plain(settings), sort_keys=False), end="")
    else:
        from vertebra.engine.multi import train

        train(settings)


def _head_arguments() -> ArgumentParser:
    """The parser of training several heads."""
    arguments = parser(
        f"train {multi.NAME}",
        "Trains several tasks over one backbone. The heads stand in the --config file, under `heads`: a name, and for "
        f"it the task and its own options. An option of a head can also be given as --heads.NAME.OPTION=VALUE; {PRINT} "
        "prints the config and exits.",
    )
    arguments.add_option("config", "YAML file of options, the heads among them.")
    arguments.add_option("task", "For config files; on the command line it comes first.")
    arguments.add_class_arguments(MultiSettings, skip=("task", "method", *GROUPS, *LEFT_OUT))
    arguments.add_class_arguments(Trunk, "model")
    arguments.add_class_arguments(Data, "data")
    arguments.set_defaults(HEADS_RECIPE)
    return arguments


def _config_of_resumed(resume: str) -> str:
    """The config of the run to resume, whose settings it starts from; empty without one."""
    if not resume:
        return ""
    run_config(resume)  # raises if there is none
    return str(run_folder(resume) / "config.yaml")


def _task(typed: str, configured: str, file: str) -> str:
    if typed and configured and typed != configured:
        raise VertebraError(f"config {file} is for task {configured!r}, not {typed!r}.")
    task = typed or configured or "classification"
    tasks.find(task)  # raises if there is none
    return task


def _method(task: str, words: Sequence[str], *configs: Mapping[str, Any]) -> str:
    """The method of the command line, else of the first config that has one, else the default."""
    models = (content.get("model") for content in configs)
    configured = filter(None, (model.get("method") for model in models if isinstance(model, Mapping)))
    method = option(words, "model.method") or str(next(configured, tasks.default_method(task)))
    one_of("model.method", method, tasks.methods(task))
    return method


def _arguments(task: str, method: str) -> ArgumentParser:
    """The parser of one method's training: its options alone, with the defaults of its recipe."""
    module = tasks.find(task, method)
    kind = kinds.find(module.MODEL.kind)
    arguments = parser(
        f"train {task}",
        f"Trains a model for {task}, by the method {method}; the options are those of this method. "
        f"Tasks: {', '.join(tasks.names())}. Methods of {task}, for --model.method: {', '.join(tasks.methods(task))}. "
        f"Every option can also stand in a --config file; {PRINT} prints one and exits.",
    )
    arguments.add_option("config", "YAML file of options, such as a run's config.yaml.")
    arguments.add_option("task", "For config files; on the command line it comes first.")
    arguments.add_option(
        "model.method", "Method; --help lists the options of the one given.", choices=tasks.methods(task)
    )
    left_out = unused(task, method)
    arguments.add_class_arguments(Settings, skip=("task", "method", *GROUPS, *left_out))
    arguments.add_class_arguments(module.Config, "model")
    of_images = [name.removeprefix("data.") for name in left_out]
    choices = {"data.resize": ("auto", *kind.resize_modes)}
    arguments.add_class_arguments(Data, "data", skip=of_images, choices=choices)
    if kind.data is not None:
        arguments.add_class_arguments(kind.data, "data")
    arguments.add_class_arguments(kind.augment, "augment")
    arguments.add_class_arguments(Distill, "distill")
    usual = resolve(task, method, {})
    arguments.set_defaults({**plain(usual), "lr": usual.base_lr, "weight_decay": usual.decay, "task": None})
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
