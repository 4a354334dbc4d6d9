#!/usr/bin/env python3
"""Times PyTorch's training step at its best in eager mode: the counterpart of `retune bench`.

Everything trains unless `--train` freezes a part (which then runs in evaluation mode), dropout as configured, fused
AdamW, scaled-dot-product attention, no mask where nothing is padded. The step is forward, backward and optimizer;
making the batch is not in it.

    python bench/pytorch_step.py --model DIR --batch-size 16 --length 128 --precision f32 --steps 10 --json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForSequenceClassification

from shared_input import batches_of_lengths, cycle_inputs, group_by_length, peak_rss_bytes, process_age_seconds


def load_model(path: Path) -> transformers.PreTrainedModel:
    """A checkpoint folder's weights, or random ones for a configuration file; two labels if it does not say."""
    options = {"attn_implementation": "sdpa"}
    if path.is_file():
        return AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(path), **options)
    return AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32, **options)


def freeze(model: transformers.PreTrainedModel, train: str) -> list[torch.nn.Module]:
    """The modules that do not train, switched off: with `head` embeddings and all blocks, with `last:N` all but N."""
    if train == "all":
        return []
    layers = list(model.base_model.encoder.layer)
    blocks = 0 if train == "head" else int(train.removeprefix("last:"))
    frozen = [model.base_model.embeddings, *layers[: len(layers) - blocks]]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder, or a config.json file")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128, help="tokens of every sequence")
    parser.add_argument("--lengths", type=Path, help="JSON array of sequence lengths, instead of --length")
    parser.add_argument("--group-by-length", action="store_true", help="batch sequences of similar length together")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="bf16 is autocast")
    parser.add_argument("--train", default="all", help="what trains: all, head, or last:N (BERT and RoBERTa)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model (the first step pays for it)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(0)
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.model)
    batches = batches_of_lengths(arguments.lengths, arguments.batch_size, arguments.length)
    if arguments.group_by_length:
        batches = group_by_length(batches)
    inputs = cycle_inputs(batches, model.config, arguments.steps)
    frozen = freeze(model, arguments.train)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=5e-5, weight_decay=0.01, fused=True)
    ready_seconds = process_age_seconds()

    with torch.inference_mode():
        first = next(cycle_inputs(batches, model.config, 1))
        initial_eval_loss = model.eval()(**first).loss.item()

    model.train()
    for module in frozen:
        module.eval()
    step_model = torch.compile(model) if arguments.compile else model
    cast = torch.autocast("cpu", torch.bfloat16) if arguments.precision == "bf16" else contextlib.nullcontext()
    losses, seconds = [], []
    for tensors in inputs:
        started = time.perf_counter()
        with cast:
            loss = step_model(**tensors).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())

    median = statistics.median(seconds)
    result = {
        "engine": f"PyTorch {torch.__version__}",
        "model": str(arguments.model),
        "batch_size": arguments.batch_size,
        "length": None if arguments.lengths else arguments.length,
        "precision": arguments.precision,
        "threads": arguments.threads,
        "parameters": sum(parameter.numel() for parameter in trainable),
        "startup_seconds": ready_seconds,
        "initial_eval_loss": initial_eval_loss,
        "losses": losses,
        "step_seconds": seconds,
        "median_step_seconds": median,
        "samples_per_second": arguments.batch_size / median,
        "peak_rss_bytes": peak_rss_bytes(),
    }
    if arguments.json:
        json.dump(result, sys.stdout)
        print()
    else:
        print(f"{result['engine']}: {median:.3f} s a step, {result['samples_per_second']:.1f} samples/s, ", end="")
        print(f"{result['peak_rss_bytes'] / 2**20:.0f} MiB, loss {initial_eval_loss:.5f} before the first step")


if __name__ == "__main__":
    main()
