"""Values at the edges of every option of every method: accepted, or refused in one sentence; nothing else."""

import pytest
import yaml

from vertebra import tasks
from vertebra.cli.parsing import explicit_options, read_config
from vertebra.cli.train import _arguments
from vertebra.engine.settings import resolve
from vertebra.errors import VertebraError
from vertebra.options import build, plain

EDGES = (".nan", ".inf", "-1", "1e300", "-1e300", str(10**12), str(2**70), "[]", "[.nan, 1]", "[.inf, 1e300]")
OTHERS = ("maybe", "\0", "{a: 1}", "[1", "&a [*a]", "!!python/name:os.system", "[" * 200, "2026-13-45", "1" * 400)
NAMES = ("config", "task", "resume", "model.method", "data.coarse")
"""Options whose values are looked up."""


def read(arguments, task, method, name, value):
    """The sentence that refuses a value, empty if it is accepted."""
    try:
        resolve(task, None, explicit_options(arguments, [f"--{name}={value}", f"--model.method={method}"]))
    except VertebraError as error:
        return str(error)
    return ""


def test_edges_of_every_option():
    tried = set()
    for task in tasks.names():
        for method in tasks.methods(task):
            arguments = _arguments(task, method)
            for name, option in arguments.options.items():
                if name in NAMES or (name, option.kind) in tried:
                    continue
                tried.add((name, option.kind))
                numeric = {int, float, tuple} & set(option.kinds) and str not in option.kinds
                for value in (*EDGES, *OTHERS) if numeric else OTHERS:
                    sentence = read(arguments, task, method, name, value)
                    assert "\n" not in sentence, (name, value)
                    assert len(sentence) < 400, (name, value)
                    finite = name in ("lr", "weight_decay", "clip") and value in ("1e300", str(10**12), str(2**70))
                    empty = (
                        name in ("logger", "model.class_weights", "model.error_pair", "step_epochs") and value == "[]"
                    )
                    assert sentence or not numeric or finite or empty, (name, value)


@pytest.mark.parametrize("task", tasks.names())
def test_a_config_that_was_written_is_read_again(tmp_path, task):
    for method in tasks.methods(task):
        config = tasks.find(task, method).Config
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": plain(config())}))
        options = explicit_options(_arguments(task, method), [], read_config(str(tmp_path / "config.yaml")))
        assert build(config, {name.removeprefix("model."): value for name, value in options.items()}) == config()
