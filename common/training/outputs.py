"""Names of the files that a training run writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Outputs:
    """Files of one training run in ``folder``."""

    folder: Path
    name: str

    @property
    def best(self) -> Path:
        """The checkpoint that was best on held-out images."""
        return self.folder / f"{self.name}.pth"

    @property
    def last(self) -> Path:
        """The last checkpoint, to resume from."""
        return self.folder / f"{self.name}_last.pth"

    @property
    def log(self) -> Path:
        """Metrics, one row per validation (CSV)."""
        return self.folder / f"{self.name}.csv"

    @property
    def samples(self) -> Path:
        """A sheet of input images of the network (PNG)."""
        return self.folder / f"{self.name}_samples.png"

    @property
    def curve(self) -> Path:
        """The learning curve (PNG)."""
        return self.folder / f"{self.name}_curve.png"

    @property
    def board(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.folder / f"{self.name}_tensorboard"

    @property
    def all(self) -> list[Path]:
        """Every file, without the folder `board`."""
        return [self.best, self.last, self.log, self.samples, self.curve]
