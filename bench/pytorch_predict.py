#!/usr/bin/env python3
"""Predicts a CSV of texts with PyTorch + transformers: the counterpart of `retune predict --logits`.

Inference mode, fast tokenizer, scaled-dot-product attention, batches padded to their longest text. Writes JSON Lines.

    python bench/pytorch_predict.py --model DIR --data texts.csv --output out.jsonl
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from shared_input import peak_rss_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder with tokenizer files")
    parser.add_argument("--data", type=Path, required=True, help="CSV with a column `text`")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--group-by-length", action="store_true", help="sort by length first (output order kept)")
    arguments = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, attn_implementation="sdpa").eval()
    with arguments.data.open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]

    encoded = tokenizer(texts, truncation=True, max_length=arguments.max_length)["input_ids"]
    order = range(len(texts))
    if arguments.group_by_length:
        order = sorted(order, key=lambda row: len(encoded[row]), reverse=True)
    scores: list[list[float]] = [[]] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(texts), arguments.batch_size):
            rows = order[start : start + arguments.batch_size]
            batch = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt")
            if batch["attention_mask"].all():
                del batch["attention_mask"]
            for row, logits in zip(rows, model(**batch).logits.tolist(), strict=True):
                scores[row] = logits

    names = model.config.id2label
    with arguments.output.open("w", encoding="utf-8") as file:
        for text, logits in zip(texts, scores, strict=True):
            probabilities = torch.tensor(logits).softmax(0).tolist()
            best = max(range(len(logits)), key=logits.__getitem__)
            row = {
                "text": text,
                "label": names[best],
                "score": probabilities[best],
                "scores": {names[index]: value for index, value in enumerate(probabilities)},
                "logits": logits,
            }
            file.write(json.dumps(row) + "\n")
    print(json.dumps({"samples": len(texts), "peak_rss_bytes": peak_rss_bytes()}))


if __name__ == "__main__":
    main()
