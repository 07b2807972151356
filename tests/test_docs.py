"""The documentation: its pages build, cover every script, and every command in them runs."""

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs/quickstart.md",
    *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs/quickstart.md"}),
    ROOT / "workflow/README.md",
]
# flags that make a command's work small without changing what it does, unless it has them already
SMALLER = {
    "make_phantom": "--spacing 2.5",
    "make_xray": "--size 96 96 --pixel 3",
    # enough photons that no frame is searched for in every way
    "make_movement": "--frames 5 --spacing 2 --size 160 --photons 200000",
    "make_cohort": "--patients 1 --views 1 --spacing 4 --size 48",
    "agnostic": "--iterations 2 --batch_size 2 --height 64 --delx 4",
    "finetuned": "--iterations 2 --batch_size 2",
    "create_drr": "--method fused --supersampling 1",
}


def commands(page: Path) -> list[list[str]]:
    """The words of every command in the bash blocks of a page."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [
        words
        for block in blocks
        for line in block.splitlines()
        if (words := shlex.split(line, comments=True))
    ]


ALL = [(page.relative_to(ROOT), words) for page in PAGES for words in commands(page)]


def smaller(name: str, arguments: list[str]) -> list[str]:
    """The arguments with less work in them: a budget of minutes becomes one of iterations."""
    extra = shlex.split(SMALLER.get(name, ""))
    if "--minutes" in arguments and "--iterations" in extra:
        where = arguments.index("--minutes")
        arguments = arguments[:where] + arguments[where + 2 :]
    return [*arguments, *([] if extra and extra[0] in arguments else extra)]


def run(words: list[str]) -> int:
    """A command of the documentation, in the current folder: a script in this process."""
    if words[0] == "python":
        path = Path(words[1]).with_suffix("")
        return importlib.import_module(".".join(path.parts)).main(smaller(path.name, words[2:]))
    # the tests run already, a test below makes the documentation, and the demo takes 15 minutes
    if words[0] == "make":
        return subprocess.run(
            ["make", "-C", ROOT, "-n", *words[1:]], capture_output=True
        ).returncode
    if words[0] == "snakemake":  # test_workflow.py runs it; here it plans
        flags = [str(ROOT / word) if word.startswith("workflow/") else word for word in words[1:]]
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "snakemake",
                "-s",
                ROOT / "workflow/Snakefile",
                *flags,
                "--dry-run",
                "--quiet",
            ],
            capture_output=True,
        ).returncode
    raise AssertionError(f"{shlex.join(words)}: a command that this test does not know how to run")


@pytest.mark.slow
def test_every_command_of_the_documentation_runs_in_the_order_of_its_pages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(ALL) > 25
    for page, words in ALL:
        assert run(words) in (0, 3), (  # two iterations train no network: a pose may not converge
            f"{page}: {shlex.join(words)}"
        )
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "logs/drr.log").read_text().endswith("s\n")


def test_every_script_has_a_page_that_is_its_own_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    pages = runpy.run_path(str(ROOT / "docs/conf.py"))["script_pages"]()
    scripts = {path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("pipeline/*.py")]}
    assert set(pages) == scripts
    for name, page in pages.items():
        module = importlib.import_module(
            name if (ROOT / f"{name}.py").exists() else f"pipeline.{name}"
        )
        assert module.__doc__.strip().splitlines()[0] in page
        for action in module.build_parser()._actions:
            assert all(flag in page for flag in action.option_strings), (
                name,
                action.option_strings,
            )


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "-q",
            "-b",
            "html",
            ROOT / "docs",
            tmp_path / "html",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html/scripts/registration.html").read_text()
    assert "--init_pose" in page
    assert (
        "0.07 mm in plane" in (tmp_path / "html/accuracy.html").read_text()
    )  # the README's own words
