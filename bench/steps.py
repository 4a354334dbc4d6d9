"""The training steps that are measured: models, shapes, and the bars that the project set itself."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from checkpoints import ensure_checkpoint, ensure_image_weights
from machine import python

HERE = Path(__file__).resolve().parent
LENGTHS = HERE / "sst2_lengths.json"


@dataclass(frozen=True)
class StepRow:
    """One training-step comparison; `target` is the ratio that the project set itself."""

    label: str
    model: str
    batch_size: int
    length: int | None
    target: float

    def shape_arguments(self) -> list[str]:
        shape = ["--lengths", str(LENGTHS)] if self.length is None else ["--length", str(self.length)]
        return ["--batch-size", str(self.batch_size), *shape]

    def steps(self, steps: int) -> int:
        """Mixed lengths take every batch of the file once, after the step that does not count."""
        return steps if self.length is not None else len(json.loads(LENGTHS.read_text())) // self.batch_size + 1

    def same_batch(self) -> bool:
        """Whether every step computes on the same input."""
        return self.length is not None

    def commands(self, arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
        """PyTorch's command and Retune's, but for what the measurement adds."""
        folder = str(ensure_checkpoint(self.model, arguments.cache))
        pytorch = [python(), "-W", "ignore", str(HERE / "pytorch_step.py"), "--model", folder]
        retune = [str(arguments.retune), "bench", folder]
        return [*pytorch, *self.shape_arguments()], [*retune, *self.shape_arguments()]


@dataclass(frozen=True)
class ImageStepRow:
    """One training-step comparison on square pictures."""

    label: str
    model: str
    batch_size: int
    image_size: int
    target: float

    def steps(self, steps: int) -> int:
        """As many as were asked for."""
        return steps

    def same_batch(self) -> bool:
        """Every step computes on the same pictures."""
        return True

    def commands(self, arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
        """PyTorch's command and Retune's, but for what the measurement adds."""
        weights = str(ensure_image_weights(self.model, arguments.cache))
        shape = ["--architecture", self.model, "--batch-size", str(self.batch_size)]
        shape += ["--image-size", str(self.image_size)]
        pytorch = [python(), "-W", "ignore", str(HERE / "pytorch_image_step.py"), "--weights", weights, *shape]
        return pytorch, [str(arguments.retune), "bench", weights, *shape]


STEP_ROWS = (
    StepRow("MiniLM 16x128", "minilm", 16, 128, 1.4),
    StepRow("DistilBERT 16x128", "distilbert-base-uncased", 16, 128, 1.4),
    StepRow("BERT-base 8x128", "bert-base-uncased", 8, 128, 1.15),
    StepRow("RoBERTa-base 8x128", "roberta-base", 8, 128, 1.15),
    StepRow("MiniLM, SST-2 lengths, batch 32", "minilm", 32, None, 2.0),
    StepRow("BERT-base, SST-2 lengths, batch 32", "bert-base-uncased", 32, None, 2.0),
)

IMAGE_STEP_ROWS = (
    ImageStepRow("ResNet-50 8x224", "resnet50", 8, 224, 1.1),
    ImageStepRow("ResNet-18 16x224", "resnet18", 16, 224, 1.3),
    ImageStepRow("VGG-16 4x224", "vgg16", 4, 224, 1.4),
    ImageStepRow("EfficientNet-B0 8x224", "efficientnet_b0", 8, 224, 1.3),
    ImageStepRow("MobileNetV2 16x224", "mobilenet_v2", 16, 224, 1.3),
    ImageStepRow("Inception-v3 4x299", "inception_v3", 4, 299, 1.0),
)
