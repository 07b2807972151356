"""What every script shares at its edges: parser, errors, exit codes, output files, progress.

Standard library only, so that ``--help`` answers at once.

Exit codes: 0 done, 1 a bug (traceback), 2 bad input (one line), 3 the result did not converge, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from common import runlog

EXIT_BAD_INPUT = 2
EXIT_NOT_CONVERGED = 3
EXIT_INTERRUPTED = 130

_quiet = False


class InputError(Exception):
    """An expected problem: says which file, what was found, what was expected and what to do."""


def build_parser(doc: str) -> argparse.ArgumentParser:
    """Parser whose help text is the script's docstring, with the flags every script has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    suite = parser.add_argument_group("common to all scripts")
    suite.add_argument("--overwrite", action="store_true", help="replace outputs that exist already")
    suite.add_argument("--quiet", action="store_true", help="no progress and no notes; warnings and the result only")
    runlog.add_log_flag(suite)
    suite.add_argument("--debug", action="store_true", help="show the traceback of an expected error")
    return parser


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to render and train; auto takes a GPU when there is one (default: auto)")


def script(main: Callable[[argparse.Namespace], int | None], make_parser: Callable[[], argparse.ArgumentParser]) -> Callable[[Sequence[str] | None], int]:
    """Turn ``main(args)`` into ``main(argv=None) -> int`` with the suite's error style and exit codes."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        global _quiet
        args = _completed(make_parser()).parse_args(argv)
        _quiet = args.quiet
        name = Path(sys.modules[main.__module__].__file__ or main.__module__).name
        try:
            return main(args) or 0
        except InputError as error:
            if args.debug:
                raise
            print(f"{name}: {error}", file=sys.stderr)
            return EXIT_BAD_INPUT
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:  # the reader of our standard output went away: nothing more to say to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    return functools.wraps(main)(runlog.recorded(wrapped, Path(sys.modules[main.__module__].__file__ or main.__module__).name, note))


def _completed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser; where a shell asks for completions, they are answered and the process ends."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser


def note(message: str) -> None:
    """Tell the user something on stderr, unless --quiet."""
    if not _quiet:
        print(message, file=sys.stderr)


def mute() -> None:
    """Act as --quiet from here on, for the helpers among several processes."""
    global _quiet
    _quiet = True


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def progress(items: Iterable | None = None, *, total: int | None = None, what: str = "", unit: str = "it"):
    """A tqdm bar on stderr; a plain line every half minute where stderr is not a terminal."""
    return runlog.bar(items, total, what, unit, _quiet)


def existing_file(path: str | Path, what: str) -> Path:
    """``path`` as a Path, or InputError where no readable file is there."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected {what}; name one file")
    if not path.exists():
        raise InputError(f"{path}: not found; expected {what}; check the path")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: not readable; expected {what}; check the permissions")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty (0 bytes); expected {what}; make or copy the file again")
    return path


def output_folder(path: str | Path) -> Path:
    """Make the folder; InputError where it cannot be made or written to."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path}: a file has this name; expected an output folder; choose another name") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); expected an output folder; choose a writable place") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path}: not writable; expected an output folder; choose another or change its permissions")
    return path


def check_outputs(paths: Iterable[str | Path], overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse, before slow work, to replace an existing file without --overwrite, or an input ever."""
    sources = {Path(p).resolve() for p in inputs}
    for path in map(Path, paths):
        if path.resolve() in sources:
            raise InputError(f"{path}: is also an input; expected another output name; inputs are never changed")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already; expected a new name; give --overwrite to replace it")
        output_folder(path.parent)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a hidden name beside ``path`` with the same ending; on success flush it and rename it to ``path``."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix="-" + path.name[-80:], dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with open(partial, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path, what: str) -> dict:
    """The JSON object in a file; InputError for anything else."""
    path = existing_file(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected {what}; restore or delete the file") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a JSON object with {what}; restore or delete the file")
    return content


def sha256(path: str | Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stem(path: str | Path) -> str:
    """File name without its ending; ``.nii.gz`` counts as one ending."""
    name = Path(path).name
    for ending in (".nii.gz", ".nii"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return Path(name).stem


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of the named distributions, for lineage and results."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
