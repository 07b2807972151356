"""Run commands of this suite one after the other in one process, so that imports are done once.

reads   standard input: one command per line, as a shell would run it, without "python":
        SCRIPT ARGUMENTS [> FILE] [2> LOG | 2>> LOG] [&& SCRIPT ...]
        SCRIPT is relative to this checkout. FILE gets what the command prints and is whole or
        absent; LOG gets its messages (with 2>> after those it has), else they go to standard error.
writes  what the commands write
ends    with the exit code of the first command that failed (not 0, and not 3, a pose that did not
        converge), else with 0. A command that fails stops those after it in its line, and no
        following line.

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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import files
from common.command_line.script import EXIT_BAD_INPUT, EXIT_DONE, EXIT_NOT_CONVERGED
from common.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
BUG = 1  # exit code


@dataclass(frozen=True)
class Command:
    """A script with its arguments, and where its output and its messages go."""

    words: list[str]
    output: Path | None
    log: Path | None
    appends: bool  # to the log


def parse(line: str) -> list[Command]:
    """Return the commands of a line.

    Raises InputError if a redirection names no file, or there is no script.
    """
    commands: list[list[str]] = [[]]
    for word in shlex.split(line):
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return [_command(words, line) for words in commands]


def _command(words: list[str], line: str) -> Command:
    targets: dict[str, Path] = {}
    for mark in ("2>>", "2>", ">"):
        if mark in words:
            place = words.index(mark)
            if place != len(words) - 2:
                raise InputError(None, line, f"one file after {mark}", "correct the command")
            targets[mark] = Path(words[-1])
            words = words[:-2]
    if not words or not (ROOT / words[0]).is_file():
        raise InputError(None, line, "a script of this suite", "correct the command")
    log = targets.get("2>>") or targets.get("2>")
    return Command(words, targets.get(">"), log, "2>>" in targets)


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
    """Run one line up to a command that fails, and return the exit code of the last one run.

    Raises InputError as `parse`, or if a file of it cannot be written.
    """
    for command in parse(line):
        code = execute(command)
        if code != EXIT_DONE:
            break
    return code


def execute(command: Command) -> int:
    """Run one command, write its files, and return its exit code."""
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        if command.log:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            mode = "a" if command.appends else "w"
            log = command.log.open(mode, encoding="utf-8", errors="replace")
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(log)))
        # without FILE, what is printed belongs to the messages
        stack.enter_context(contextlib.redirect_stdout(printed if command.output else sys.stderr))
        code = call(command.words)
    if command.output and code == EXIT_DONE:
        files.write_text(command.output, printed.getvalue())
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
