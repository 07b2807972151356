"""What a run says, kept in a file: ``--log-file``, and progress that reads well where no terminal is. Standard library only at import.

A log holds the command, every line that the run printed on standard error, each with its time, and how it ended. No control characters: a bar
that redraws itself on a terminal becomes a line now and then.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

LINE_EVERY_S = 30.0
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
ENDINGS = {0: "done", 3: "not converged,"}  # exit codes that common.cli gives
BAD_INPUT = 2


def add_log_flag(group: Any) -> None:
    group.add_argument("--log_file", "--log-file", metavar="FILE", help="also append messages, progress and how the run ended to FILE, with times")


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
        shown = "".join(c for c in TERMINAL_CODE.sub("", line.rstrip().split("\r")[-1]) if c.isprintable())
        if shown:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {shown}\n")
            self._log.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def recorded(run: Callable[[Sequence[str] | None], int], name: str, say: Callable[[str], None]) -> Callable[[Sequence[str] | None], int]:
    """``run`` with its log file, where the arguments name one, and a last line that says how long it took."""

    def with_log(argv: Sequence[str] | None = None) -> int:
        began = time.monotonic()
        arguments = sys.argv[1:] if argv is None else argv
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_kept(_path_in(arguments), shlex.join([name, *map(str, arguments)])))
            except OSError as error:
                print(f"{name}: {error.filename}: cannot be opened ({error.strerror}); expected a log file to append to; choose another --log_file", file=sys.stderr)
                return BAD_INPUT
            code = run(argv)
            if code in ENDINGS:
                say(f"{name}: {ENDINGS[code]} in {duration(time.monotonic() - began)}")
        return code

    return with_log


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _path_in(arguments: Sequence[str]) -> str | None:
    """The log file that the arguments name; what the parser will refuse anyway counts as none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_log_flag(parser)
    try:
        return parser.parse_known_args(arguments)[0].log_file
    except argparse.ArgumentError:
        return None


@contextlib.contextmanager
def _kept(path: str | None, command: str) -> Iterator[None]:
    """Keep standard error, and the traceback of a bug, in a file. Raises OSError where it cannot be opened."""
    if path is None:
        yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as log, contextlib.redirect_stderr(Kept(sys.stderr, log)) as kept:
        kept.keep(command)
        try:
            yield
        except BaseException:
            for line in traceback.format_exc().splitlines():
                kept.keep(line)
            raise


def bar(items: Any, total: int | None, what: str, unit: str, quiet: bool) -> Any:
    """A tqdm bar on a terminal; elsewhere a plain line every half minute, with the time gone and the time left."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(items, total=total, desc=what, unit=unit, disable=quiet, file=sys.stderr, dynamic_ncols=True, mininterval=0.2)
    return _plain_bar()(items, total=total, desc=what, unit=unit, disable=quiet, file=sys.stderr, mininterval=LINE_EVERY_S, miniters=1)


def _plain_bar() -> type:
    from tqdm import tqdm

    class PlainBar(tqdm):
        """Prints a line instead of drawing."""

        _said = ""

        def display(self, *_: Any, **__: Any) -> None:
            done = self.format_dict
            if not done["n"]:
                return
            share = f"{done['n']}/{done['total']} {self.unit}" if done["total"] else f"{done['n']} {self.unit}"
            left = f", {duration((done['total'] - done['n']) * done['elapsed'] / done['n'])} left" if done["total"] and done["n"] < done["total"] else ""
            line = f"{self.desc}: {share}, {duration(done['elapsed'])}{left}{f', {self.postfix}' if self.postfix else ''}"
            if line != self._said:
                print(line, file=sys.stderr)
            self._said = line

        def close(self) -> None:
            if not self.disable:
                self.display()
            self.leave = False
            super().close()

        def clear(self, *_: Any, **__: Any) -> None:
            """Nothing is drawn, so nothing is to be cleared."""

    return PlainBar
