"""The files that a training run writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outputs:
    """Files of one run."""

    folder: Path
    name: str

    @property
    def best(self) -> Path:
        return self.folder / f"{self.name}.pth"

    @property
    def last(self) -> Path:
        return self.folder / f"{self.name}_last.pth"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.csv"

    @property
    def samples(self) -> Path:
        return self.folder / f"{self.name}_samples.png"

    @property
    def curve(self) -> Path:
        return self.folder / f"{self.name}_curve.png"

    @property
    def board(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.folder / f"{self.name}_tensorboard"

    @property
    def all(self) -> list[Path]:
        return [self.best, self.last, self.log, self.samples, self.curve]
