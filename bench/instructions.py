#!/usr/bin/env python3
"""Counts the instructions of a call of each hot path, on the AVX2 kernels and one thread.

Under valgrind a program executes the same instructions every time but for a handful at its start, whatever else the
machine does; those of three calls less those of one are twice a call's. The counts depend on the compiler, which is
printed with them, and on nothing else: a count that rises by more than a percent is a kernel that got slower.

    cargo build --release -p retune-kernels --example hot_path
    python bench/instructions.py > now.json
    python bench/instructions.py --against now.json      # after a change: says what rose, and exits with 1 if any did
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOLERANCE = 0.01


def output_of(command: list[str]) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{finished.stderr or finished.stdout}")
    return finished


def executed(program: Path, path: str, calls: int) -> int:
    """Instructions of the whole process."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), path, str(calls)]
    collected = re.search(r"Collected\s*:\s*(\d+)", output_of(command).stderr)
    if collected is None:
        raise SystemExit("valgrind told no instruction count")
    return int(collected.group(1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=HERE.parent / "target/release/examples/hot_path")
    parser.add_argument("--against", type=Path, help="counts to compare with")
    arguments = parser.parse_args()
    paths = output_of([str(arguments.program)]).stdout.split()
    counts = {}
    for path in paths:
        counts[path] = (executed(arguments.program, path, 3) - executed(arguments.program, path, 1)) // 2
        print(f"{path:<30} {counts[path]:>12,}", file=sys.stderr)
    compiler = output_of(["rustc", "--version"]).stdout.strip()
    print(json.dumps({"compiler": compiler, "instructions": counts}, indent=2))
    if arguments.against is None:
        return 0
    before = json.loads(arguments.against.read_text(encoding="utf-8"))
    if before["compiler"] != compiler:
        print(f"the counts to compare with are {before['compiler']}'s", file=sys.stderr)
    risen = {
        path: count / before["instructions"][path]
        for path, count in counts.items()
        if count > before["instructions"].get(path, count) * (1 + TOLERANCE)
    }
    for path, ratio in risen.items():
        print(f"{path}: {ratio:.3f} times as many instructions as before", file=sys.stderr)
    return 1 if risen else 0


if __name__ == "__main__":
    sys.exit(main())
