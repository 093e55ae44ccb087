"""Translation of real sentences: our Transformer beside torch.nn.Transformer, with the same sizes, data, options and
minutes.

    python benchmarks/corpus.py pairs /usr/share/locale --save=catalogues/   # message catalogues of installed programs
    python benchmarks/corpus.py train catalogues/ --method=transformer --minutes=120 --output=runs/ours
    python benchmarks/corpus.py train catalogues/ --method=torch_transformer --minutes=120 --output=runs/torch
    python benchmarks/corpus.py evaluate catalogues/test.tsv runs/ours runs/torch

`pairs` makes train.tsv, val.tsv and test.tsv (German, English) of the catalogues `*.mo`, whose texts are under the
licences of their programs. The two trainings run at the same time, on one thread each.
"""

from __future__ import annotations

import argparse
import gettext
import hashlib
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
from backbones import machine
from lightning.pytorch.callbacks import Timer

import vertebra
import vertebra.tasks.translation

MAX_WORDS = 40
"""Of a side."""
HELD_OUT = {"test": 2000, "val": 1000}
ACCELERATOR = re.compile(r"(?<!\w)[&_](?=\w)|(?<=\w)[&_](?=[a-zäöüß])")
"""The mark of a menu's key, before or within a word."""
METHODS = Path(__file__).with_name("methods")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    pairs = commands.add_parser("pairs")
    pairs.add_argument("root", type=Path)
    pairs.add_argument("--language", default="de")
    pairs.add_argument("--save", type=Path, required=True)
    pairs.set_defaults(run=extract)
    training = commands.add_parser("train")
    training.add_argument("data", type=Path)
    training.add_argument("--method", choices=("transformer", "torch_transformer"), default="transformer")
    training.add_argument("--minutes", type=float, default=120)
    training.add_argument("--precision", default="bf16-mixed")
    training.add_argument("--batch_size", type=int, default=128)
    training.add_argument("--output", type=Path, required=True)
    training.set_defaults(run=train)
    evaluation = commands.add_parser("evaluate")
    evaluation.add_argument("data", type=Path)
    evaluation.add_argument("runs", type=Path, nargs="+")
    evaluation.set_defaults(run=evaluate)
    options = parser.parse_args()
    vertebra.tasks.translation.__path__.append(str(METHODS))
    torch.set_num_threads(1)
    options.run(options)


def extract(options: argparse.Namespace) -> None:
    """The most frequent translation of each sentence, divided by the English words, whatever their marks and case."""
    translations: dict[str, Counter[str]] = defaultdict(Counter)
    files = sorted(options.root.rglob(f"{options.language}/LC_MESSAGES/*.mo"))
    for file in files:
        for english, foreign in messages(file):
            translations[foreign][english] += 1
    groups = defaultdict(list)
    for foreign, counts in translations.items():
        english = counts.most_common(1)[0][0]
        groups[" ".join(re.findall(r"[a-z]+", english.lower()))].append(f"{foreign}\t{english}\n")
    order = sorted(groups, key=lambda words: hashlib.sha256(words.encode()).digest())
    long = [words for words in order if words.count(" ") >= 2]  # sentences, not labels, are measured
    splits, start = {}, 0
    for split, count in HELD_OUT.items():
        splits[split] = [groups.pop(words)[0] for words in long[start : start + count]]
        start += count
    splits["train"] = [line for words in order if words in groups for line in groups[words]]
    random.Random(0).shuffle(splits["train"])
    options.save.mkdir(parents=True, exist_ok=True)
    for split, lines in splits.items():
        (options.save / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    print(f"{len(files)} catalogues: " + ", ".join(f"{len(lines):,} {split}" for split, lines in splits.items()))


def messages(file: Path) -> Iterator[tuple[str, str]]:
    """English and foreign text of each message that reads like language."""
    with file.open("rb") as stream:
        try:
            catalogue = gettext.GNUTranslations(stream)._catalog
        except (OSError, ValueError, LookupError):
            print(f"{file} cannot be read")
            return
    for key, value in catalogue.items():
        english, foreign = (clean(text[0] if isinstance(text, tuple) else text) for text in (key, value))
        if english != foreign and all(is_language(text) for text in (english, foreign)):
            yield english, foreign


def clean(text: str) -> str:
    text = text.rpartition("\x04")[2]  # after the context
    return " ".join(ACCELERATOR.sub("", text).split())


def is_language(text: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    return bool(text) and letters >= 0.75 * len(text) and text.isprintable() and len(text.split()) <= MAX_WORDS


def train(options: argparse.Namespace) -> None:
    run = vertebra.train(
        "translation",
        data=options.data,
        method=options.method,
        model={"tied": "all"},
        callbacks=[Timer(timedelta(minutes=options.minutes))],
        shared_vocabulary=True,
        max_tokens=80,
        batch_size=options.batch_size,
        schedule="inverse_sqrt",
        warmup_steps=1000,
        ema=0.999,
        precision=options.precision,
        epochs=100,
        val_every=100,  # only at the end, since the search of the one is slow
        output=options.output,
        device="cpu",
    )
    print(run.metrics)


def evaluate(options: argparse.Namespace) -> None:
    print(f"{machine()}; torch {torch.__version__}; {options.data}\n")
    print("| run | beam | BLEU | chrF | exact | sentences / s |\n|---|---:|---:|---:|---:|---:|")
    for run in options.runs:
        for beam in (1, 4):
            predictor = vertebra.load(run, model={"beam": beam})
            start = time.perf_counter()
            evaluation = vertebra.evaluate(predictor, data=options.data)
            row = " | ".join(f"{100 * evaluation.metrics[name]:.1f}" for name in ("bleu", "chrf", "exact"))
            speed = len(evaluation.rows) / (time.perf_counter() - start)
            print(f"| {run.name} | {beam} | {row} | {speed:.0f} |", flush=True)


if __name__ == "__main__":
    main()
