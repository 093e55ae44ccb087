"""Every score of attention on the same task: the recurrent translator learns the built-in dates with each.

    python benchmarks/scores.py --epochs 6

Sources of at most LONG characters are learned. Exact match and alignment accuracy on validation pairs of such sources
and of longer ones, and the CPU time of training. Models, order of the batches and seeds are the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from backbones import machine

import vertebra
from vertebra.data.formats import ReadOptions, dates
from vertebra.data.sentences import tokenized
from vertebra.metrics.translation import TranslationMetrics
from vertebra.tasks.translation.recurrent import SCORES

LONG = 24
"""Characters of a source of the sources that are learned, at most; longer ones are validated on, apart."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    catalogue = dates.read(Path("dates"), ReadOptions(seed=0))
    short = [s for s in catalogue.splits["train"] if len(s.source) <= LONG]
    held_out = {
        "short": [s for s in catalogue.splits["val"] if len(s.source) <= LONG],
        "long": [s for s in catalogue.splits["val"] if len(s.source) > LONG],
    }
    print(f"{machine()}; torch {torch.__version__}; {len(short)} training pairs of at most {LONG} characters, ")
    print(f"{len(held_out['short'])} such to validate, and {len(held_out['long'])} longer; {options.epochs} epochs\n")
    print("| score | exact | alignment | exact, longer | alignment, longer | CPU s |\n|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pairs.tsv")
        path.write_text("".join(f"{s.source}\t{s.target.text}\n" for s in short), encoding="utf-8")
        for score in SCORES:
            started = time.process_time()
            run = vertebra.train(
                "translation",
                data=path,
                method="recurrent",
                model={"width": options.width, "score": score, "input_feeding": False, "beam": 1},
                vocabulary="character",
                workers=0,
                epochs=options.epochs,
                val_every=options.epochs,
                logger="csv",
                output=str(Path(folder, score)),
            )
            seconds = time.process_time() - started
            task = run.load().task
            cells = []
            for samples in held_out.values():
                metrics = TranslationMetrics()
                pairs = [tokenized(sample, task.source, task.target) for sample in samples]
                predictions = list(task.predict_texts([pair.source for pair in pairs], batch_size=64))
                metrics.update(predictions, [pair.target for pair in pairs])
                values = metrics.compute()
                cells += [f"{values['exact']:.3f}", f"{values.get('alignment', float('nan')):.3f}"]
            print(f"| {score} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
