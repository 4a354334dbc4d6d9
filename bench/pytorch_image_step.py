#!/usr/bin/env python3
"""Times PyTorch's training step on pictures at its best in eager mode: the counterpart of `retune bench --image-size`.

Everything trains, or the last layer alone (the others then in evaluation mode); channels-last, fused SGD with momentum.
The step is forward, backward and optimizer.

    python bench/pytorch_image_step.py --architecture resnet50 --weights FILE --batch-size 8 --image-size 224 --json
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
import torchvision

from shared_input import peak_rss_bytes, process_age_seconds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures"))
from counter import counter_uniform


def pictures(batch: int, size: int) -> torch.Tensor:
    """The batch of `retune bench`: values in [-1, 1), counted over [batch, height, width, channel]."""
    values = 2.0 * counter_uniform("bench.pixels", batch * size * size * 3) - 1.0
    x = torch.from_numpy(values).reshape(batch, size, size, 3).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def loss_of(outputs: object, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy; that of an auxiliary head that trains counts 0.4 times."""
    if isinstance(outputs, torch.Tensor):
        return torch.nn.functional.cross_entropy(outputs, targets)
    return loss_of(outputs.logits, targets) + 0.4 * loss_of(outputs.aux_logits, targets)


def last_layer(model: torch.nn.Module) -> torch.nn.Module:
    """The layer that makes the logits."""
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", required=True, help="torchvision's name")
    parser.add_argument("--weights", type=Path, required=True, help="a state dictionary")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="bf16 is autocast")
    parser.add_argument("--train", choices=("all", "head"), default="all", help="what trains")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model (the first step pays for it)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    state = torch.load(arguments.weights)
    model = torchvision.models.get_model(arguments.architecture, weights=None)
    model.load_state_dict(state)
    model = model.to(memory_format=torch.channels_last)
    x = pictures(arguments.batch_size, arguments.image_size)
    targets = torch.arange(arguments.batch_size)
    trained = last_layer(model) if arguments.train == "head" else model
    model.requires_grad_(False)
    trained.requires_grad_(True)
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    ready_seconds = process_age_seconds()
    with torch.inference_mode():
        initial_eval_loss = loss_of(model.eval()(x), targets).item()

    trained.train()
    step_model = torch.compile(model) if arguments.compile else model
    cast = torch.autocast("cpu", torch.bfloat16) if arguments.precision == "bf16" else contextlib.nullcontext()
    losses, seconds = [], []
    for _ in range(arguments.steps):
        started = time.perf_counter()
        with cast:
            loss = loss_of(step_model(x), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    median = statistics.median(seconds[1:] or seconds)
    result = {
        "engine": f"PyTorch {torch.__version__}",
        "model": arguments.architecture,
        "batch_size": arguments.batch_size,
        "image_size": arguments.image_size,
        "precision": arguments.precision,
        "threads": arguments.threads,
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
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
