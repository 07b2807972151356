"""Web pages of a report: one file each, from the templates, that needs no network."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.reports.registered import NUMBERS, Registered

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).resolve().parent / "templates"

RowVerdict = Literal["missing", "failed", "suspect", "ok"]
# in the order of the tables
SEVERITY: tuple[RowVerdict, ...] = ("missing", "failed", "suspect", "ok")


@dataclass(frozen=True)
class Column:
    """A column of a table of registrations."""

    title: str
    unit: str = ""
    number: bool = False

    def format(self, value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"


@dataclass(frozen=True)
class Row:
    """A row of a table of registrations; ``cells`` are the values of the further columns."""

    name: str
    link: str  # URL, relative to the page; empty without one
    verdict: RowVerdict
    reason: str
    cells: dict[str, float | str] = field(default_factory=dict)

    @property
    def severity(self) -> int:
        return SEVERITY.index(self.verdict)

    @property
    def doubt(self) -> tuple[int, float]:
        """Severity of the verdict, then the chance that the pose is wrong: the order of a page.

        An unknown chance comes first.
        """
        return self.severity, -float(self.cells.get("wrong_probability", 1.0))


def row_of(registered: Registered, name: str, link: str, **cells: str) -> Row:
    """Return the row of a registration."""
    reason = "; ".join(registered.result.verdict.reasons)
    return Row(name, link, registered.verdict, reason, {**registered.numbers, **cells})


def columns_of(rows: Sequence[Row]) -> dict[str, Column]:
    """Return the columns that any row fills: name, verdict and numbers."""
    filled = {
        key: Column(number.title, number.unit, True)
        for key, number in NUMBERS.items()
        if any(key in row.cells for row in rows)
    }
    return {"name": Column("registration"), "verdict": Column("verdict"), **filled}


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 registration" or "3 registrations"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def markup(text: str) -> Markup:
    """Return text that a template inserts as it is."""
    from markupsafe import Markup

    return Markup(text)


def render(
    template: str,
    title: str,
    subtitle: str,
    content: dict[str, Any],
    script: str = "report.js",
    author: str = "pipeline/report.py",
) -> str:
    """Return the page of a template, with style and script inside; ``author`` made it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    footer = (
        f"Created on {datetime.date.today().isoformat()} by {author}. This file contains"
        " everything on this page."
    )
    return environment.get_template(template).render(
        title=title,
        subtitle=subtitle,
        footer=footer,
        style=_asset("style.css"),
        script=_asset(script),
        **content,
    )


def _asset(name: str) -> Markup:
    return markup((TEMPLATES / name).read_text(encoding="utf-8"))
