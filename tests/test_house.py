"""The house: which package of common/ imports which, and what only the command line may do.

The table is [tool.house] of pyproject.toml; docs/draw_house.py reads it and the imports.
"""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import draw_house
from docs.draw_house import ROOT, Import, imports_of, room_of

MODULES = draw_house.modules()
EVERYWHERE, ROOMS = draw_house.table()
SCRIPTS = [*sorted(ROOT.glob("*.py")), *sorted((ROOT / "pipeline").glob("*.py"))]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
BELOW_THE_COMMAND_LINE = [
    path for name, path in MODULES.items() if not name.startswith("common.command_line")
]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES.values()}
FLAG = re.compile(r"(?<![\w-])--[a-z]\w+")
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
MUTATORS = {
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "setdefault",
    "update",
}


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}, line {line}"


def none_of(sentences: list[str]) -> None:
    """Fail with one sentence per line."""
    if sentences:
        pytest.fail("\n" + "\n".join(sentences), pytrace=False)


# ------------------------------------------------------------------------------------------ imports


@pytest.mark.slow
def test_every_import_between_packages_is_in_the_table():
    def sentence(room: str, found: Import) -> str:
        allowed = ", ".join([*ROOMS[room], *EVERYWHERE])
        return (
            f"{where(found.file, found.line)}: {room} imports {found.module}; expected a module"
            f" of {allowed}; move the code, or change [tool.house] of pyproject.toml"
        )

    none_of(
        [
            sentence(room, found)
            for module, path in MODULES.items()
            if module != "common" and (room := room_of(module)) in ROOMS
            for found in imports_of(path, MODULES)
            if room_of(found.module) not in {room, *ROOMS[room], *EVERYWHERE}
        ]
    )


def test_the_table_lists_every_package_and_no_other():
    assert set(ROOMS) == {room_of(module) for module in MODULES} - {"common"}


def test_the_table_runs_one_way_from_bottom_to_top():
    order = list(ROOMS)
    none_of(
        [
            f"pyproject.toml, [tool.house.rooms]: {room} imports {target}, which is not below it"
            for room, targets in ROOMS.items()
            for target in targets
            if target not in order[: order.index(room)]
        ]
    )
    assert not any(ROOMS[room] for room in EVERYWHERE)


def test_modules_have_no_circle():
    graph = {
        module: {found.module for found in imports_of(path, MODULES)} - {module}
        for module, path in MODULES.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("modules import each other: " + " <- ".join(error.args[1]), pytrace=False)


def test_every_imported_module_exists():
    none_of(
        [
            f"{where(found.file, found.line)}: imports {found.module}, which does not exist"
            for path in [*MODULES.values(), *SCRIPTS, *BENCHMARKS]
            for found in imports_of(path, MODULES)
            if found.module not in MODULES
        ]
    )


def test_scripts_do_not_import_each_other():
    scripts = {path.stem for path in SCRIPTS} | {"pipeline", "benchmarks"}
    others = {path.stem for path in BENCHMARKS} - {path.stem for path in ROOT.glob("*.py")}
    none_of(
        [
            f"{where(path, line)}: imports the script {target}; move the shared code to common/"
            for paths, names in (
                ([*SCRIPTS, *MODULES.values()], scripts | others),
                (BENCHMARKS, {"benchmarks", *others}),  # they measure scripts
            )
            for path in paths
            for line, target in all_imports(path)
            if target.split(".")[0] in names
        ]
    )


def all_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every absolute import of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or ""


def test_the_reader_of_imports_finds_each_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(draw_house, "ROOT", tmp_path)
    path = tmp_path / "common" / "drr" / "joseph.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import common.files.atomic\n"
        "from common import errors, progress\n"
        "from common.geometry import camera, project\n"
        "from . import renderer\n"
        "if TYPE_CHECKING:\n"
        "    from common.volume.volume import Volume\n"
        "def f():\n"
        "    from ..xray import reading\n"
        "    importlib.import_module('common.results')\n"
        "    import numpy\n"
    )
    known = dict.fromkeys(
        [
            "common.errors",
            "common.progress",
            "common.geometry",
            "common.geometry.camera",
            "common.drr.renderer",
            "common.xray.reading",
        ],
        path,
    )
    assert {(found.line, found.module) for found in imports_of(path, known)} == {
        (1, "common.files.atomic"),
        (2, "common.errors"),
        (2, "common.progress"),
        (3, "common.geometry.camera"),
        (3, "common.geometry"),
        (4, "common.drr.renderer"),
        (6, "common.volume.volume"),
        (8, "common.xray.reading"),
        (9, "common.results"),
    }


# ------------------------------------------------------------------------ only the command line may


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call))


def test_only_the_command_line_imports_argparse():
    none_of(
        [
            f"{where(path, line)}: imports argparse; only common/command_line may"
            for path in BELOW_THE_COMMAND_LINE
            for line, target in all_imports(path)
            if target == "argparse"
        ]
    )


def test_only_the_command_line_prints():
    none_of(
        [
            f"{where(path, call.lineno)}: prints; use logging, or return the text to the script"
            for path in BELOW_THE_COMMAND_LINE
            for call in calls(path)
            if isinstance(call.func, ast.Name) and call.func.id == "print"
        ]
    )


def test_no_message_below_the_command_line_names_a_flag():
    none_of(
        [
            f"{where(path, call.lineno)}: the message names {flag[0]}; write the setting in"
            " backticks, the command line shows it as its flag"
            for path in BELOW_THE_COMMAND_LINE
            for call in calls(path)
            if is_message(call)
            for node in ast.walk(call)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            for flag in FLAG.finditer(node.value)
        ]
    )


def is_message(call: ast.Call) -> bool:
    """Whether a call makes an InputError, opens a block that makes one, or logs."""
    match call.func:
        case ast.Name(id="InputError" | "reading") | ast.Attribute(attr="InputError" | "reading"):
            return True
        case ast.Attribute(value=ast.Name(id="logger"), attr=method):
            return method in LOG_METHODS
    return False


def test_no_module_keeps_state_that_calls_share():
    none_of(
        [
            f"{where(path, line)}: changes {name}, which two calls would share; pass it instead"
            for path in MODULES.values()
            for line, name in shared_writes(TREES[path])
        ]
    )


def shared_writes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of every change that a function makes to a name of its module."""
    names = {
        target.id
        for statement in tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (
            statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        )
        if isinstance(target, ast.Name)
    }
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        nodes = list(ast.walk(function))
        own = {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        } | {node.arg for node in nodes if isinstance(node, ast.arg)}
        for node in nodes:
            match node:
                case ast.Global(names=written):
                    yield from ((node.lineno, name) for name in written)
                case (
                    ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del())
                    | ast.Attribute(value=ast.Name(id=name), ctx=ast.Store() | ast.Del())
                ) if name in names - own:
                    yield node.lineno, name
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if (
                    name in names - own and method in MUTATORS
                ):
                    yield node.lineno, name


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("def f():\n    global A\n    A = 1", [(3, "A")]),
        ("def f():\n    A[1] = 2", [(3, "A")]),
        ("def f():\n    A.append(2)", [(3, "A")]),
        ("def f():\n    A.size = 2", [(3, "A")]),
        ("def f():\n    A = []\n    A.append(2)", []),
        ("def f(A):\n    A.append(2)", []),
        ("A.append(1)", []),
    ],
)
def test_the_reader_of_shared_state_finds_each_kind(body, found):
    assert list(shared_writes(ast.parse(f"A = []\n{body}\n"))) == found


# -------------------------------------------------------------------------------------- the drawing


def test_the_drawing_of_the_house_is_up_to_date(capsys):
    assert draw_house.main(["--check"]) == 0, capsys.readouterr().err


def test_arrows_leave_out_what_a_chain_implies_and_floors_are_lengths_of_chains():
    imports = {"files": [], "volume": ["files"], "drr": ["files", "volume"], "xray": ["files"]}
    assert draw_house.arrows(imports) == [
        ("volume", "files"),
        ("drr", "volume"),
        ("xray", "files"),
    ]
    assert draw_house.floors(imports) == {"files": 0, "volume": 1, "drr": 2, "xray": 1}
