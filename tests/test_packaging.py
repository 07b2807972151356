"""What is needed around the code: flavours of the requirements that agree, completion in a shell, files about the project that can be read."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def pins(name: str) -> dict[str, str]:
    return dict(
        re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;#]+)", (ROOT / name).read_text(), re.MULTILINE)
    )


def test_what_is_installed_is_what_the_requirements_pin():
    for name, pinned in pins("requirements.txt").items():
        assert version(name).split("+")[0] == pinned, name


def test_the_cpu_flavour_is_the_same_release_of_torch_for_the_cpu():
    cpu, every = pins("requirements-cpu.txt"), pins("requirements.txt")
    assert cpu == {name: f"{every[name]}+cpu" for name in ("torch", "torchvision")}


def complete(line: str) -> list[str]:
    """What a shell that has typed ``line`` is offered."""
    script = ROOT / line.split()[0]
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {script} 8>&1 9>/dev/null >/dev/null"],
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("registration.py --calib", ["--calibration"]),
        ("registration.py --init se", ["search"]),
        ("pipeline/report.py --pat", ["--patients"]),
        ("crop_cts.py --log", ["--log_file", "--log-file"]),
    ],
)
def test_a_shell_completes_flags_and_choices(line, offered):
    assert complete(line) == offered


def test_every_script_is_marked_for_completion_where_the_shell_looks():
    for path in [*ROOT.glob("*.py"), *ROOT.glob("pipeline/*.py")]:
        assert b"PYTHON_ARGCOMPLETE_OK" in path.read_bytes()[:1024], path


def test_the_citation_names_title_authors_and_licence():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(content)


def test_the_image_runs_as_nobody_special_from_a_pinned_base_with_files_that_exist():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    base = next(value for word, value in steps if word == "FROM")
    assert ":" in base
    assert not base.endswith(":latest")
    assert [value for word, value in steps if word == "USER"][-1] != "root"
    copied = next(value for word, value in steps if word == "COPY").split()[:-1]
    assert all((ROOT / name).exists() for name in copied)
