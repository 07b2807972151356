"""Duration of the soak, and helpers of its tests.

`make soak SECONDS=600` divides that time among the tests; in `make test` each does a few rounds.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bad_inputs"))
import files

SECONDS = float(os.environ.get("SOAK_SECONDS", "0"))
tally: dict[str, int] = {}


def pytest_terminal_summary(terminalreporter):
    if tally:
        terminalreporter.write_line(
            "soak: " + ", ".join(f"{count} {what}" for what, count in tally.items())
        )


def rounds(share: float, least: int) -> Iterator[int]:
    """Yield round numbers: ``least``, or as many as fit into a fraction of the soak's time."""
    end, number = time.monotonic() + share * SECONDS, 0
    while number < least or time.monotonic() < end:
        yield number
        number += 1


def count(what: str, number: int = 1) -> None:
    tally[what] = tally.get(what, 0) + number


class Children:
    """Scripts as child processes, see children.py."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("children.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout.readline() == "ready\n"

    def run(self, *orders: dict) -> list[dict]:
        """Run scripts at the same time, and return their answers in order."""
        self.server.stdin.write(
            json.dumps([{**order, "cwd": str(order["cwd"])} for order in orders]) + "\n"
        )
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


@pytest.fixture(scope="session")
def children():
    started = Children()
    with started.server:  # leaving closes its streams and waits
        yield started


@pytest.fixture(scope="session")
def patient(tmp_path_factory):
    """The files of tests/bad_inputs/files.py."""
    folder = tmp_path_factory.mktemp("soak")
    files.build(folder)
    return folder


@pytest.fixture
def fresh(patient, tmp_path):
    """A function that copies the patient's folder."""

    def copy(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return Path(shutil.copytree(patient, tmp_path / name, symlinks=True))

    return copy
