"""Messages and progress of a run on standard error, and in the file of ``--log_file``.

They are the records of the logger "common". A log file has the command, every line printed on
standard error with its time, and the end of the run. It has no control characters: a progress bar,
which is redrawn on a terminal, becomes an occasional line.
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
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, TextIO

from common.errors import printable
from common.progress import PROGRESS, Progress

LINE_EVERY_S = 30.0
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
SETTING = re.compile(r"`([a-z_0-9]+)`")


class Messages(logging.Handler):
    """Handler that prints records on standard error.

    Messages are lines; progress is a bar or, without a terminal, an occasional line. ``flags`` are
    the names of the script's flags: a setting of that name in backticks is shown as its flag.
    """

    def __init__(self, flags: frozenset[str]):
        super().__init__(PROGRESS)
        self._flags = flags
        self._bars: dict[int, Any] = {}
        # by track: seconds of work when its last line was printed
        self._said: dict[int, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        state = getattr(record, "progress", None)
        if isinstance(state, Progress):
            self._draw(state) if sys.stderr.isatty() else self._say(state)
            return
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(prefix + self.readable(record.getMessage()), file=sys.stderr)

    def readable(self, text: str) -> str:
        """Return the text as one line of printable characters, with flags instead of settings."""
        return printable(with_flags(text, self._flags))

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


def with_flags(text: str, flags: frozenset[str]) -> str:
    """Return the text with each setting in backticks as its flag, if it is one of ``flags``."""

    def flag(found: re.Match[str]) -> str:
        return f"--{found[1]}" if found[1] in flags else found[0]

    return SETTING.sub(flag, text)


def progress_line(state: Progress) -> str:
    """Return the progress in words: steps, time spent, time left."""
    steps = f"{state.done}/{state.total}" if state.total else f"{state.done}"
    parts = [f"{state.what}: {steps} {state.unit}", duration(state.seconds)]
    if state.total and state.done < state.total:
        seconds = (state.total - state.done) * state.seconds / state.done
        parts.append(f"{duration(seconds)} left")
    if state.about:
        parts.append(state.about)
    return ", ".join(parts)


@contextlib.contextmanager
def messages(flags: frozenset[str]) -> Generator[Messages, None, None]:
    """Print the records of the logger "common" while the context lasts."""
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
    """Return a duration in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# ----------------------------------------------------------------------------------------- log file


def add_log_flag(group: argparse._ActionsContainer) -> None:
    """Add --log_file."""
    group.add_argument(
        "--log_file",
        "--log-file",
        metavar="FILE",
        help="file to which messages, progress and the end of the run are appended, with times",
    )


class Kept:
    """A stream that forwards everything and writes complete lines to a log.

    Of a line that was redrawn (carriage return), the last version is written.
    """

    def __init__(self, stream: TextIO, log: TextIO):
        self._stream, self._log, self._line = stream, log, ""

    def write(self, text: str) -> int:
        """Forward the text, and write the lines that it completes to the log."""
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            self.keep(line)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def keep(self, line: str) -> None:
        """Write a line to the log, with the time."""
        last = TERMINAL_CODE.sub("", line.rstrip().split("\r")[-1])
        shown = "".join(c for c in last if c.isprintable())
        if shown:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {shown}\n")
            self._log.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def log_file_of(arguments: Sequence[str]) -> str | None:
    """Return the log file in the arguments; None if there is none or the arguments are invalid."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_log_flag(parser)
    try:
        return parser.parse_known_args(arguments)[0].log_file
    except argparse.ArgumentError:
        return None


@contextlib.contextmanager
def kept(path: str | None, name: str, arguments: Sequence[str]) -> Generator[None, None, None]:
    """Write standard error, and the traceback of a bug, to the log file ``path``.

    Raises OSError if the file cannot be opened.
    """
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
