"""Windows and macOS, simulated: what they lack, refuse or change must not break a run."""

import ast
import builtins
import io
import os
import sys
from itertools import chain
from pathlib import Path

import pytest

from common import files
from common.errors import InputError
from common.files import checks, lines, locks
from common.results import cohort, decisions
from common.training import processes

ROOT = Path(__file__).resolve().parents[1]
# modules and functions that Windows lacks; where they are used, and what stands in for them
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_CALLS = {
    "os": {
        *("chown", "fork", "forkpty", "getgid", "getloadavg", "getpgid", "getuid", "geteuid"),
        *("killpg", "link", "mkfifo", "nice", "sched_getaffinity", "setsid", "statvfs", "sync"),
        *("symlink", "sysconf", "uname", "wait", "waitpid"),
    },
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm"},
}
FALLBACKS = {
    ("common/files/checks.py", "sysconf"),  # no limit on what a header may claim
    ("common/training/processes.py", "sched_getaffinity"),  # all processors
}
LINKS = {"symlink_to", "hardlink_to"}


def sources():
    for path in chain(ROOT.glob("*.py"), (ROOT / "common").rglob("*.py"), ROOT.glob("pipeline/*")):
        if path.suffix == ".py":
            name = path.relative_to(ROOT).as_posix()
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def test_no_module_that_windows_lacks_is_imported_without_a_way_around_it():
    for name, tree in sources():
        tried = {
            id(node)
            for attempt in ast.walk(tree)
            if isinstance(attempt, ast.Try)
            and any(ast.unparse(h.type or ast.Name("")) == "ImportError" for h in attempt.handlers)
            for node in attempt.body
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and POSIX_MODULES & {a.name for a in node.names}:
                assert id(node) in tried, f"{name}: {ast.unparse(node)}"
            assert not (isinstance(node, ast.ImportFrom) and node.module in POSIX_MODULES), name


def test_no_call_that_windows_lacks_is_made_but_those_with_a_fallback():
    found = set()
    for name, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            if node.attr in POSIX_CALLS.get(ast.unparse(node.value), ()) or node.attr in LINKS:
                found.add((name, node.attr))
    assert found == FALLBACKS


def decided():
    camera = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    return decisions.Decision("AB", "accept", "", decisions.now(), "a" * 64, camera, "solver")


# -------------------------------------------------------------------------------------- simulations


class WindowsLocks:
    """`msvcrt.locking`: a byte belongs to one open file, in this process too."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def __init__(self):
        self.held: dict[tuple[int, int], int] = {}

    def locking(self, handle: int, mode: int, count: int) -> None:
        assert count == 1
        position = os.lseek(handle, 0, os.SEEK_CUR)
        assert position < 2**31
        byte = os.fstat(handle).st_ino, position
        if mode == self.LK_UNLCK:
            if self.held.get(byte) != handle:
                raise PermissionError(13, "Permission denied")
            del self.held[byte]
        elif byte in self.held:
            raise PermissionError(13, "Permission denied")
        else:
            self.held[byte] = handle


@pytest.fixture
def windows(monkeypatch):
    """Line ends become CR LF in text mode, open files cannot be removed, and calls are missing."""
    if os.name == "nt":
        pytest.skip("this is Windows: the other tests show what it does")
    from_os = {name: getattr(os, name) for name in ("open", "write", "close")}
    plain_open, plain_unlink = io.open, Path.unlink
    texts, opened = set(), {}

    def open_file(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **named):
        if "b" not in mode and newline is None and set(mode) & set("wax"):
            newline = "\r\n"
        return plain_open(file, mode, buffering, encoding, errors, newline, **named)

    def open_descriptor(path, flags, *arguments, **named):
        handle = from_os["open"](path, flags & ~0x8000, *arguments, **named)
        opened[handle] = Path(path).resolve()
        texts.discard(handle) if flags & 0x8000 else texts.add(handle)
        return handle

    def write(handle, content):
        if handle in texts:
            return from_os["write"](handle, bytes(content).replace(b"\n", b"\r\n"))
        return from_os["write"](handle, content)

    def close(handle):
        opened.pop(handle, None)
        from_os["close"](handle)

    def unlink(path, missing_ok=False):
        if path.resolve() in opened.values():
            raise PermissionError(13, "The process cannot access the file", str(path))
        plain_unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", WindowsLocks(), raising=False)
    monkeypatch.setattr(io, "open", open_file)
    monkeypatch.setattr(builtins, "open", open_file)
    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(os, "open", open_descriptor)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(lines, "FLAGS", 0x8000)
    for name in ("sysconf", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)


def test_the_simulation_does_what_windows_does(windows, tmp_path):
    (tmp_path / "a.txt").write_text("1\n2\n", encoding="utf-8")
    assert (tmp_path / "a.txt").read_bytes() == b"1\r\n2\r\n"
    handle = os.open(tmp_path / "b.txt", os.O_WRONLY | os.O_CREAT)
    os.write(handle, b"3\n")
    with pytest.raises(PermissionError):
        (tmp_path / "b.txt").unlink()
    os.close(handle)
    assert (tmp_path / "b.txt").read_bytes() == b"3\r\n"
    (tmp_path / "b.txt").unlink()


def test_two_runs_that_write_one_file_are_kept_apart_on_windows(windows, tmp_path):
    first, second = locks.Claims(), locks.Claims()
    assert first.claim(tmp_path / "a.txt")
    assert first.claim(tmp_path / "a.txt")
    assert not second.claim(tmp_path / "a.txt")
    assert second.claim(tmp_path / "b.txt")
    first.release()
    assert second.claim(tmp_path / "a.txt")
    second.release()
    assert not locks.msvcrt.held
    assert not list(tmp_path.iterdir())


def test_a_run_on_windows_ends_and_leaves_its_output_alone(windows, tmp_path):
    with locks.claiming():
        files.check_outputs([tmp_path / "new/a.txt"], overwrite=False)
        files.write_text(tmp_path / "new/a.txt", "1\n")
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new/a.txt"]


def test_the_lock_file_of_another_run_that_has_it_open_stays(windows, tmp_path):
    other = locks.Claims()
    other.claim(tmp_path / "b.txt")
    with locks.claiming():
        files.check_outputs([tmp_path / "a.txt"], overwrite=False)
    assert (tmp_path / locks.LOCK).exists()
    other.release()
    assert not list(tmp_path.iterdir())


def test_texts_tables_and_decisions_have_the_line_ends_of_every_system(windows, tmp_path):
    files.write_text(tmp_path / "a.csv", files.as_csv([{"a": 1}, {"a": 2}]))
    files.write_json(tmp_path / "a.json", {"a": [1, 2]})
    decision = decided()
    for _ in range(2):
        decisions.append(tmp_path, decision)
    written = sorted(tmp_path.iterdir())
    assert len(written) == 3
    assert all(b"\r" not in path.read_bytes() for path in written)
    assert decisions.read(tmp_path) == [decision] * 2


def test_decisions_that_an_editor_saved_with_cr_lf_are_read(tmp_path):
    decision = decided()
    path = decisions.append(tmp_path, decision)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    decisions.append(tmp_path, decision)
    assert decisions.read(tmp_path) == [decision] * 2


def test_without_its_numbers_of_memory_and_processors_a_system_is_not_limited(windows, tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    checks.check_claim(tmp_path / "a.raw", 900, False, "a raw file")
    assert processes.available_cores().count >= 1


def test_a_system_that_does_not_know_its_memory_is_not_limited(monkeypatch, tmp_path):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    checks.check_claim(tmp_path / "a.raw", 900, False, "a raw file")


# -------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["CON", "nul", "Aux.femur", "com1", "LPT9.nii", "femur.", "femur ", "a:b", "a?", "a\tb"]
)
def test_a_name_that_windows_cannot_store_is_no_name(name):
    assert not files.is_plain_name(name)


@pytest.mark.parametrize("name", ["console", "COM10", "femur.left", "P01", "Knie_äöü", "a b"])
def test_other_names_are(name):
    assert files.is_plain_name(name)


def test_outputs_of_a_run_that_would_be_one_file_on_windows_and_macos_are_refused(tmp_path):
    with pytest.raises(InputError, match="upper and lower case alone"):
        files.check_outputs([tmp_path / "A.png", tmp_path / "a.png"], overwrite=True)
    assert not list(tmp_path.iterdir())
    with locks.claiming():
        files.check_outputs([tmp_path / "A.png", tmp_path / "b.png"], overwrite=True)


HEAD = "patient,ct,segmentation,xray,side\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows makes no file called aux.png")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("P01,c,s,x.png,left\np01,c,s,y.png,left\n", "patients P01 and p01"),
        ("P01,c,s,x.png,left\nP01,c,s,X.png,left\n", "X-rays x and X"),
        ("nul,c,s,x.png,left\n", "patient 'nul'"),
        ("P01,c,s,aux.png,left\n", "X-ray 'aux.png'"),
        ("P01.,c,s,x.png,left\n", "patient 'P01.'"),
    ],
)
def test_a_cohort_whose_files_would_collide_or_be_devices_is_refused(tmp_path, rows, message):
    for name in ("c", "s", "x.png", "X.png", "y.png", "aux.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "patients.csv").write_text(HEAD + rows)
    with pytest.raises(InputError, match=message):
        cohort.read_table(tmp_path / "patients.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="the suite is developed on Linux")
def test_no_two_files_of_this_project_differ_in_case_alone_or_have_the_name_of_a_device():
    paths = [
        path
        for name in ("common", "pipeline", "tests", "docs")
        for path in (ROOT / name).rglob("*")
        if "__pycache__" not in path.parts and "_build" not in path.parts
    ]
    assert files.alike(str(path.relative_to(ROOT)) for path in paths) == []
    assert [
        path
        for path in paths
        if not files.is_plain_name(path.name) and not path.name.startswith(".")
    ] == []
