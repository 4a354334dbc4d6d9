#!/usr/bin/env python3
"""Times a training step from the second epoch on with frozen layer groups: Retune with its feature cache beside
PyTorch, which computes the frozen part in every step.

Rounds in turn, each measurement a process of its own. Retune's side is a whole `retune fit` of a few epochs on texts of
one length; its steps are read from the run's log, those of the first epoch left out (they are shown beside). PyTorch's
side freezes the same groups, so that it records nothing for them, and sets them to evaluation mode.

    python bench/feature_cache.py --retune target/release/retune --tokenizer MINILM_DIR --cache FOLDER
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from checkpoints import ensure_checkpoint, equal_length_texts
from machine import BenchmarkError, python, run, run_json

HERE = Path(__file__).resolve().parent
LENGTH = 128
BATCHES = 4
EPOCHS = 6


@dataclass(frozen=True)
class Row:
    """One comparison; `target` is the ratio that the project set itself."""

    label: str
    model: str
    batch_size: int
    train: str
    target: float | None

    def overrides(self) -> list[str]:
        if self.train == "head":
            return ["strategy.method=head"]
        return ["strategy.method=last_n", f"last_n={self.train.removeprefix('last:')}"]


ROWS = (
    Row("BERT-base 8x128, head", "bert-base-uncased", 8, "head", 100),
    Row("BERT-base 8x128, last 2 of 12", "bert-base-uncased", 8, "last:2", 3),
    Row("MiniLM 16x128, head", "minilm", 16, "head", None),
    Row("MiniLM 16x128, last 2 of 6", "minilm", 16, "last:2", None),
)


def write_data(path: Path, texts: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, ("no", "yes")[row % 2]] for row, text in enumerate(texts))


def retune_steps(row: Row, folder: Path, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of each step of the first epoch, and of each later one."""
    with tempfile.TemporaryDirectory() as scratch:
        data, output = Path(scratch) / "train.csv", Path(scratch) / "run"
        write_data(data, equal_length_texts(row.batch_size * BATCHES, LENGTH, folder))
        recipe = Path(scratch) / "recipe.toml"
        recipe.write_text(f'[model]\nname_or_path = "{folder}"\n[data]\ntrain = "{data}"\nmax_length = {LENGTH}\n')
        command = [str(arguments.retune), "fit", str(recipe), *row.overrides(), f"train.output_dir={output}"]
        command += [f"num_train_epochs={EPOCHS}", f"per_device_train_batch_size={row.batch_size}", "logging_steps=1"]
        command += [f"feature_cache={arguments.mode}", "save_steps=1000000", f"threads={arguments.threads}"]
        run(command, arguments.threads)
        events = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    seconds = [event["seconds"] for event in events if event["event"] == "step_ended"]
    if len(seconds) != BATCHES * EPOCHS:
        raise BenchmarkError(f"{row.label}: expected {BATCHES * EPOCHS} steps in the log, found {len(seconds)}")
    return seconds[1:BATCHES], seconds[BATCHES:]


def compare(row: Row, arguments: argparse.Namespace) -> dict:
    folder = ensure_checkpoint(row.model, arguments.cache, arguments.tokenizer)
    command = [python(), "-W", "ignore", str(HERE / "pytorch_step.py"), "--model", str(folder), "--train", row.train]
    command += ["--batch-size", str(row.batch_size), "--length", str(LENGTH), "--steps", str(arguments.steps), "--json"]
    first, later, theirs, ratios = [], [], [], []
    for _ in range(arguments.rounds):
        ours_first, ours_later = retune_steps(row, folder, arguments)
        pytorch = run_json(command, arguments.threads)["step_seconds"][1:]
        first += ours_first
        later += ours_later
        theirs += pytorch
        ratios.append(statistics.median(pytorch) / statistics.median(ours_later))
    return {
        "label": row.label,
        "target": row.target,
        "first_epoch_step_seconds": statistics.median(first),
        "step_seconds": statistics.median(later),
        "pytorch_step_seconds": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
    }


def seconds_text(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.1 else f"{seconds * 1e3:.2f} ms"


def line(result: dict) -> str:
    cells = [
        result["label"],
        seconds_text(result["step_seconds"]),
        seconds_text(result["first_epoch_step_seconds"]),
        seconds_text(result["pytorch_step_seconds"]),
        f"{result['ratio']:.1f}",
        f"{result['lowest_ratio']:.1f}",
        "" if result["target"] is None else f"≥ {result['target']}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retune", type=Path, default=HERE.parent / "target/release/retune", help="the binary")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/retune-bench", help="checkpoints")
    parser.add_argument("--tokenizer", type=Path, required=True, help="all-MiniLM-L6-v2 folder")
    parser.add_argument("--only", nargs="*", help="labels of the rows to measure (default: all)")
    parser.add_argument("--mode", choices=("memory", "disk"), default="memory", help="train.feature_cache")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="PyTorch's steps of a round, the first one not counted")
    parser.add_argument("--threads", type=int, default=2, help="CPUs that either side may use")
    parser.add_argument("--json", type=Path, help="write the summaries there as JSON too")
    arguments = parser.parse_args()
    print("| step | Retune, later epochs | Retune, first epoch | PyTorch | ratio | lowest of the rounds | goal |")
    print("|---" * 7 + "|")
    results = []
    try:
        for row in ROWS:
            if not arguments.only or row.label in arguments.only:
                results.append(compare(row, arguments))
                print(line(results[-1]), flush=True)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
