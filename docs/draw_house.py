"""Draw the house from its imports: the table and the picture of docs/house.md.

reads   every module under common/ and [tool.house] of pyproject.toml
writes  the part of docs/house.md between its markers, and docs/house.svg
exit    0, or with --check 1 if a file is out of date
example python docs/draw_house.py --check
"""

import argparse
import ast
import html
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs/house.md", ROOT / "docs/house.svg"
BEGIN, END = "<!-- drawn by docs/draw_house.py -->", "<!-- end of drawing -->"
WIDTH, FLOOR_HEIGHT, BOX_HEIGHT, CHARACTER = 900, 88, 44, 10.5  # of the picture, in pixels


@dataclass(frozen=True)
class Import:
    """One module of common/ imported by a file, on one line of it."""

    file: Path
    line: int
    module: str  # dotted name of the module that is imported


def table() -> tuple[list[str], dict[str, list[str]]]:
    """Rooms that any room may import, and the rooms that each room may import, bottom to top."""
    house = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["house"]
    return house["everywhere"], house["rooms"]


def modules() -> dict[str, Path]:
    """{dotted name: file} of every module under common/, packages included."""
    found = {}
    for path in sorted((ROOT / "common").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """Package or module directly under common/ that a dotted name belongs to."""
    return module.split(".")[1] if "." in module else module


def imports_of(path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """Every import of a module of common/ in a file.

    Imports inside functions, under TYPE_CHECKING and by ``import_module("...")`` are included.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = _absolute(node, path)
            names = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if name in known else base for name in names]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif _is_import_module(node):
            targets = [node.args[0].value]
        else:
            continue
        for target in dict.fromkeys(targets):
            if target.split(".")[0] == "common":
                yield Import(path, node.lineno, target)


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """Dotted name of the module that ``from ... import`` names, relative or not."""
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _is_import_module(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("import_module")
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
    )


def room_imports() -> dict[str, list[str]]:
    """{room: rooms that it imports}, both in the order of the table; ``everywhere`` is left out."""
    everywhere, rooms = table()
    known = modules()
    drawn: dict[str, set[str]] = {room: set() for room in rooms}
    for module, path in known.items():
        if module != "common":
            drawn[room_of(module)] |= {room_of(found.module) for found in imports_of(path, known)}
    return {
        room: [
            other
            for other in rooms
            if other in targets and other != room and other not in everywhere
        ]
        for room, targets in drawn.items()
    }


def purpose(room: str) -> str:
    """First paragraph of the docstring of a package or module, on one line."""
    path = modules()[f"common.{room}"]
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def rows() -> str:
    """The table of docs/house.md, bottom to top."""
    found = modules()
    lines = ["| package | purpose | modules | imports |", "|---|---|---|---|"]
    for room, targets in room_imports().items():
        if f"common.{room}" not in found:
            continue
        prefix = f"common.{room}."
        inside = [name.removeprefix(prefix) for name in found if name.startswith(prefix)]
        lines.append(
            f"| `{room}` | {purpose(room)} | {_code(inside)} | {_code(targets)} |".replace(
                "  ", " "
            )
        )
    return "\n".join(lines)


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def floors(imports: dict[str, list[str]]) -> dict[str, int]:
    """{room: number of imports in the longest chain below it}."""
    heights: dict[str, int] = {}
    for room, targets in imports.items():  # the table's order: imports stand above their room
        heights[room] = 1 + max((heights.get(target, 0) for target in targets), default=-1)
    return heights


def arrows(imports: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Imports that no longer chain of imports implies."""
    below: dict[str, set[str]] = {}
    for room, targets in imports.items():
        below[room] = set(targets).union(*(below.get(target, ()) for target in targets))
    return [
        (room, target)
        for room, targets in imports.items()
        for target in targets
        if not any(target in below.get(other, ()) for other in targets)
    ]


def _beneath(room: str, drawn: list[tuple[str, str]], boxes: dict) -> float:
    """Mean column of the boxes that a room's arrows point to, so that few arrows cross."""
    columns = [boxes[target][0] for other, target in drawn if other == room and target in boxes]
    return sum(columns) / len(columns) if columns else 0.0


def picture() -> str:
    """The house as SVG: one floor per length of chain, arrows without those that others imply."""
    everywhere, _ = table()
    found = modules()
    imports = {
        room: targets
        for room, targets in room_imports().items()
        if room not in everywhere and f"common.{room}" in found
    }
    heights = floors(imports)
    top = max(heights.values()) + 2
    boxes = {
        "scripts, pipeline, benchmarks": (WIDTH / 2, top, WIDTH - 40),
        ", ".join(everywhere): (WIDTH / 2, 0, WIDTH - 40),
    }
    drawn = arrows(imports)
    for floor in range(top - 1):
        here = [room for room in imports if heights[room] == floor]
        for index, room in enumerate(sorted(here, key=lambda room: _beneath(room, drawn, boxes))):
            centre = WIDTH * (index + 0.5) / len(here)
            boxes[room] = (centre, floor + 1, 30 + CHARACTER * len(room))
    total = FLOOR_HEIGHT * (top + 1)

    def middle(floor: int) -> float:
        return total - FLOOR_HEIGHT * (floor + 0.5)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" role="img"'
        ' font-family="sans-serif" font-size="17" text-anchor="middle">',
        "<title>Packages of common/ and their imports</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path d="M0 0L10 5L0 10z" fill="#4a5568"/></marker>'
        "</defs>",
        f'<rect width="{WIDTH}" height="{total}" fill="#ffffff"/>',
    ]
    for room, target in drawn:
        (x1, f1, _), (x2, f2, _) = boxes[room], boxes[target]
        y1, y2 = middle(f1) + BOX_HEIGHT / 2, middle(f2) - BOX_HEIGHT / 2
        lines.append(
            f'<path d="M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + 30:.0f} {x2:.0f} {y2 - 30:.0f} {x2:.0f}'
            f' {y2:.0f}" fill="none" stroke="#4a5568" stroke-width="1.5" marker-end="url(#head)"/>'
        )
    for name, (x, floor, width) in boxes.items():
        y = middle(floor)
        lines.append(
            f'<rect x="{x - width / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}" width="{width:.0f}"'
            f' height="{BOX_HEIGHT}" rx="6" fill="#e8eef5" stroke="#2c5282"/>'
            f'<text x="{x:.0f}" y="{y + 6:.0f}" fill="#1a202c">{html.escape(name)}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def files() -> dict[Path, str]:
    """{path: text} of what this script writes."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return {PAGE: f"{before}{BEGIN}\n\n{rows()}\n\n{END}{after}", PICTURE: picture()}


def out_of_date() -> list[Path]:
    """Files that differ from what this script would write."""
    return [
        path
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    args = parser.parse_args(argv)
    stale = out_of_date()
    for path in stale:
        if args.check:
            print(
                f"{path.relative_to(ROOT)}: out of date; expected the imports of today;"
                " run python docs/draw_house.py",
                file=sys.stderr,
            )
        else:
            path.write_text(files()[path], encoding="utf-8")
            print(path.relative_to(ROOT))
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
