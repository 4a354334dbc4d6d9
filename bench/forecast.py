#!/usr/bin/env python3
"""Holds forecasts to what came of them: whole runs of the benchmark's shapes, predicted time and memory beside
measured.

Each row is a `retune fit` of a few steps that trains everything, on texts of one length or SST-2 sentences, or on
pictures of noise, and reads what the run says of its own forecast at its end. Prints a table.

    python bench/forecast.py --tokenizer MINILM_DIR --sst2 stsa.binary.train
    python bench/forecast.py --tokenizer MINILM_DIR --only "ResNet-18 16x224" --rounds 1
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from checkpoints import (
    ensure_checkpoint,
    ensure_image_weights,
    equal_length_texts,
    read_sst2,
    write_labelled_texts,
    write_pictures,
)
from machine import BenchmarkError, run
from steps import HERE, IMAGE_STEP_ROWS, STEP_ROWS, ImageStepRow, StepRow


def write_texts(row: StepRow, folder: Path, model: Path, arguments: argparse.Namespace) -> Path:
    """Texts for `--steps` batches, as many of either label."""
    count = row.batch_size * arguments.steps
    texts = equal_length_texts(count, row.length, model) if row.length else read_sst2(arguments.sst2)[:count]
    return write_labelled_texts(folder / "train.csv", texts)


def measure(row: StepRow | ImageStepRow, folder: Path, arguments: argparse.Namespace) -> dict:
    """What a run says of its forecast."""
    if isinstance(row, ImageStepRow):
        model = ensure_image_weights(row.model, arguments.cache)
        data = write_pictures(folder, row.batch_size * arguments.steps)
        settings = [f"model.architecture={row.model}", f"data.image_size={row.image_size}", "optimizer.name=sgd"]
    else:
        model = ensure_checkpoint(row.model, arguments.cache, arguments.tokenizer)
        data = write_texts(row, folder, model, arguments)
        settings = ["data.max_length=128"]
    output = folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    command = [str(arguments.retune), "fit", "--model", str(model), "--train", str(data), "--output", str(output)]
    settings += ["strategy.method=full", "learning_rate=1e-4", "num_train_epochs=1", "load_best_model_at_end=false"]
    run([*command, *settings, f"per_device_train_batch_size={row.batch_size}"], arguments.threads)
    events = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    told = [event for event in events if event["event"] == "forecast_compared"]
    if not told:
        raise BenchmarkError(f"{row.label}: the run made no forecast")
    return told[-1]


def line(label: str, told: list[dict]) -> str:
    """The median of the rounds as a row of the table."""
    values = {key: statistics.median(one[key] for one in told) for key in told[0] if key != "event"}
    cells = [label]
    for key, unit in (
        ("step_seconds", lambda value: f"{value:.2f} s"),
        ("resident_bytes", lambda v: f"{v / 1e6:.0f} MB"),
    ):
        predicted, measured = values[f"predicted_{key}"], values[key]
        cells += [unit(predicted), unit(measured), f"{predicted / measured - 1:+.0%}".replace("-", "\u2212")]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retune", type=Path, default=HERE.parent / "target/release/retune", help="the binary")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/retune-bench", help="checkpoints and data")
    parser.add_argument("--tokenizer", type=Path, required=True, help="all-MiniLM-L6-v2 folder")
    parser.add_argument("--sst2", type=Path, help="a stsa.binary.* file for the rows of mixed lengths")
    parser.add_argument("--only", nargs="*", help="labels of the rows to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows = [row for row in (*STEP_ROWS, *IMAGE_STEP_ROWS) if not arguments.only or row.label in arguments.only]
    # A text tokenizer of another vocabulary would not be RoBERTa's.
    rows = [row for row in rows if row.model != "roberta-base"]
    rows = [row for row in rows if arguments.sst2 or isinstance(row, ImageStepRow) or row.length]
    print("| row | time of a step, predicted | measured | | memory, predicted | measured | |")
    print("|---|---|---|---|---|---|---|")
    try:
        for row in rows:
            with tempfile.TemporaryDirectory() as folder:
                told = [measure(row, Path(folder), arguments) for _ in range(arguments.rounds)]
            print(line(row.label, told), flush=True)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
