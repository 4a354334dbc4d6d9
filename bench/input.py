#!/usr/bin/env python3
"""Rows a second from a data file to batches of token ids: Retune beside `datasets` and `transformers`, each with the
same two CPUs.

Rounds in turn, each measurement a process of its own, whose start and imports are left out. Both sides read the same
CSV, tokenize it with the same tokenizer and go once through all rows in shuffled batches: *cold* with an empty cache,
then *warm* with the cache that the cold run left. `datasets` tokenizes by `map(batched=True)` (the fast tokenizer
with threads of its own; `--processes` gives it processes instead), a `DataLoader` with `DataCollatorWithPadding`
makes the batches in the process itself (`--workers` gives it workers). The defaults are what was fastest for that
side of the settings tried on two CPUs. Retune's side also checks the data as before every fit. First the two are held
to the same token ids.

    cargo build --release -p retune-data --example text_input
    python bench/input.py --tokenizer MINILM_DIR --sst2 DATA/sentiment/stsa.binary.train
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from machine import BenchmarkError, python, run_json

HERE = Path(__file__).resolve().parent
COMPARED = 2000


def write_data(path: Path, sentences: Path, rows: int) -> None:
    """So many rows of the sentences again and again, each with its round's number, so that no two are alike."""
    lines = [line.split(" ", 1) for line in sentences.read_text(encoding="utf-8").splitlines() if " " in line]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(rows):
            label, text = lines[row % len(lines)]
            writer.writerow([f"{text} {row // len(lines)}", ("negative", "positive")[int(label)]])


def reference(arguments: argparse.Namespace) -> None:
    """One measurement of the other side; prints JSON."""
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if arguments.processes <= 1 else "false"
    import datasets
    import torch
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, DataCollatorWithPadding

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    started = time.perf_counter()
    data = datasets.load_dataset("csv", data_files=str(arguments.data), cache_dir=str(arguments.cache), split="train")
    read = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(str(arguments.tokenizer))

    def tokenize(rows: dict) -> dict:
        return tokenizer(rows["text"], truncation=True, max_length=arguments.max_length)

    processes = arguments.processes if arguments.processes > 1 else None
    data = data.map(tokenize, batched=True, num_proc=processes, remove_columns=["text"])
    labels = {"negative": 0, "positive": 1}
    encoded = time.perf_counter()

    collate = DataCollatorWithPadding(tokenizer)

    def batch_of(rows: list[dict]) -> dict:
        return collate([{**row, "label": labels[row["label"]]} for row in rows])

    loader = DataLoader(
        data,
        arguments.batch_size,
        shuffle=True,
        collate_fn=batch_of,
        num_workers=arguments.workers,
        generator=torch.Generator().manual_seed(42),
    )
    rows = tokens = 0
    for batch in loader:
        rows += len(batch["input_ids"])
        tokens += int(batch["attention_mask"].sum())
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "rows": rows,
                "tokens": tokens,
                "read_seconds": read - started,
                "encode_seconds": encoded - read,
                "batch_seconds": seconds - (encoded - started),
                "seconds": seconds,
                "rows_per_second": rows / seconds,
                "ids": data[: arguments.ids]["input_ids"] if arguments.ids else [],
            }
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    binary = HERE.parent / "target/release/examples/text_input"
    parser.add_argument("--binary", type=Path, default=binary, help="the example text_input, built for release")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a fast tokenizer")
    parser.add_argument("--sst2", type=Path, help="sentences, each behind its label 0 or 1 and a space")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2, help="CPUs of each side")
    parser.add_argument("--processes", type=int, default=1, help="processes of `map`")
    parser.add_argument("--workers", type=int, default=0, help="workers of the `DataLoader`")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ids", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print every measurement")
    arguments = parser.parse_args()
    if arguments.data:
        reference(arguments)
        return 0
    if not arguments.sst2:
        parser.error("name the sentences with --sst2")

    settings = ["--tokenizer", str(arguments.tokenizer), "--max-length", str(arguments.max_length)]
    settings += ["--batch-size", str(arguments.batch_size)]

    def ours(data: Path, cache: Path, ids: int = 0) -> dict:
        command = [str(arguments.binary), str(data), *settings, "--threads", str(arguments.threads)]
        return run_json([*command, "--cache", str(cache), "--ids", str(ids)], arguments.threads)

    def theirs(data: Path, cache: Path, ids: int = 0) -> dict:
        command = [python(), "-W", "ignore", str(HERE / "input.py"), "--data", str(data), *settings]
        command += ["--processes", str(arguments.processes), "--workers", str(arguments.workers)]
        return run_json([*command, "--cache", str(cache), "--ids", str(ids)], arguments.threads)

    results: dict[str, list[tuple[dict, dict]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as scratch:
        small, data = Path(scratch) / "small.csv", Path(scratch) / "data.csv"
        write_data(small, arguments.sst2, COMPARED)
        first, second = (side(small, Path(scratch) / name, COMPARED) for side, name in ((ours, "s0"), (theirs, "s1")))
        if first["ids"] != second["ids"] or len(first["ids"]) != COMPARED:
            raise BenchmarkError("the two sides make different token ids")
        write_data(data, arguments.sst2, arguments.rows)
        for number in range(arguments.rounds):
            caches = [Path(scratch) / f"{side}{number}" for side in ("ours", "theirs")]
            for state in results:
                # The other side goes first in every second round.
                order = ((ours, caches[0]), (theirs, caches[1]))[:: 1 if number % 2 == 0 else -1]
                measured = {side: side(data, cache) for side, cache in order}
                pair = (measured[ours], measured[theirs])
                if any(side["rows"] != arguments.rows for side in pair) or pair[0]["tokens"] != pair[1]["tokens"]:
                    raise BenchmarkError(f"{state}: the two sides did not make the same batches")
                if pair[0]["found"] != (state == "warm"):
                    raise BenchmarkError(f"{state}: the token cache is not in the state it should be in")
                results[state].append(pair)

    print(f"token ids of {COMPARED} rows are equal; {arguments.rows:,} rows, {pair[0]['tokens']:,} tokens")
    ours, theirs = "of it read, check, tokenize, batch", "of it read, tokenize, batch"
    print(f"| state | Retune | {ours} | datasets + transformers | {theirs} | ratio | lowest |")
    print("|---|---|---|---|---|---|---|")
    for state, pairs in results.items():
        ratios = [pair[0]["rows_per_second"] / pair[1]["rows_per_second"] for pair in pairs]
        rates = [statistics.median(pair[side]["rows_per_second"] for pair in pairs) for side in (0, 1)]

        def parts(side: int, names: tuple[str, ...], pairs: list = pairs) -> str:
            return ", ".join(f"{statistics.median(p[side][f'{name}_seconds'] for p in pairs):.1f}" for name in names)

        cells = [state, f"{rates[0]:,.0f} rows/s", parts(0, ("read", "check", "encode", "batch")) + " s"]
        cells += [f"{rates[1]:,.0f} rows/s", parts(1, ("read", "encode", "batch")) + " s"]
        print("| " + " | ".join([*cells, f"{statistics.median(ratios):.1f}", f"{min(ratios):.1f}"]) + " |")
    if arguments.json:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
