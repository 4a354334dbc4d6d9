"""Makes, once, the random checkpoints and the data files that the benchmark runs on, outside the repository."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fixtures" / "models"))
from configs import random_checkpoint

COMMON_WORDS = tuple(
    "the of and a in was he his it with for on that film not very good but too long".split()  # noqa: SIM905
)
LABELS = ("first", "second")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def ensure_checkpoint(name: str, cache: Path, tokenizer: Path | None = None) -> Path:
    """The folder of a random two-label checkpoint of `fixtures/models/configs.py`; with tokenizer files if given."""
    folder = cache / name
    if not (folder / "model.safetensors").exists():
        random_checkpoint(name, num_labels=2, seed=0).save_pretrained(folder)
    for file in TOKENIZER_FILES if tokenizer else ():
        if (tokenizer / file).exists() and not (folder / file).exists():
            shutil.copy(tokenizer / file, folder / file)
    return folder


def ensure_image_weights(name: str, cache: Path) -> Path:
    """A state dictionary of a torchvision network with random weights."""
    file = cache / f"{name}.pth"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(torchvision.models.get_model(name, weights=None).state_dict(), file)
    return file


def write_labelled_texts(path: Path, texts: list[str]) -> Path:
    """A CSV with the columns `text` and `label`, two labels in turn."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, LABELS[row % len(LABELS)]] for row, text in enumerate(texts))
    return path


def write_pictures(folder: Path, count: int) -> Path:
    """JPEG files of noise in a folder for each of two labels, larger than a network's input as photographs are."""
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / "pictures" / LABELS[index % len(LABELS)] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path)
    return folder / "pictures"


def read_sst2(path: Path) -> list[str]:
    """The sentences of a `stsa.binary.*` file: a label, a space, the sentence."""
    return [line.split(" ", 1)[1] for line in path.read_text(encoding="utf-8").splitlines() if " " in line]


def equal_length_texts(count: int, length: int, tokenizer: Path) -> list[str]:
    """`count` different texts of exactly `length` tokens, the two special ones included."""
    encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    encode.no_padding()
    encode.no_truncation()
    texts = [
        " ".join(COMMON_WORDS[(row + place * (row + 1)) % len(COMMON_WORDS)] for place in range(length - 2))
        for row in range(count)
    ]
    lengths = {len(encoding.ids) for encoding in encode.encode_batch(texts)}
    if lengths != {length}:
        raise SystemExit(f"{tokenizer}: a common word is not one token here; got lengths {sorted(lengths)}")
    return texts


def write_texts(path: Path, texts: list[str]) -> Path:
    """A CSV with the one column `text`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([text] for text in texts)
    return path
