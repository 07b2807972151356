"""Around the code: requirements that agree, an installable package, shell completion, metadata."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    PathDistribution,
    packages_distributions,
    requires,
    version,
)
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}


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


def test_the_ranges_of_the_package_hold_what_the_requirements_pin():
    extras = PROJECT["project"]["optional-dependencies"]
    ranges = {
        canonicalize_name(requirement.name): requirement.specifier
        for text in [*PROJECT["project"]["dependencies"], *chain(*extras.values())]
        for requirement in [Requirement(text)]
    }
    pinned = {
        canonicalize_name(name): release for name, release in pins("requirements.txt").items()
    }
    assert set(ranges) == set(pinned)
    assert [name for name in pinned if pinned[name] not in ranges[name]] == []


def locked(name: str) -> dict[str, list[str]]:
    """The entries of a lock file: a release with its conditions, and its hashes."""
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = re.findall(r"^([^\s#][^\\\n]*)\\?\n((?:    --hash=.*\n)*)", text, re.MULTILINE)
    return {head.strip(): re.findall(r"--hash=(\S+)", hashes) for head, hashes in entries}


LOCKS = ("requirements.lock", "requirements-cpu.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_for_every_package_and_names_no_place_to_get_it_from(name):
    entries = locked(name)
    assert len(entries) > 200
    for entry, hashes in entries.items():
        assert re.match(r"[a-z0-9.-]+==\S+( ; .+)?$", entry), entry
        assert hashes, entry
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), entry
    assert "/" not in (ROOT / name).read_text(encoding="utf-8")  # a URL or a path


def test_the_lock_holds_what_the_requirements_pin_and_what_is_installed():
    entries = [Requirement(entry) for entry in locked("requirements.lock")]
    here = {
        canonicalize_name(entry.name): str(entry.specifier)
        for entry in entries
        if not entry.marker or entry.marker.evaluate()
    }
    for name, pinned in pins("requirements.txt").items():
        assert here[canonicalize_name(name)] == f"=={pinned}", f"{name}: run make lock"
    needed = {
        canonicalize_name(need.name)
        for name in here
        for need in map(Requirement, installed_needs(name))
        if not need.marker or need.marker.evaluate({"extra": ""})
    }
    assert needed - set(here) == set(), "run make lock"


def installed_needs(name: str) -> list[str]:
    """What an installed package requires; nothing if it is not installed."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def test_the_lock_without_a_gpu_is_the_other_one_without_pytorch_and_cuda():
    every, cpu = (locked(name) for name in LOCKS)
    assert cpu.items() <= every.items()
    left_out = {entry.split("==")[0] for entry in every.keys() - cpu.keys()}
    assert {"torch", "torchvision", "triton"} <= left_out
    rest = left_out - {"torch", "torchvision", "triton"}
    assert all(name.startswith(("cuda-", "nvidia-")) for name in rest), rest


# modules of packages that come with one of those that are pinned
BROUGHT = {
    "llvmlite": "numba",
    "markupsafe": "jinja2",
    "packaging": "pytest",
    "torchio": "diffdrr",
    "vtk": "pyvista",
    "wandb": "xvreg",
}


def imported() -> set[str]:
    """The modules, not of this project, that its code imports, also inside functions."""
    folders = ("common", "pipeline", "benchmarks", "workflow", "tests", "docs")
    paths = [*ROOT.glob("*.py"), *chain(*((ROOT / name).rglob("*.py") for name in folders))]
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                found |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    outside = [path for path in paths if "common" not in path.parts]
    own = {path.stem for path in outside} | {path.parent.name for path in outside} | set(folders)
    return {name.split(".")[0] for name in found} - own - set(sys.stdlib_module_names)


def test_every_pinned_package_is_imported_or_the_reason_for_it_is_stated():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    reasons = {
        canonicalize_name(match[1])
        for line in lines
        if (match := re.match(r'\s*"([\w.-]+)[^"]*", # \w+', line))
    }
    distributions = packages_distributions()
    used = {canonicalize_name(name) for each in imported() for name in distributions.get(each, ())}
    pinned = {canonicalize_name(name) for name in pins("requirements.txt")}
    assert sorted(pinned - used - reasons) == []


def test_every_imported_package_is_pinned_or_comes_with_one_that_is():
    pinned = {canonicalize_name(name) for name in pins("requirements.txt")}
    assert set(BROUGHT.values()) <= pinned
    distributions = packages_distributions()
    unknown = {
        each
        for each in imported() - set(BROUGHT)
        if not {canonicalize_name(name) for name in distributions.get(each, ())} & pinned
    }
    assert unknown == set()


def test_every_script_is_a_command_and_a_module_of_the_package():
    assert PROJECT["project"]["scripts"] == {name: f"{name}:main" for name in SCRIPTS}
    assert set(PROJECT["tool"]["setuptools"]["py-modules"]) == SCRIPTS


def test_the_package_and_the_citation_name_the_same_authors_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = PROJECT["project"]
    assert project["authors"] == [{"name": author["name"]} for author in citation["authors"]]
    assert project["license"] == citation["license"]
    assert project["keywords"] == citation["keywords"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The package, installed into a folder of its own, without its dependencies."""
    folder = tmp_path_factory.mktemp("package")
    source, site = folder / "source", folder / "site"
    source.mkdir()  # a build leaves files behind, so it gets a copy
    for path in [
        *ROOT.glob("*.py"),
        *(ROOT / n for n in ("pyproject.toml", "README.md", "LICENSE")),
    ]:
        shutil.copy(path, source)
    shutil.copytree(
        ROOT / "common", source / "common", ignore=shutil.ignore_patterns("__pycache__")
    )
    flags = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, "--target", site, source],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return site


def distribution(site: Path) -> Distribution:
    return PathDistribution(next(site.glob("*.dist-info")))


def run_installed(site: Path, *command: str | Path) -> subprocess.CompletedProcess:
    """A command that sees the installed package and not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=site.parent, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_installed_package_has_every_module_template_and_its_metadata(installed):
    def files(root: Path, paths: Iterable[Path]) -> set[Path]:
        return {p.relative_to(root) for p in paths if p.is_file() and "__pycache__" not in p.parts}

    expected = files(ROOT, [*ROOT.glob("*.py"), *(ROOT / "common").rglob("*")])
    inside = files(installed, [*installed.glob("*.py"), *(installed / "common").rglob("*")])
    assert inside == expected
    metadata = distribution(installed).metadata
    assert (metadata["Name"], metadata["Version"]) == ("bone-registration", VERSION)
    assert metadata["License-Expression"] == "MIT"
    assert {point.name for point in distribution(installed).entry_points} == SCRIPTS


@pytest.mark.slow
def test_the_installed_package_imports_and_its_commands_answer(installed):
    where = "from common import api; print(api.__file__)"
    done = run_installed(installed, "-c", where)
    assert done.stdout.startswith(str(installed)), done.stderr
    for name in SCRIPTS:
        done = run_installed(installed, installed / "bin" / name, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: {name}")


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
