"""The log of a run: all its messages, with times and without control characters."""

import io
import logging
import re
import sys

import pytest

from common.command_line import log
from common.command_line import script as script_module
from common.command_line.log import Kept, duration
from common.command_line.script import EXIT_NOT_CONVERGED, build_parser
from common.errors import InputError
from common.progress import Track, track

LOGGER = logging.getLogger("common.test")


def script(action):
    return script_module.script(action, lambda: build_parser("says what it does"))


def lines_of(path):
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    return [line.split("  ", 1)[1] for line in lines]


@pytest.mark.parametrize("flag", ["--log_file", "--log-file"])
def test_the_log_contains_command_notes_and_end_and_is_appended_to(tmp_path, flag, capsys):
    def run(args):
        LOGGER.info("a note")
        LOGGER.warning("a warning")
        return EXIT_NOT_CONVERGED

    log_file = tmp_path / "logs" / "run.log"
    assert script(run)([flag, str(log_file)]) == 3
    assert lines_of(log_file) == [
        f"test_runlog.py {flag} {log_file}",
        "a note",
        "warning: a warning",
        "test_runlog.py: not converged, in 0.0 s",
    ]
    assert "a note\nwarning: a warning" in capsys.readouterr().err
    script(run)([f"{flag}={log_file}", "--quiet"])
    assert len(lines_of(log_file)) == 6  # the second run: its command, its warning


def test_an_expected_error_and_the_traceback_of_a_bug_are_in_the_log(tmp_path):
    def expected(args):
        raise InputError("a.nii", "is a cat", "a CT", "scan a patient")

    log_file = tmp_path / "run.log"
    assert script(expected)(["--log_file", str(log_file)]) == 2
    assert (
        lines_of(log_file)[-1] == "test_runlog.py: a.nii: is a cat; expected a CT; scan a patient"
    )
    with pytest.raises(ZeroDivisionError):
        script(lambda args: 1 // 0)(["--log_file", str(log_file)])
    assert lines_of(log_file)[-1].startswith("ZeroDivisionError")
    assert not isinstance(sys.stderr, Kept)


def test_a_log_that_cannot_be_opened_is_an_error_before_the_run(tmp_path, capsys):
    assert script(lambda args: 1 // 0)(["--log_file", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_progress_without_a_terminal_is_one_line_at_the_end(capsys):
    with log.messages(frozenset()):
        for _ in track(range(2), what="outer", unit="step"):
            list(track(range(3), what="inner", unit="it"))
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "inner: 3/3 it, 0.0 s",
        "inner: 3/3 it, 0.0 s",
        "outer: 2/2 step, 0.0 s",
    ]


def test_progress_lines_state_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr(log, "LINE_EVERY_S", 0)
    with log.messages(frozenset()), Track(total=100, what="training", unit="%") as bar:
        bar._began -= 30
        bar.about = "loss 3 mm"
        bar.update(25)
    assert (
        capsys.readouterr().err.splitlines()[0]
        == "training: 25/100 %, 30.0 s, 2 min left, loss 3 mm"
    )


def test_without_a_handler_progress_and_notes_are_silent(capsys):
    list(track(range(3), what="work", unit="it"))
    LOGGER.info("a note")
    assert capsys.readouterr().err == ""


def test_a_setting_in_backticks_is_shown_as_the_flag_of_the_script_that_has_it(capsys):
    with log.messages(frozenset(["sdd"])):
        LOGGER.warning("no distance; give `sdd` or `not_a_flag`")
    assert capsys.readouterr().err == "warning: no distance; give --sdd or `not_a_flag`\n"


def test_of_a_redrawn_line_the_last_state_is_logged():
    screen, log = io.StringIO(), io.StringIO()
    kept = Kept(screen, log)
    kept.write("\r 10 %\r 20 %")
    kept.write("\r\x1b[1m100 %\n")
    assert screen.getvalue() == "\r 10 %\r 20 %\r\x1b[1m100 %\n"
    assert log.getvalue().endswith("  100 %\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (59, "59.0 s"), (90, "2 min"), (3600, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_durations_are_in_readable_units(seconds, text):
    assert duration(seconds) == text
