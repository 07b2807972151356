"""Metrics of a run, one row per validation: in words, as CSV, and for other programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError, one_line
from common.files import write_text

Row = dict[str, float]
EVENTS = "events.out.tfevents.*"


def write_csv(path: Path, history: Sequence[Row]) -> None:
    """The history as CSV, one row per validation."""
    lines = [
        ",".join(history[0]),
        *(
            ",".join(
                f"{value:.6g}" if isinstance(value, float) else str(value) for value in row.values()
            )
            for row in history
        ),
    ]
    write_text(path, "\n".join(lines) + "\n")


def current(losses: Sequence[float], history: Sequence[Row]) -> str:
    """The loss of recent batches and the errors of the last validation, in words."""
    text = f"loss {np.mean(losses[-20:]):.1f} mm" if losses else ""
    if history:
        last = history[-1]
        text += (
            f"  held out: {last['mtre_mm_median']:.1f} mm, in plane"
            f" {last['in_plane_mm_median']:.1f}, depth {last['depth_mm_median']:.1f},"
            f" {last['rotation_deg_median']:.1f}°"
        )
    return text


def best(history: Sequence[Row]) -> str:
    """The errors of the best validation, in words."""
    row = min(history, key=lambda row: row["mtre_mm_median"])
    return (
        f"{row['pictures']} images in {row['seconds'] / 60:.1f} min; held out, median (90th"
        f" percentile): {row['mtre_mm_median']:.1f} ({row['mtre_mm_p90']:.1f}) mm mTRE,"
        f" {row['in_plane_mm_median']:.1f} ({row['in_plane_mm_p90']:.1f}) mm in plane,"
        f" {row['depth_mm_median']:.1f} ({row['depth_mm_p90']:.1f}) mm depth,"
        f" {row['rotation_deg_median']:.1f} ({row['rotation_deg_p90']:.1f})°;"
        f" {100 * row['share_within_reach']:.0f} % within reach of refinement"
    )


@contextlib.contextmanager
def metrics_writer(
    folder: Path, fresh: bool, wandb: Callable[[], AbstractContextManager[Any]] | None
) -> Generator[Callable[[Row], None]]:
    """Yield a function that writes a row to TensorBoard and, if given, to Weights & Biases.

    ``fresh`` removes the event files of an earlier run from ``folder``; a resumed run adds to them.
    ``wandb`` starts a run of Weights & Biases, see `wandb_starter`.
    """
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob(EVENTS) if fresh else ():
        old.unlink()
    with contextlib.ExitStack() as stack:
        board = stack.enter_context(contextlib.closing(SummaryWriter(str(folder))))
        run = stack.enter_context(wandb()) if wandb else None

        def write(row: Row) -> None:
            figures = {name: value for name, value in row.items() if name != "iteration"}
            step = int(row["iteration"])
            for name, value in figures.items():
                board.add_scalar(name, value, step)
            board.flush()
            if run:
                run.log(figures, step=step)

        yield write


def wandb_starter(
    project: str, name: str, config: dict[str, Any], folder: Path
) -> Callable[[], AbstractContextManager[Any]]:
    """A function that starts a run of Weights & Biases: a context manager with ``log``.

    Raises InputError if the package is missing; the function raises it if the service rejects the
    run.
    """
    try:
        import wandb
    except ImportError:
        raise InputError(
            "`wandb`",
            "the package wandb is not installed",
            "the package, to report to Weights & Biases",
            "pip install wandb, or drop `wandb`",
        ) from None

    def start() -> AbstractContextManager[Any]:
        try:
            return wandb.init(project=project, name=name, config=config, dir=str(folder))
        except wandb.Error as error:
            raise InputError(
                f"`wandb` {project}",
                f"Weights & Biases rejected the run ({one_line(error)})",
                "an account",
                "run wandb login, set WANDB_MODE=offline, or drop `wandb`",
            ) from None

    return start
