#!/usr/bin/env python3
"""Times a training step from the second epoch on with frozen layer groups: Retune with its feature cache beside
PyTorch, which computes the frozen part in every step.

Rounds in turn, each measurement a process of its own. Retune's side is a whole `retune fit` of a few epochs on texts of
one length, or on pictures each of which is seen in one view; its steps are read from the run's log, those of the first
epoch left out (they are shown beside). PyTorch's side freezes the same groups, so that it records nothing for them, and
sets them to evaluation mode; its pictures are in memory.

    python bench/feature_cache.py --retune target/release/retune --tokenizer MINILM_DIR --cache FOLDER
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from checkpoints import (
    ensure_checkpoint,
    ensure_image_weights,
    equal_length_texts,
    write_labelled_texts,
    write_pictures,
)
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

    def retune(self, scratch: Path, arguments: argparse.Namespace) -> list[str]:
        """The arguments of `retune fit`."""
        model = ensure_checkpoint(self.model, arguments.cache, arguments.tokenizer)
        texts = equal_length_texts(self.batch_size * BATCHES, LENGTH, model)
        data = write_labelled_texts(scratch / "train.csv", texts)
        method = ["strategy.method=head"]
        if self.train != "head":
            method = ["strategy.method=last_n", f"last_n={self.train.removeprefix('last:')}"]
        return ["--model", str(model), "--train", str(data), f"max_length={LENGTH}", *method]

    def pytorch(self, arguments: argparse.Namespace) -> list[str]:
        """The other side's program with its arguments."""
        model = ensure_checkpoint(self.model, arguments.cache, arguments.tokenizer)
        return ["pytorch_step.py", "--model", str(model), "--train", self.train, "--length", str(LENGTH)]


@dataclass(frozen=True)
class ImageRow:
    """One comparison of `head` on pictures."""

    label: str
    model: str
    batch_size: int
    image_size: int
    target: float | None

    def retune(self, scratch: Path, arguments: argparse.Namespace) -> list[str]:
        """The arguments of `retune fit`."""
        weights = ensure_image_weights(self.model, arguments.cache)
        data = write_pictures(scratch, self.batch_size * BATCHES)
        command = ["--model", str(weights), "--train", str(data), f"model.architecture={self.model}"]
        return [*command, "strategy.method=head", f"image_size={self.image_size}", "augmentation.cached_views=1"]

    def pytorch(self, arguments: argparse.Namespace) -> list[str]:
        """The other side's program with its arguments."""
        weights = ensure_image_weights(self.model, arguments.cache)
        command = ["pytorch_image_step.py", "--architecture", self.model, "--weights", str(weights), "--train", "head"]
        return [*command, "--image-size", str(self.image_size)]


ROWS = (
    Row("BERT-base 8x128, head", "bert-base-uncased", 8, "head", 100),
    Row("BERT-base 8x128, last 2 of 12", "bert-base-uncased", 8, "last:2", 3),
    Row("MiniLM 16x128, head", "minilm", 16, "head", None),
    Row("MiniLM 16x128, last 2 of 6", "minilm", 16, "last:2", None),
    ImageRow("ResNet-18 16x224, head", "resnet18", 16, 224, 100),
    ImageRow("MobileNetV2 16x224, head", "mobilenet_v2", 16, 224, 100),
)


def retune_steps(row: Row | ImageRow, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of each step of the first epoch, and of each later one."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "run"
        command = [str(arguments.retune), "fit", *row.retune(Path(scratch), arguments), "--output", str(output)]
        command += [f"num_train_epochs={EPOCHS}", f"per_device_train_batch_size={row.batch_size}", "logging_steps=1"]
        command += [f"feature_cache={arguments.mode}", "save_steps=1000000", f"threads={arguments.threads}"]
        run(command, arguments.threads)
        events = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    seconds = [event["seconds"] for event in events if event["event"] == "step_ended"]
    if len(seconds) != BATCHES * EPOCHS:
        raise BenchmarkError(f"{row.label}: expected {BATCHES * EPOCHS} steps in the log, found {len(seconds)}")
    return seconds[1:BATCHES], seconds[BATCHES:]


def compare(row: Row | ImageRow, arguments: argparse.Namespace) -> dict:
    program, *options = row.pytorch(arguments)
    command = [python(), "-W", "ignore", str(HERE / program), *options]
    command += ["--batch-size", str(row.batch_size), "--steps", str(arguments.steps), "--json"]
    first, later, theirs, ratios = [], [], [], []
    for _ in range(arguments.rounds):
        ours_first, ours_later = retune_steps(row, arguments)
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
