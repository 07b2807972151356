"""The files that the tables name, made once, and a private copy of them for each test."""

import shutil

import files
import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_inputs")
    files.build(folder)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of all files that a test may spoil, as the current folder."""
    copy = tmp_path / "files"
    shutil.copytree(made, copy, symlinks=True)
    monkeypatch.chdir(copy)
    return copy
