"""Where else a run's figures go: TensorBoard's event files beside the model, and Weights & Biases for who asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError, one_line

Row = dict[str, float]
EVENTS = "events.out.tfevents.*"


@contextlib.contextmanager
def opened(
    folder: Path, fresh: bool, wandb: Callable[[], Any] | None
) -> Iterator[Callable[[Row], None]]:
    """Yields what takes a validation's row: iteration, loss and held-out errors.

    ``fresh`` removes the event files of a run before in ``folder``; a resumed run adds to them. ``wandb`` starts a Weights & Biases run.
    """
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob(EVENTS) if fresh else ():
        old.unlink()
    with contextlib.ExitStack() as stack:
        board = stack.enter_context(contextlib.closing(SummaryWriter(str(folder))))
        run = stack.enter_context(wandb()) if wandb else None

        def write(row: Row) -> None:
            figures = {name: value for name, value in row.items() if name != "iteration"}
            for name, value in figures.items():
                board.add_scalar(name, value, row["iteration"])
            board.flush()
            if run:
                run.log(figures, step=row["iteration"])

        yield write


def wandb_starter(
    project: str, name: str, config: dict[str, Any], folder: Path
) -> Callable[[], Any]:
    """Starts a run of Weights & Biases, a context manager with ``log``. Raises InputError where the package is missing, the start where it refuses."""
    try:
        import wandb
    except ImportError:
        raise InputError(
            "`wandb`",
            "the package wandb is not installed",
            "it for Weights & Biases",
            "pip install wandb, or drop `wandb`",
        ) from None

    def start():
        try:
            return wandb.init(project=project, name=name, config=config, dir=str(folder))
        except wandb.Error as error:
            raise InputError(
                f"`wandb` {project}",
                f"Weights & Biases refused ({one_line(error)})",
                "an account",
                "wandb login, or set WANDB_MODE=offline, or drop `wandb`",
            ) from None

    return start
