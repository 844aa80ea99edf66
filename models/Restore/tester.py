"""Evaluation of restoration networks: PSNR and SSIM of RGB beside the degraded images' own.

`RestoreTester`.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from torch import nn

from models.restoration.tester import RestorationTester
from models.Restore.solver import other_degradation


class RestoreTester(RestorationTester):
    """Measures a restoration checkpoint by PSNR (dB) and SSIM of RGB."""

    @property
    def results(self) -> Path:
        """See `TestedApplication`; for another degradation than that of training a folder there."""
        other = other_degradation(self.config, self.checkpoint)
        return super().results if other is None else super().results / folder_name(other)

    def details(self, model: nn.Module) -> dict[str, Any]:
        """What was done to the images, and what was done to those of the training."""
        trained = self.checkpoint["options"].get("degradation")
        return {"degradation": self.measured_on().get("degradation"), "trained_with": trained}


def folder_name(text: str) -> str:
    """`blur:1+noise:5` -> `blur-1+noise-5`; with a checksum where characters had to go, as those of a path."""
    plain = re.sub(r"[^\w.+-]", "_", text.replace(":", "-"), flags=re.ASCII)[-80:]
    if plain == text.replace(":", "-"):
        return plain
    return f"{plain.lstrip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
