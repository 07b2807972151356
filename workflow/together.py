"""Run commands of this suite one after the other in one process, so that imports are done once.

reads   standard input: one command per line, as a shell would run it, without "python":
        SCRIPT ARGUMENTS [> FILE] [2> LOG]
        SCRIPT is relative to this checkout. FILE gets what the command prints and is whole or
        absent; LOG gets its messages, else they go to standard error.
writes  what the commands write
ends    with the exit code of the first command that failed (not 0, and not 3, a pose that did not
        converge), else with 0. A command that fails does not stop the following ones.

example
  printf '%s\n' 'read_pt.py a.pt > a.txt' 'read_pt.py b.pt > b.txt' | python workflow/together.py
"""

from __future__ import annotations

import contextlib
import importlib
import io
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line.script import EXIT_BAD_INPUT, EXIT_DONE, EXIT_NOT_CONVERGED
from common.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
BUG = 1  # exit code


def parse(line: str) -> tuple[list[str], Path | None, Path | None]:
    """Return the words of a command, and the files for its output and its messages.

    Raises InputError if a redirection names no file, or there is no script.
    """
    words = shlex.split(line)
    targets: dict[str, Path] = {}
    for mark in ("2>", ">"):
        if mark in words:
            place = words.index(mark)
            if place != len(words) - 2:
                raise InputError(None, line, f"one file after {mark}", "correct the command")
            targets[mark] = Path(words[-1])
            words = words[:-2]
    if not words or not (ROOT / words[0]).is_file():
        raise InputError(None, line, "a script of this suite", "correct the command")
    return words, targets.get(">"), targets.get("2>")


def call(words: Sequence[str]) -> int:
    """Run a script in this process, and return its exit code; a bug prints its traceback."""
    try:
        module = importlib.import_module(".".join(Path(words[0]).with_suffix("").parts))
        return int(module.main(list(words[1:])))
    except SystemExit as end:  # --help
        return end.code if isinstance(end.code, int) else BUG
    except Exception:
        traceback.print_exc()
        return BUG


def run(line: str) -> int:
    """Run one line, and return its exit code. Raises InputError as `parse`, or if a file of it
    cannot be written.
    """
    words, output, log = parse(line)
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(log.open("w", encoding="utf-8", errors="replace"))
            stack.enter_context(contextlib.redirect_stderr(stream))
        # without FILE, what is printed belongs to the messages
        stack.enter_context(contextlib.redirect_stdout(printed if output else sys.stderr))
        code = call(words)
    if output and code == EXIT_DONE:
        files.write_text(output, printed.getvalue())
    return code


def main() -> int:
    first = EXIT_DONE
    for line in filter(str.strip, sys.stdin.read().splitlines()):
        try:
            code = run(line)
        except InputError as error:
            print(f"{Path(__file__).name}: {error}", file=sys.stderr)
            code = EXIT_BAD_INPUT
        if first == EXIT_DONE and code != EXIT_NOT_CONVERGED:
            first = code
    return first


if __name__ == "__main__":
    sys.exit(main())
