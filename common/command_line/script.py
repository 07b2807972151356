"""The frame of every script: parser, error lines, exit codes, messages, locks of its outputs.

Only the standard library is imported with it, so that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from common.command_line import log
from common.errors import InputError, as_input_error
from common.files import locks

# 1 is Python's own, of a bug with its traceback
EXIT_DONE = 0
# also if disk, memory or permission is missing
EXIT_BAD_INPUT = 2
EXIT_NOT_CONVERGED = 3
EXIT_INTERRUPTED = 130
ENDINGS = {EXIT_DONE: "done", EXIT_NOT_CONVERGED: "not converged,"}

logger = logging.getLogger("common.script")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(None, message, "the arguments that --help lists", "correct the command")

    @property
    def settings(self) -> frozenset[str]:
        """Names of the flags, without dashes."""
        return frozenset(
            flag[2:]
            for action in self._actions
            for flag in action.option_strings
            if flag.startswith("--")
        )


class Main(Protocol):
    """Entry point of a script: returns its exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def build_parser(doc: str | None) -> Parser:
    """Return a parser with the script's docstring as help text and the flags of all scripts."""
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    suite = parser.add_argument_group("common to all scripts")
    suite.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    suite.add_argument(
        "--quiet",
        action="store_true",
        help="show warnings and results only, without progress and notes",
    )
    log.add_log_flag(suite)
    suite.add_argument(
        "--debug", action="store_true", help="show the traceback of an expected error"
    )
    return parser


def script(
    run: Callable[[argparse.Namespace], int | None], make_parser: Callable[[], Parser]
) -> Main:
    """Turn ``run(args)`` into a `Main` with messages, error lines and exit codes.

    ``run`` returns an exit code, or None for success.
    """

    @functools.wraps(run)
    def main(argv: Sequence[str] | None = None) -> int:
        began = time.monotonic()
        name = Path(sys.modules[run.__module__].__file__ or run.__module__).name
        arguments = sys.argv[1:] if argv is None else argv
        if isinstance(sys.stdout, io.TextIOWrapper):
            # paths are printed as given, even if they are not valid text
            sys.stdout.reconfigure(errors="surrogateescape")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(log.kept(log.log_file_of(arguments), name, arguments))
            except OSError as error:
                found = f"cannot be opened ({error.strerror})"
                refused = InputError(
                    error.filename, found, "a log file to append to", "choose another --log_file"
                )
                print(f"{name}: {refused}", file=sys.stderr)
                return EXIT_BAD_INPUT
            parser = _completed(make_parser())
            messages = stack.enter_context(log.messages(parser.settings))
            code = _run(run, parser, arguments, name, messages)
            if code in ENDINGS:
                logger.info(f"{name}: {ENDINGS[code]} in {log.duration(time.monotonic() - began)}")
            return code

    return main


def _run(
    run: Callable[[argparse.Namespace], int | None],
    parser: Parser,
    arguments: Sequence[str],
    name: str,
    messages: log.Messages,
) -> int:
    """Run the script and return its exit code; expected errors are printed."""
    try:
        args = parser.parse_args(arguments)
        if args.quiet:
            messages.setLevel(logging.WARNING)
        with locks.claiming():
            code = run(args) or EXIT_DONE
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # standard output was closed by its reader; exit quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as error:
        expected = as_input_error(error)
        if expected is None or "--debug" in arguments:
            raise
        for each in getattr(expected, "errors", [expected]):
            print(messages.readable(f"{name}: {each}"), file=sys.stderr)
        return EXIT_BAD_INPUT


def _completed(parser: Parser) -> Parser:
    """Return the parser; if a shell asks for completions, print them and end the process."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser
