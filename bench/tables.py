"""The tables of BENCHMARKS.md, from the summaries that `compare.py` collects."""

from __future__ import annotations

from argparse import Namespace


def header(titles: list[str]) -> str:
    """A table's title line and the rule under it."""
    return "| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|"


def cell(value: float | None, unit: str, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}{unit}"


def step_table(rows: list[dict], extra_columns: bool) -> list[str]:
    """A line per training-step row; ratios above 1 mean that Retune is faster."""
    titles = ["step", "precision", "Retune", "PyTorch", "ratio", "target", "peak RSS Retune", "peak RSS PyTorch"]
    if extra_columns:
        titles += ["PyTorch compiled", "PyTorch length-grouped"]
    lines = [header(titles)]
    for row in rows:
        sides, theirs = row["sides"], row["sides"]["pytorch"]
        ours = sides.get("retune", {})
        ratio = theirs["step_seconds"] / ours["step_seconds"] if ours else None
        cells = [
            row["label"],
            row["precision"],
            cell(ours.get("step_seconds"), " s"),
            cell(theirs["step_seconds"], " s"),
            cell(ratio, "", 2),
            f"≥ {row['target']}",
            cell(ours["peak_rss_bytes"] / 2**20, " MiB", 0) if ours else "",
            cell(theirs["peak_rss_bytes"] / 2**20, " MiB", 0),
        ]
        if extra_columns:
            cells += [cell(sides.get(name, {}).get("step_seconds"), " s") for name in ("compiled", "grouped")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def startup_table(rows: list[dict]) -> list[str]:
    titles = ["process start until the first step", "Retune", "PyTorch", "ours / theirs", "target"]
    lines = [header(titles)]
    for row in rows:
        ours = row["sides"].get("retune", {}).get("startup_seconds")
        theirs = row["sides"]["pytorch"]["startup_seconds"]
        share = ours / theirs if ours is not None else None
        lines.append(f"| {row['label']} | {cell(ours, ' s')} | {cell(theirs, ' s')} | {cell(share, '', 2)} | ≤ 0.1 |")
    return lines


def predict_table(rows: list[dict], extra_columns: bool) -> list[str]:
    titles = ["predict", "Retune", "PyTorch", "ratio", "target", "few texts, Retune", "few texts, PyTorch"]
    if extra_columns:
        titles.append("PyTorch length-grouped")
    lines = [header(titles)]
    for row in rows:
        sides, theirs = row["sides"], row["sides"]["pytorch"]
        ours = sides.get("retune", {})
        ratio = ours["samples_per_second"] / theirs["samples_per_second"] if ours else None
        cells = [
            row["label"],
            cell(ours.get("samples_per_second"), " texts/s", 0),
            cell(theirs["samples_per_second"], " texts/s", 0),
            cell(ratio, "", 2),
            f"≥ {row['target']}",
            cell(ours.get("small_seconds"), " s"),
            cell(theirs["small_seconds"], " s"),
        ]
        if extra_columns:
            cells.append(cell(sides.get("grouped", {}).get("samples_per_second"), " texts/s", 0))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def report(steps: list[dict], predictions: list[dict], machine: list[tuple[str, str]], arguments: Namespace) -> str:
    """BENCHMARKS.md: the machine, the tables, and how they were made."""
    lines = ["# Benchmarks", "", "Written by `bench/compare.py`; `bench/README.md` says what is measured and how.", ""]
    lines += ["| machine | |\n|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in machine]
    if steps:
        lines += [
            "",
            "## Training step",
            "",
            "Forward, backward and optimizer, everything trained, dropout on, AdamW. The ratio is PyTorch's step time",
            f"over Retune's: above 1, Retune is faster. {arguments.rounds} rounds in turn; medians (mixed lengths: of",
            "each round's mean over the same batches), the first step of a round left out.",
            "",
            *step_table(steps, arguments.extra_columns),
            "",
            "## Start",
            "",
            *startup_table(steps),
        ]
    if predictions:
        lines += [
            "",
            "## Prediction",
            "",
            "The whole command, from reading the CSV to JSON Lines with logits; start-up falls out by timing both",
            f"{arguments.predict_small} and {arguments.predict_large} texts. PyTorch pads each batch of 32 texts.",
            "",
            *predict_table(predictions, arguments.extra_columns),
        ]
    return "\n".join(lines) + "\n"
