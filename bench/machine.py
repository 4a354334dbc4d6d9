"""Runs one side of the benchmark as a process of its own, and describes the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

SIMD_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "neon", "asimd")


class BenchmarkError(Exception):
    """A side failed, or the two sides do not compute the same thing."""


def run(command: list[str], threads: int) -> tuple[str, float]:
    """Standard output and wall seconds of a command confined to the first `threads` CPUs that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))[:threads]
    started = time.perf_counter()
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        check=False,
    )
    seconds = time.perf_counter() - started
    if finished.returncode != 0:
        tail = "\n".join((finished.stderr or finished.stdout).splitlines()[-15:])
        raise BenchmarkError(f"exit code {finished.returncode} from\n  {' '.join(command)}\n{tail}")
    return finished.stdout, seconds


def run_json(command: list[str], threads: int) -> dict:
    """The JSON object that a command prints as its last line."""
    output, _ = run(command, threads)
    lines = output.strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        pass
    try:
        return json.loads(output)
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"no JSON object came from\n  {' '.join(command)}\n{output[-500:]}") from error


def describe(retune: Path | None, threads: int) -> list[tuple[str, str]]:
    """What a reader needs to know to place the numbers: CPU, memory, versions, load."""
    cpu = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if ":" in line
    )
    cpu = {key.strip(): value.strip() for key, value in cpu.items()}
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    rows = [
        ("CPU", cpu.get("model name", platform.processor() or platform.machine())),
        ("CPUs used / present", f"{threads} / {os.cpu_count()}"),
        ("SIMD", ", ".join(flag for flag in SIMD_FLAGS if flag in flags) or "none of those looked for"),
        ("Last-level cache", cpu.get("cache size", "unknown") + " a core, as the kernel reports it"),
        ("Memory", f"{memory / 2**30:.0f} GiB"),
        ("Kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("PyTorch", metadata.version("torch")),
        ("transformers", metadata.version("transformers")),
        ("Load before the start", f"{os.getloadavg()[0]:.2f}"),
        ("Date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
    ]
    if retune is not None:
        version, _ = run([str(retune), "--version"], threads)
        rows.insert(6, ("Retune", version.strip()))
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode == 0:
        rows.insert(7, ("Commit", commit.stdout.strip()))
    return rows


def python() -> str:
    """The interpreter that runs this, and so the PyTorch side too."""
    return sys.executable
