"""What a run prints, and keeps in a file: messages and progress of the logger "common", and ``--log_file``.

A log file holds the command, every line that the run printed on standard error, each with its time, and how it ended. It has no control characters: a
bar that redraws itself on a terminal becomes an occasional line.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from common.errors import printable
from common.progress import PROGRESS, Progress

LINE_EVERY_S = 30.0
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
SETTING = re.compile(r"`([a-z_0-9]+)`")


class Messages(logging.Handler):
    """Shows the logger's records on standard error: messages as lines, progress as a bar or, without a terminal, as an occasional line.

    ``flags`` are the names of the script's settings: a setting in backticks is shown as its flag.
    """

    def __init__(self, flags: frozenset[str]):
        super().__init__(PROGRESS)
        self._flags = flags
        self._bars: dict[int, Any] = {}
        self._said: dict[int, float] = {}  # when a line of a track was printed last

    def emit(self, record: logging.LogRecord) -> None:
        state = getattr(record, "progress", None)
        if isinstance(state, Progress):
            self._draw(state) if sys.stderr.isatty() else self._say(state)
            return
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(prefix + self.readable(record.getMessage()), file=sys.stderr)

    def readable(self, text: str) -> str:
        """One line of printable characters, with flags in the place of settings."""
        return printable(
            SETTING.sub(
                lambda found: f"--{found[1]}" if found[1] in self._flags else found[0], text
            )
        )

    def _draw(self, state: Progress) -> None:
        from tqdm import tqdm

        if state.track not in self._bars:
            self._bars[state.track] = tqdm(
                total=state.total,
                desc=state.what,
                unit=state.unit,
                file=sys.stderr,
                dynamic_ncols=True,
                mininterval=0.2,
            )
        bar = self._bars[state.track]
        bar.set_postfix_str(state.about, refresh=False)
        bar.update(state.done - bar.n)
        if state.finished:
            self._bars.pop(state.track).close()

    def _say(self, state: Progress) -> None:
        last = self._said.setdefault(state.track, 0.0)
        if state.finished:
            del self._said[state.track]
        if state.done and (state.finished or state.seconds - last >= LINE_EVERY_S):
            print(progress_line(state), file=sys.stderr)
            if not state.finished:
                self._said[state.track] = state.seconds


def progress_line(state: Progress) -> str:
    """How far a piece of work is, in words: steps, time spent, time left."""
    share = (
        f"{state.done}/{state.total} {state.unit}" if state.total else f"{state.done} {state.unit}"
    )
    left = ""
    if state.total and state.done < state.total:
        left = f", {duration((state.total - state.done) * state.seconds / state.done)} left"
    return (
        f"{state.what}: {share},"
        f" {duration(state.seconds)}{left}{f', {state.about}' if state.about else ''}"
    )


@contextlib.contextmanager
def messages(flags: frozenset[str]) -> Iterator[Messages]:
    """Show what the logger "common" says, for as long as the context lasts."""
    logger, handler = logging.getLogger("common"), Messages(flags)
    level = logger.level
    logger.setLevel(PROGRESS)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# ------------------------------------------------------------------------------------------------ log file


def add_log_flag(group: Any) -> None:
    group.add_argument(
        "--log_file",
        "--log-file",
        metavar="FILE",
        help="also append messages, progress and how the run ended to FILE, with times",
    )


class Kept:
    """A stream that passes everything on and keeps whole lines; a line that was redrawn (carriage return) is kept as it last stood."""

    def __init__(self, stream: TextIO, log: TextIO):
        self._stream, self._log, self._line = stream, log, ""

    def write(self, text: str) -> int:
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            self.keep(line)
        return self._stream.write(text)

    def keep(self, line: str) -> None:
        shown = "".join(
            c for c in TERMINAL_CODE.sub("", line.rstrip().split("\r")[-1]) if c.isprintable()
        )
        if shown:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {shown}\n")
            self._log.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def log_file_of(arguments: Sequence[str]) -> str | None:
    """The log file that the arguments name; None where the parser will refuse them anyway."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_log_flag(parser)
    try:
        return parser.parse_known_args(arguments)[0].log_file
    except argparse.ArgumentError:
        return None


@contextlib.contextmanager
def kept(path: str | None, name: str, arguments: Sequence[str]) -> Iterator[None]:
    """Keep standard error, and the traceback of a bug, in a file. Raises OSError where it cannot be opened."""
    if path is None:
        yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "a", encoding="utf-8") as log,
        contextlib.redirect_stderr(Kept(sys.stderr, log)) as stream,
    ):
        stream.keep(shlex.join([name, *map(str, arguments)]))
        try:
            yield
        except BaseException:
            for line in traceback.format_exc().splitlines():
                stream.keep(line)
            raise
