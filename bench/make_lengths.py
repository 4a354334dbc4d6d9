#!/usr/bin/env python3
"""Writes the token lengths of shuffled SST-2 sentences: the input of the benchmark's mixed-length rows.

python bench/make_lengths.py --data stsa.binary.train --tokenizer MINILM_DIR > bench/sst2_lengths.json
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tokenizers import Tokenizer

from checkpoints import read_sst2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a stsa.binary.* file")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--count", type=int, default=512)
    arguments = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    sentences = read_sst2(arguments.data)
    random.Random(0).shuffle(sentences)
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(sentences[: arguments.count])]
    print(json.dumps(lengths))


if __name__ == "__main__":
    main()
