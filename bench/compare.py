#!/usr/bin/env python3
"""Times Retune beside PyTorch on this machine, round by round in turn, and writes BENCHMARKS.md.

Each measurement is a process of its own and only one runs at a time. Before anything is timed, both sides must agree
on the loss of the same weights and input (dropout off), and on the logits of the predicted texts.

    python bench/compare.py --retune target/release/retune --tokenizer MINILM_DIR
    python bench/compare.py --only "MiniLM 16x128" --rounds 2      # one row
    python bench/compare.py --pytorch-only                         # without Retune: PyTorch's own numbers
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from checkpoints import ensure_checkpoint, equal_length_texts, read_sst2, write_texts
from machine import BenchmarkError, describe, python, run, run_json
from steps import IMAGE_STEP_ROWS, STEP_ROWS, ImageStepRow, StepRow
from tables import predict_table, report, step_table

HERE = Path(__file__).resolve().parent
LOSS_TOLERANCE = {"f32": 1e-4, "bf16": 2e-2}
LOGITS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PredictRow:
    """One prediction comparison: texts of one length, or SST-2 sentences."""

    label: str
    model: str
    length: int | None
    target: float


PREDICT_ROWS = (
    PredictRow("predict MiniLM, 128 tokens", "minilm", 128, 1.3),
    PredictRow("predict MiniLM, SST-2 sentences", "minilm", None, 2.0),
)


class Side:
    """The processes of one engine, and what they reported in every round."""

    def __init__(self, command: list[str], threads: int) -> None:
        self.command = command
        self.threads = threads
        self.results: list[dict] = []

    def measure(self) -> dict:
        self.results.append(run_json(self.command, self.threads))
        return self.results[-1]

    def step_seconds(self, same_batch: bool) -> float:
        """Median over every step, or over each round's mean where the batches differ.

        The first step of a round (cold caches, first allocations) is left out.
        """
        rounds = [result["step_seconds"][1:] for result in self.results]
        if same_batch:
            return statistics.median(second for seconds in rounds for second in seconds)
        return statistics.median(statistics.fmean(seconds) for seconds in rounds)

    def median_of(self, key: str) -> float | None:
        values = [result[key] for result in self.results if result.get(key) is not None]
        return statistics.median(values) if values else None


def check_same_loss(row: StepRow | ImageStepRow, precision: str, ours: dict, theirs: dict) -> None:
    """Refuses to compare two programs that do not compute the same function.

    Random weights without statistics to normalize by can make a loss of any size: a large one is held to its own.
    """
    difference = abs(ours["initial_eval_loss"] - theirs["initial_eval_loss"])
    if not difference <= LOSS_TOLERANCE[precision] * max(1.0, abs(theirs["initial_eval_loss"])):
        raise BenchmarkError(
            f"{row.label}: the loss before training is {ours['initial_eval_loss']:.6f} in Retune and "
            f"{theirs['initial_eval_loss']:.6f} in PyTorch; they are not doing the same work"
        )


def compare_step(row: StepRow | ImageStepRow, arguments: argparse.Namespace) -> dict:
    """Rounds of Retune and PyTorch in turn, the order reversed every round."""
    steps = str(row.steps(arguments.steps))
    measured = ["--precision", arguments.precision, "--steps", steps, "--json"]
    pytorch, retune = ([*command, *measured] for command in row.commands(arguments))
    sides = {"pytorch": Side(pytorch, arguments.threads)}
    if arguments.extra_columns:
        sides["compiled"] = Side([*pytorch, "--compile"], arguments.threads)
        if not row.same_batch():
            sides["grouped"] = Side([*pytorch, "--group-by-length"], arguments.threads)
    if not arguments.pytorch_only:
        sides["retune"] = Side(retune, arguments.threads)

    for round_index in range(arguments.rounds):
        order = list(sides.values())
        for side in order if round_index % 2 == 0 else reversed(order):
            side.measure()
        if round_index == 0 and "retune" in sides:
            check_same_loss(row, arguments.precision, sides["retune"].results[0], sides["pytorch"].results[0])
    summary = {
        name: {
            "step_seconds": side.step_seconds(same_batch=row.same_batch()),
            "peak_rss_bytes": side.median_of("peak_rss_bytes"),
            "startup_seconds": side.median_of("startup_seconds"),
            "initial_eval_loss": side.results[0]["initial_eval_loss"],
        }
        for name, side in sides.items()
    }
    return {"label": row.label, "target": row.target, "precision": arguments.precision, "sides": summary}


def read_logits(path: Path) -> list[list[float]]:
    return [json.loads(line)["logits"] for line in path.read_text(encoding="utf-8").splitlines()]


def compare_predict(row: PredictRow, arguments: argparse.Namespace) -> dict:
    """Throughput from two sizes of the same data, so that start-up falls out; the small one is mostly start-up."""
    folder = ensure_checkpoint(row.model, arguments.cache, arguments.tokenizer)
    sizes = (arguments.predict_small, arguments.predict_large)
    if row.length is None:
        texts = read_sst2(arguments.sst2)[: sizes[1]]
    else:
        texts = equal_length_texts(sizes[1], row.length, folder)
    kind = "mixed" if row.length is None else str(row.length)
    files = [write_texts(arguments.cache / f"texts-{kind}-{size}.csv", texts[:size]) for size in sizes]

    script = [python(), "-W", "ignore", str(HERE / "pytorch_predict.py")]
    commands = {"pytorch": script}
    if arguments.extra_columns and row.length is None:
        commands["grouped"] = [*script, "--group-by-length"]
    if not arguments.pytorch_only:
        commands["retune"] = [str(arguments.retune), "predict", "--logits", *arguments.predict_options.split()]

    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in commands}
    outputs = {name: arguments.cache / f"predicted-{name}.jsonl" for name in commands}
    for round_index in range(arguments.rounds):
        order = list(commands.items())
        for which, file in enumerate(files):
            for name, command in order if round_index % 2 == 0 else reversed(order):
                data = ["--model", str(folder), "--data", str(file), "--output", str(outputs[name])]
                seconds[name][which].append(run([*command, *data], arguments.threads)[1])
    if "retune" in commands:
        pairs = zip(read_logits(outputs["retune"]), read_logits(outputs["pytorch"]), strict=True)
        difference = max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
        if not difference <= LOGITS_TOLERANCE:
            raise BenchmarkError(f"{row.label}: logits differ by {difference:.2e}; they are not doing the same work")

    summary = {}
    for name, (small, large) in seconds.items():
        extra = statistics.median(large) - statistics.median(small)
        if extra <= 0:
            raise BenchmarkError(f"{row.label}: {sizes[1]} texts took {name} no longer than {sizes[0]}; too much noise")
        summary[name] = {"samples_per_second": (sizes[1] - sizes[0]) / extra, "small_seconds": statistics.median(small)}
    return {"label": row.label, "target": row.target, "small": sizes[0], "sides": summary}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retune", type=Path, default=HERE.parent / "target/release/retune", help="the binary")
    parser.add_argument("--pytorch-only", action="store_true", help="measure PyTorch alone")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/retune-bench", help="checkpoints and data")
    parser.add_argument("--tokenizer", type=Path, help="all-MiniLM-L6-v2 folder; without it no prediction rows")
    parser.add_argument("--sst2", type=Path, help="a stsa.binary.* file for the mixed prediction row")
    parser.add_argument("--only", nargs="*", help="labels of the rows to measure (default: all)")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps of a round, the first one not counted")
    parser.add_argument("--threads", type=int, default=2, help="CPUs that either side may use")
    parser.add_argument("--predict-small", type=int, default=32)
    parser.add_argument("--predict-large", type=int, default=1024)
    parser.add_argument("--predict-options", default="", help="further options for `retune predict`")
    parser.add_argument("--extra-columns", action="store_true", help="torch.compile and length-grouped batches too")
    parser.add_argument("--output", type=Path, default=HERE.parent / "BENCHMARKS.md")
    parser.add_argument("--json", type=Path, help="write the summaries there as JSON too")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps must be at least 2: the first step of a round is not counted")
    if not arguments.pytorch_only and not arguments.retune.exists():
        parser.error(f"{arguments.retune} does not exist; run `cargo build --release`, or use --pytorch-only")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    step_rows = [row for row in (*STEP_ROWS, *IMAGE_STEP_ROWS) if not arguments.only or row.label in arguments.only]
    predict_rows = [
        row
        for row in PREDICT_ROWS
        if (not arguments.only or row.label in arguments.only)
        and arguments.tokenizer is not None
        and (row.length is not None or arguments.sst2 is not None)
    ]
    if not step_rows and not predict_rows:
        labels = ", ".join(repr(row.label) for row in (*STEP_ROWS, *IMAGE_STEP_ROWS, *PREDICT_ROWS))
        print(f"nothing to measure; the rows are {labels} (prediction wants --tokenizer, --sst2)", file=sys.stderr)
        return 2

    machine = describe(None if arguments.pytorch_only else arguments.retune, arguments.threads)
    steps, predictions = [], []
    try:
        for row in step_rows:
            steps.append(compare_step(row, arguments))
            print(step_table(steps[-1:], arguments.extra_columns)[-1], flush=True)
        for row in predict_rows:
            predictions.append(compare_predict(row, arguments))
            print(predict_table(predictions[-1:], arguments.extra_columns)[-1], flush=True)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    arguments.output.write_text(report(steps, predictions, machine, arguments), encoding="utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": steps, "predictions": predictions}, indent=2))
    print(f"written: {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
