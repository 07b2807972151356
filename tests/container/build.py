"""Carry out the steps of the Dockerfile in an empty folder, where there is no container engine.

reads   Dockerfile and .dockerignore of this checkout
writes  FOLDER with the files of the image: FOLDER/opt/bone, FOLDER/data, and the packages in a
        virtual environment, FOLDER/python, in place of the base image
A step that needs the image itself (packages of Debian, users) is not carried out, and printed.
At the end, the command of the image runs, or that after --, with paths such as /opt/bone inside
FOLDER. The exit code is that of the first command that fails.

example
  python tests/container/build.py /tmp/image
  python tests/container/build.py /tmp/image -- python -m pip list
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import posixpath
import re
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# programs that change the system of the image, and which a folder cannot stand for
SYSTEM = re.compile(r"\b(apt-get|useradd)\b")
# how this machine reaches the package index
REACH = re.compile(r"PIP_(CERT|INDEX_URL|PROXY)|SSL_CERT_FILE|.*_proxy", re.IGNORECASE)


def steps(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile: word and value, with continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [line.strip().split(maxsplit=1) for line in whole.splitlines() if line.strip()]
    return [(word.upper(), value) for word, value in found]


def ignoring(context: Path) -> Callable[[str, list[str]], set[str]]:
    """Return the `ignore` of shutil.copytree that stands for .dockerignore."""
    listed = context / ".dockerignore"
    lines = listed.read_text(encoding="utf-8").split() if listed.exists() else []

    def ignored(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(context)
        return {name for name in names if is_ignored((inside / name).as_posix(), lines)}

    return ignored


def is_ignored(path: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatch(path, pattern.removeprefix("**/"))
        or (pattern.startswith("**/") and fnmatch.fnmatch(path, f"*/{pattern[3:]}"))
        for pattern in patterns
    )


@dataclass
class Image:
    """The image so far: its files below ``root``, and what its commands see."""

    root: Path
    context: Path
    arguments: dict[str, str]  # given, for ARG
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    command: list[str] = field(default_factory=list)
    with_pip: bool = True
    left_out: list[str] = field(default_factory=list)

    def place(self, path: str) -> Path:
        """Return where an absolute path of the image is, or one relative to its folder."""
        return self.root / posixpath.normpath(posixpath.join(self.workdir, path)).lstrip("/")

    def carry_out(self, word: str, value: str) -> None:
        """Carry out one instruction. Raises CalledProcessError if its command fails."""
        if word == "FROM":
            self._start(value)
        elif word == "ARG":
            name, _, default = value.partition("=")
            self.environment[name] = self.arguments.get(name, default)
        elif word == "ENV":
            for name, _, text in (each.partition("=") for each in shlex.split(value)):
                self.environment[name] = str(self.place(text)) if text[:1] == "/" else text
        elif word == "WORKDIR":
            self.place(value).mkdir(parents=True, exist_ok=True)
            self.workdir = value
        elif word == "COPY":
            self._copy(*value.split())
        elif word == "CMD":
            self.command = json.loads(value)
        elif word == "RUN" and not SYSTEM.search(value):
            self.run(["sh", "-c", value])
        elif word in ("RUN", "USER"):
            self.left_out.append(f"{word} {value}")
        else:
            raise SystemExit(
                f"Dockerfile: found {word}; expected an instruction that is known here"
            )

    def _start(self, base: str) -> None:
        release = re.match(r"python:(\d+\.\d+)\b", base)
        here = "{}.{}".format(*sys.version_info)
        if not release or release[1] != here:
            raise SystemExit(
                f"Dockerfile: found FROM {base}; expected python:{here}, which runs this"
            )
        venv.create(self.root / "python", with_pip=self.with_pip)
        self.left_out.append(f"FROM {base} (a virtual environment of Python {here} instead)")
        reach = {name: text for name, text in os.environ.items() if REACH.fullmatch(name)}
        path = os.pathsep.join([str(self.root / "python/bin"), "/usr/bin", "/bin"])
        home = self.place("/root")
        home.mkdir()
        self.environment = {**reach, "PATH": path, "HOME": str(home)}

    def _copy(self, *names: str) -> None:
        *sources, target = names
        ignored = ignoring(self.context)
        for name in sources:
            source, to = self.context / name, self.place(target)
            if source.is_dir():
                shutil.copytree(source, to, ignore=ignored, dirs_exist_ok=True)
            elif ignored(str(source.parent), [source.name]):
                raise SystemExit(f"{name}: found in .dockerignore; expected a file to copy")
            else:
                shutil.copy(source, to)

    def run(self, command: Sequence[str]) -> None:
        """Run a command in the image. Raises CalledProcessError if it fails."""
        print("+", shlex.join(command), flush=True)
        subprocess.run(command, cwd=self.place("."), env=self.environment, check=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        usage="%(prog)s FOLDER [--context FOLDER] [--build-arg NAME=VALUE] [-- COMMAND ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a new or empty folder")
    parser.add_argument("--context", type=Path, default=ROOT, help="folder with the Dockerfile")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:end])
    args.folder.mkdir(parents=True, exist_ok=True)
    if any(args.folder.iterdir()):
        parser.error(f"{args.folder}: found files; expected an empty folder")
    arguments = dict(each.split("=", 1) for each in args.build_arg)
    image = Image(args.folder.resolve(), args.context.resolve(), arguments)
    instructions = steps((image.context / "Dockerfile").read_text(encoding="utf-8"))
    image.with_pip = any(re.search(r"\bpip\b", value) for _, value in instructions)
    try:
        for word, value in instructions:
            image.carry_out(word, value)
        command = words[end + 1 :] or image.command
        image.run([str(image.place(each)) if each[:1] == "/" else each for each in command])
    except subprocess.CalledProcessError as error:
        print(f"failed with exit code {error.returncode}", file=sys.stderr)
        return error.returncode
    print("not carried out:", *image.left_out, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
