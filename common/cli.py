"""What every script shares at its edges: parser, errors, exit codes, output files, progress.

Standard library only, so that ``--help`` answers at once.

Exit codes: 0 done, 1 a bug (traceback), 2 bad input or a machine short of disk or memory (one line, or one a bad file), 3 the result did not converge, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from common import claims, runlog

EXIT_BAD_INPUT = 2
EXIT_NOT_CONVERGED = 3
EXIT_INTERRUPTED = 130

# what the machine refuses although program and files are right: a full or failing disk, a missing permission, a name that is too long
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EMFILE, errno.ENFILE}
DEFLATE_RATIO = 1032  # the most that zlib can shrink anything

_quiet = False


class InputError(Exception):
    """An expected problem: says which file, what was found, what was expected and what to do."""


class SeveralErrors(InputError):
    """What was wrong with some files of a step that went on with the others."""

    def __init__(self, errors: Sequence[InputError]):
        super().__init__("; ".join(map(str, errors)))
        self.errors = errors


class Parser(argparse.ArgumentParser):
    """Argument errors in the suite's one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; expected the arguments that --help lists; correct the command")


def build_parser(doc: str) -> argparse.ArgumentParser:
    """Parser whose help text is the script's docstring, with the flags every script has."""
    parser = Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        name = Path(sys.modules[main.__module__].__file__ or main.__module__).name
        debug = "--debug" in (sys.argv if argv is None else argv)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # paths go out as they came in, text or not
        try:
            args = _completed(make_parser()).parse_args(argv)
            _quiet = args.quiet
            code = main(args) or 0
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:  # the reader of our standard output went away: nothing more to say to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            expected = as_input_error(error)
            if expected is None or debug:
                raise
            for each in getattr(expected, "errors", [expected]):
                print(printable(f"{name}: {each}"), file=sys.stderr)
            return EXIT_BAD_INPUT
        finally:
            claims.release()

    return functools.wraps(main)(runlog.recorded(wrapped, Path(sys.modules[main.__module__].__file__ or main.__module__).name, note))


def _completed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser; where a shell asks for completions, they are answered and the process ends."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser


def as_input_error(error: Exception) -> InputError | None:
    """The one line for an expected problem, also where the machine is short of disk, memory or permission; None for a bug."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(r"alloc|out of memory|can't start new thread", str(error))):
        return InputError(f"memory: ran out ({one_line(error)}); expected enough for this step's volumes; close other programs, crop the CT (crop_cts.py) or take a larger machine")
    if isinstance(error, OSError) and error.errno in MACHINE:
        return InputError(f"{error.filename or 'output'}: {error.strerror}; expected a place to read and write; free space, or choose another path")
    return None


@contextlib.contextmanager
def reading(path: str | Path, what: str, remedy: str, found: str = "cannot be read") -> Iterator[None]:
    """Around a library that parses a file: whatever it raises for a damaged or hostile one becomes InputError (--debug shows it)."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path}: {found} ({one_line(error)}); expected {what}; {remedy}") from error


@contextlib.contextmanager
def going_on(problems: list[InputError]) -> Iterator[None]:
    """Around one file of several: what is wrong with it goes to ``problems``, and the step goes on with the next."""
    try:
        yield
    except InputError as error:
        problems.append(error)


def raise_all(problems: Sequence[InputError]) -> None:
    """End a step of several files: nothing where all were good, else every bad one by name."""
    if problems:
        raise problems[0] if len(problems) == 1 else SeveralErrors(problems)


def one_line(error: Exception) -> str:
    """What a library said, short."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def printable(text: str) -> str:
    """The text with line breaks, terminal codes and undecodable bytes of file names and contents made visible."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def note(message: str) -> None:
    """Tell the user something on stderr, unless --quiet."""
    if not _quiet:
        print(printable(message), file=sys.stderr)


def mute() -> None:
    """Act as --quiet from here on, for the helpers among several processes."""
    global _quiet
    _quiet = True


def warn(message: str) -> None:
    print(printable(f"warning: {message}"), file=sys.stderr)


def progress(items: Iterable | None = None, *, total: int | None = None, what: str = "", unit: str = "it"):
    """A tqdm bar on stderr; a plain line every half minute where stderr is not a terminal."""
    return runlog.bar(items, total, what, unit, _quiet)


def existing_file(path: str | Path, what: str) -> Path:
    """``path`` as a Path, or InputError where no readable file is there."""
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        found = "not found" if error.errno in (errno.ENOENT, errno.ENOTDIR) else f"not readable ({error.strerror})"
        raise InputError(f"{path}: {found}; expected {what}; check the path") from None
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected {what}; name one file")
    if not path.is_file():
        raise InputError(f"{path}: is a device or a pipe; expected {what}; name one file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: not readable; expected {what}; check the permissions")
    if size == 0:
        raise InputError(f"{path}: is empty (0 bytes); expected {what}; make or copy the file again")
    return path


def check_claim(path: str | Path, size: int, compressed: bool, what: str) -> None:
    """InputError where a header claims ``size`` bytes of pixels or voxels that the file cannot hold, or this machine not store. To be asked before they are read."""
    held = os.stat(path).st_size * (DEFLATE_RATIO if compressed else 1)
    if size > held:
        raise InputError(f"{path}: its header claims {size:.3g} bytes, the file can hold {held:.3g}; expected {what}; the file is truncated or damaged, copy it again")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else sys.maxsize  # Windows does not say
    if size > memory:
        raise InputError(f"{path}: its header claims {size:.3g} bytes, this machine has {memory:.3g}; expected {what}; crop it on a larger machine, or the header is damaged")


def output_folder(path: str | Path) -> Path:
    """Make the folder; InputError where it cannot be made or written to."""
    path = Path(path)
    try:
        claims.make(path)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{path}: a file has this name; expected an output folder; choose another name") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); expected an output folder; choose a writable place") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path}: not writable; expected an output folder; choose another or change its permissions")
    return path


def check_outputs(paths: Iterable[str | Path], overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Before slow work: refuse to replace an existing file without --overwrite, or an input ever, or to write what another run is writing.

    A volume's lineage, the JSON beside it, counts with it, among outputs and inputs. The outputs are this run's own until the script ends.
    """
    sources = {path.resolve() for path in with_lineages(inputs)}
    for path in with_lineages(paths):
        try:
            there = os.path.lexists(path)
        except OSError as error:
            raise InputError(f"{path.name}: {error.strerror}; expected an output name; choose a shorter one") from None
        if path.resolve() in sources:
            raise InputError(f"{path}: is also an input; expected another output name; inputs are never changed")
        if there and path.is_dir() and path.suffix:
            raise InputError(f"{path}: is a folder; expected the name of an output file; choose another")
        if there and not overwrite:
            raise InputError(f"{path}: exists already; expected a new name; give --overwrite to replace it")
        output_folder(path.parent)
        try:
            free = claims.claim(path)
        except OSError as error:
            raise unwritable(path, error) from None
        if not free:
            raise InputError(f"{path}: another run is writing it; expected one run an output; wait for that run, or choose another folder")


def with_lineages(paths: Iterable[str | Path]) -> list[Path]:
    """The paths, each NIfTI followed by the JSON that belongs to it."""
    found = []
    for path in map(Path, paths):
        found += [path, path.with_name(stem(path) + ".json")] if path.name.lower().endswith((".nii.gz", ".nii")) else [path]
    return found


def unwritable(path: str | Path, error: OSError) -> InputError:
    return InputError(
        f"{path}: cannot be written ({error.strerror}); expected room and permission there; free some space or choose another folder; what was there before is intact"
    )


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a hidden name beside ``path`` with the same ending; on success flush it and rename it to ``path``. InputError where the disk is full or not writable."""
    path = Path(path)
    partial = None
    try:
        handle, name = tempfile.mkstemp(prefix=claims.PARTIAL, suffix=claims.tail(path), dir=path.parent)
        os.close(handle)
        partial = Path(name)
        yield partial
        with open(partial, "rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in MACHINE:
            raise
        raise unwritable(path, error) from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[io.BytesIO]:
    """Yield a stream in memory; on success its content becomes the file, whole. For libraries that do not notice a disk that fills up while they write."""
    with atomic(path) as partial:
        stream = io.BytesIO()
        yield stream
        partial.write_bytes(stream.getbuffer())


def write_text(path: str | Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # bytes of a file name that are no text


def as_csv(rows: Sequence[dict], columns: Sequence[str] | None = None) -> str:
    """A table with a header line; the columns are the first row's keys, or ``columns``, where a row may lack some."""
    import csv

    text = io.StringIO()
    writer = csv.DictWriter(text, columns or rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_json(path: str | Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path, what: str) -> dict:
    """The JSON object in a file; InputError for anything else."""
    path = existing_file(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({one_line(error)}); expected {what}; restore or delete the file") from None
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


def is_plain_name(name: str) -> bool:
    """Whether a name can stand in a file name and leads to no other folder."""
    return 0 < len(name) <= 100 and name.isprintable() and not name.startswith(".") and not set(name) & set('/\\:*?"<>|')


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of the named distributions, for lineage and results."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
