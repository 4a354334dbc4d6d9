"""The input that both sides of the benchmark compute on, and how the PyTorch side is timed and started.

The definition, for any implementation: a batch is a list of lengths; its tokens, packed one sequence after another, are
`floor(counter_uniform("bench.input_ids", i) * vocab_size)` (product in float64), i counted from 0 in every batch; token
types are 0, the position of a token is its index in its sequence, and the label of row r is `r % num_labels`.
Step s uses batch `s % batches`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures"))
from counter import counter_integers


def process_age_seconds() -> float:
    """Seconds since the kernel started this process, imports included (resolution: one clock tick, 10 ms)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def batches_of_lengths(path: Path | None, batch_size: int, length: int) -> list[list[int]]:
    """One batch of equal lengths, or the file's lengths (a JSON array) cut into whole batches in order."""
    if path is None:
        return [[length] * batch_size]
    lengths = json.loads(path.read_text())
    whole = len(lengths) // batch_size
    if whole == 0:
        raise SystemExit(f"{path}: {len(lengths)} lengths are fewer than one batch of {batch_size}")
    return [lengths[index * batch_size : (index + 1) * batch_size] for index in range(whole)]


def group_by_length(batches: list[list[int]]) -> list[list[int]]:
    """The same lengths in batches of neighbours after sorting, in a fixed shuffled order."""
    size = len(batches[0])
    ordered = sorted(length for batch in batches for length in batch)
    grouped = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    order = torch.randperm(len(grouped), generator=torch.Generator().manual_seed(0)).tolist()
    return [grouped[index] for index in order]


def padded_input(lengths: list[int], config: transformers.PretrainedConfig) -> dict[str, torch.Tensor]:
    """A batch as `transformers` takes it; without a mask where no row is padded, which is PyTorch's fastest path."""
    packed = torch.from_numpy(counter_integers("bench.input_ids", sum(lengths), 0, config.vocab_size))
    pad = config.pad_token_id
    input_ids = torch.nn.utils.rnn.pad_sequence(packed.split(lengths), batch_first=True, padding_value=pad)
    tensors = {"input_ids": input_ids, "labels": torch.arange(len(lengths)) % config.num_labels}
    longest = max(lengths)
    if min(lengths) < longest:
        tensors["attention_mask"] = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    if "roberta" in config.model_type:
        # Left to itself the model derives positions from `input_ids != pad`, but the counter may draw the pad id.
        tensors["position_ids"] = (torch.arange(longest) + pad + 1).expand(len(lengths), longest)
    return tensors


def cycle_inputs(
    batches: list[list[int]], config: transformers.PretrainedConfig, steps: int
) -> Iterator[dict[str, torch.Tensor]]:
    """The input of each of `steps` steps."""
    made = [padded_input(lengths, config) for lengths in batches[:steps]]
    return (made[step % len(made)] for step in range(steps))
