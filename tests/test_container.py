"""The definitions of containers: what they copy exists, and the two of them do the same."""

import os
import re
import sys
from pathlib import Path

import pytest
from container import build

ROOT = Path(__file__).resolve().parents[1]
STEPS = build.steps((ROOT / "Dockerfile").read_text(encoding="utf-8"))
APPTAINER = (ROOT / "bone.def").read_text(encoding="utf-8")


def section(name: str) -> list[str]:
    """The lines of a section of the Apptainer definition."""
    found = re.search(rf"^%{name}\n((?:    .*\n|\n)*)", APPTAINER, re.MULTILINE)
    assert found, name
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def test_both_definitions_have_one_base_and_run_the_same_commands():
    runs = [value for word, value in STEPS if word == "RUN" and "useradd" not in value]
    assert [line for line in section("post") if re.match("apt-get|pip", line)] == runs
    assert f"From: {dict(STEPS)['FROM']}\n" in APPTAINER
    assert section("arguments") == [dict(STEPS)["ARG"]]
    exported = re.findall(r"(\w+)=", section("environment")[-1])
    assert exported == re.findall(r"(\w+)=", dict(STEPS)["ENV"])


def test_the_apptainer_definition_copies_every_script_and_package_and_the_locks():
    copied = {line.split()[0] for line in section("files")}
    assert all((ROOT / name).exists() for name in copied)
    scripts = {path.name for path in ROOT.glob("*.py")}
    requirements = {path.name for path in ROOT.glob("requirements*")}
    assert scripts | requirements | {"common", "pipeline", "workflow"} <= copied


def test_packages_come_from_a_lock_before_anything_else_is_installed():
    (first, second) = [value for word, value in STEPS if word == "RUN" and "pip" in value]
    assert "--no-deps --require-hashes -r $FLAVOUR.lock" in first
    assert second.endswith("-r $FLAVOUR.txt && pip check")
    for flavour in ("requirements", "requirements-cpu"):
        assert (ROOT / f"{flavour}.lock").exists()
        assert (ROOT / f"{flavour}.txt").exists()


# ------------------------------------------------------------------------ the steps without engine


@pytest.fixture
def context(tmp_path):
    """A small image: it copies a program, and runs it when it is built and at its start."""
    if os.name == "nt":
        pytest.skip("the steps of a Dockerfile need a shell of Linux")
    folder = tmp_path / "context"
    (folder / "part/__pycache__").mkdir(parents=True)
    (folder / ".dockerignore").write_text("secret*\n**/__pycache__\n")
    for name in ("say.py", "secret.txt", "part/a.txt", "part/__pycache__/b.pyc"):
        (folder / name).write_text("import sys; open(sys.argv[1], 'w').write(sys.argv[2])")
    (folder / "Dockerfile").write_text(
        "# a comment\nFROM python:{}.{}-slim\n".format(*sys.version_info)
        + "ARG WORD=hello\nWORKDIR /opt/x\nCOPY say.py ./\n"
        "RUN python say.py said.txt \\\n    $WORD\nRUN useradd nobody\nCOPY . .\n"
        "ENV PLACE=/tmp/cache\nUSER nobody\nWORKDIR /data\n"
        'CMD ["python", "/opt/x/say.py", "d", "1"]\n'
    )
    return folder


def test_the_steps_are_carried_out_in_order_in_a_folder_of_their_own(context, tmp_path, capfd):
    image = tmp_path / "image"
    assert build.main([str(image), "--context", str(context), "--build-arg", "WORD=bye"]) == 0
    assert (image / "opt/x/said.txt").read_text() == "bye"
    assert (image / "data/d").read_text() == "1"
    assert {path.name for path in (image / "opt/x").rglob("*")} >= {"say.py", "a.txt"}
    assert not list((image / "opt").rglob("secret.txt"))
    assert not list((image / "opt").rglob("b.pyc"))
    told = capfd.readouterr().out.split("not carried out:")[1]
    assert [line.split()[0] for line in told.strip().splitlines()] == ["FROM", "RUN", "USER"]
    command = ["--", "sh", "-c", 'printf %s "$PLACE" > place']
    assert build.main([str(tmp_path / "other"), "--context", str(context), *command]) == 0
    assert (tmp_path / "other/data/place").read_text() == str(tmp_path / "other/tmp/cache")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [("RUN python say.py", "RUN exit 7; python", 7), ('"d", "1"', '"/no/folder/d", "1"', 1)],
)
def test_a_step_that_fails_ends_with_its_exit_code(context, tmp_path, capfd, old, new, code):
    text = (context / "Dockerfile").read_text()
    assert old in text
    (context / "Dockerfile").write_text(text.replace(old, new))
    assert build.main([str(tmp_path / "image"), "--context", str(context)]) == code
    assert "not carried out" not in capfd.readouterr().out


def test_an_instruction_or_a_base_that_is_not_known_stops(context, tmp_path):
    text = (context / "Dockerfile").read_text()
    for old, new in (("USER", "ONBUILD"), ("FROM python:", "FROM debian:")):
        (context / "Dockerfile").write_text(text.replace(old, new))
        with pytest.raises(SystemExit, match="found"):
            build.main([str(tmp_path / old[:4]), "--context", str(context)])
