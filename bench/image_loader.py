#!/usr/bin/env python3
"""Pictures a second that are opened, cut, scaled, mirrored and normalized: Retune's loader beside torchvision's
`DataLoader` with Pillow, each with the same two CPUs and as many workers.

Rounds in turn, each side a process of its own. Both take the whole folder in its order, in random resized crops (35 to
100% of the area) with mirror images, or with `--plain` in the middle of the scaled picture as in evaluation. Scaling
gives the same pixels on both sides (fixtures/images/make_resize.py). Starting workers and listing the folder is
left out.

    cargo build --release -p retune-data --example loader_bench
    python bench/image_loader.py FOLDER
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from machine import BenchmarkError, python, run_json

HERE = Path(__file__).resolve().parent
BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pytorch(arguments: argparse.Namespace) -> None:
    """One measurement of PyTorch's side; prints JSON."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    torch.set_num_threads(1)
    size = arguments.size
    if arguments.plain:
        views = [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size)]
    else:
        views = [transforms.RandomResizedCrop(size, scale=(0.35, 1.0)), transforms.RandomHorizontalFlip()]
    views += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    folder = ImageFolder(arguments.folder, transforms.Compose(views))
    loader = DataLoader(folder, BATCH, num_workers=arguments.workers, persistent_workers=arguments.workers > 0)
    # The first epoch starts the workers.
    for _ in loader:
        pass
    pictures, started = 0, time.perf_counter()
    for _ in range(arguments.epochs):
        for batch, _ in loader:
            pictures += len(batch)
    seconds = time.perf_counter() - started
    print(json.dumps({"pictures": pictures, "seconds": seconds, "pictures_per_second": pictures / seconds}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a folder of pictures with a folder for each class")
    binary = HERE.parent / "target/release/examples/loader_bench"
    parser.add_argument("--loader", type=Path, default=binary, help="the built example loader_bench")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="CPUs that either side may use")
    parser.add_argument("--epochs", type=int, default=2, help="times through the folder in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain", action="store_true", help="as in evaluation, without random views")
    parser.add_argument("--json", type=Path, help="write the summary there as JSON too")
    parser.add_argument("--pytorch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pytorch:
        pytorch(arguments)
        return 0
    shared = ["--size", str(arguments.size), "--workers", str(arguments.workers), "--epochs", str(arguments.epochs)]
    shared += ["--plain"] if arguments.plain else []
    ours, theirs, ratios = [], [], []
    try:
        for _ in range(arguments.rounds):
            first = run_json([str(arguments.loader), arguments.folder, *shared], arguments.threads)
            command = [python(), "-W", "ignore", __file__, arguments.folder, "--pytorch", *shared]
            second = run_json(command, arguments.threads)
            if first["pictures"] != second["pictures"]:
                raise BenchmarkError(f"{first['pictures']} pictures on one side, {second['pictures']} on the other")
            ours.append(first["pictures_per_second"])
            theirs.append(second["pictures_per_second"])
            ratios.append(ours[-1] / theirs[-1])
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    views = "as in evaluation" if arguments.plain else "random views"
    print("| pictures a second | Retune | torchvision | ratio | lowest of the rounds |\n|---|---|---|---|---|")
    cells = [statistics.median(ours), statistics.median(theirs)]
    print(
        f"| {arguments.size} pixels, {views}, {arguments.workers} workers | {cells[0]:.0f} | {cells[1]:.0f} "
        f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} |"
    )
    if arguments.json:
        result = {"retune": ours, "torchvision": theirs, "ratios": ratios, "settings": vars(arguments)}
        arguments.json.write_text(json.dumps(result, indent=2, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
