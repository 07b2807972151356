"""Sphinx settings: `make docs` writes docs/_build/html, with script pages from their parsers."""

import importlib
import os
import sys
import tomllib
from pathlib import Path

from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs import draw_house  # noqa: E402  (the checkout is on the path only now)

project, author = "Where is the bone?", "the contributors"
project_copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc"]  # myst_nb reads Markdown too
nb_execution_mode = "force"  # the tutorial runs while the documentation builds
nb_execution_timeout = 300
nb_execution_raise_on_error = True
autodoc_typehints = "signature"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_show_copyright = False

METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
STEPS = tuple(METADATA["project"]["scripts"])  # in the order of the work
WIDTH = "110"  # characters of a help text


def script_pages() -> dict[str, str]:
    """{name: page} of every script: its parser's help, and nothing else."""
    os.environ["COLUMNS"] = WIDTH
    pages = {}
    for module in [
        *STEPS,
        *(f"pipeline.{path.stem}" for path in sorted((ROOT / "pipeline").glob("*.py"))),
    ]:
        parser = importlib.import_module(module).build_parser()
        parser.prog = module.replace(".", "/") + ".py"
        pages[module.split(".")[-1]] = (
            f"# {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```\n"
        )
    return pages


def write_script_pages(*_) -> None:
    folder = ROOT / "docs" / "scripts"
    folder.mkdir(exist_ok=True)
    pages = script_pages()
    toc = "\n".join(pages)
    for name, text in {
        **pages,
        "index": (
            "# The scripts\n\nEach page is what `--help` prints.\n\n```{toctree}\n:maxdepth:"
            f" 1\n\n{toc}\n```\n"
        ),
    }.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def check_the_house(*_) -> None:
    """Warn of a drawing that is out of date; `make docs` turns warnings into errors."""
    for path in draw_house.out_of_date():
        logging.getLogger(__name__).warning(
            f"{path.relative_to(ROOT)} is out of date: run python docs/draw_house.py"
        )


def setup(app) -> None:
    app.connect("builder-inited", check_the_house)
    app.connect("builder-inited", write_script_pages)
