"""Every row of the table: one line with file, finding and remedy; exit code 2; nothing changed.

Nothing is written or left behind, no input is touched, and no code of a file is run.
"""

import importlib
import os
import re
import shlex
from pathlib import Path

import files
import pytest
from rows import TABLE


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the bytes of files."""
    found = {}
    for root, folders, names in os.walk(folder):
        paths = [Path(root, name) for name in (*folders, *names)]
        found |= {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in paths
        }
    return found


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_bad_input_is_one_clear_line_and_changes_nothing(row, here, capfd):
    before = contents(here)
    assert importlib.import_module(row.script).main(shlex.split(row.arguments)) == row.code
    out, err = capfd.readouterr()
    after = contents(here)
    new = {path for path in after.keys() - before.keys() if after[path] is not None}
    assert all(re.fullmatch(row.writes, path) for path in new), new
    assert bool(new) == bool(row.writes)
    assert {path: after.get(path) for path in before} == before
    assert not (here / files.PROOF).exists()
    assert bool(out) == bool(row.writes)
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith(f"{row.script}.py: ")]
    assert len(lines) == len(row.words.split("\n")), err
    for line, words in zip(lines, row.words.split("\n"), strict=True):
        assert re.fullmatch(r"[\w.]+: .+; .*expected .+; .+", line), line
        for word in words.split("|"):
            assert word in line, line


def test_the_table_covers_all_thirteen_scripts():
    assert len(TABLE) == len(set(map(str, TABLE))) or len(
        {(row.script, row.arguments) for row in TABLE}
    ) == len(TABLE)
    assert {row.script for row in TABLE} == {
        path.stem for path in Path(__file__).resolve().parents[2].glob("*.py")
    }
