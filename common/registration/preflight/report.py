"""The result of a preflight check: a table, findings, and an image of X-ray and DRR."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from common import files
from common.xray.outline import OUTLINE_SHARE

# impossible: registration cannot work; likely: probably a mistake; note: worth knowing
Severity: TypeAlias = Literal["impossible", "likely", "note"]

NO_FINDING = "nothing to change"
LINE_CHARACTERS = 85  # of findings below an image
BELOW_DRR = ("magnification", "field at the isocentre", "bone in view")  # rows shown there


@dataclass(frozen=True)
class Finding:
    """What is wrong or doubtful, and what to change."""

    severity: Severity
    what: str
    change: str


@dataclass(frozen=True)
class Report:
    """The preflight check of one view."""

    rows: list[tuple[str, str]]  # name and value
    findings: list[Finding]
    drr: np.ndarray  # (H, W) at the start pose
    # similarity by orientation of the X-ray, for those that were tried
    fits: dict[str, float] = field(default_factory=dict)

    def worded(self, word: Callable[[str], str]) -> Report:
        """Return the report with ``word`` applied to the texts of its findings.

        A command line replaces settings in backticks by its flags.
        """
        findings = [
            Finding(each.severity, word(each.what), word(each.change)) for each in self.findings
        ]
        return replace(self, findings=findings)


def impossible(reports: Sequence[Report]) -> bool:
    """Return whether a finding makes the registration impossible."""
    return any(
        finding.severity == "impossible" for report in reports for finding in report.findings
    )


def table(reports: Sequence[Report]) -> str:
    """Return the rows of every view as text, each followed by its findings."""
    lines = []
    for report in reports:
        width = max(len(name) for name, _ in report.rows)
        lines += [f"{name:<{width}}  {value}" for name, value in report.rows]
        lines += [_sentences(finding) for finding in report.findings] or [NO_FINDING]
        lines.append("")
    return "\n".join(lines).rstrip()


def _sentences(finding: Finding) -> str:
    change = finding.change[:1].upper() + finding.change[1:]
    stop = "" if change.endswith("?") else "."
    return f"{finding.severity.upper()}: {finding.what}. {change}{stop}"


def write_image(
    path: Path, reports: Sequence[Report], images: Sequence[np.ndarray], titles: Sequence[str]
) -> None:
    """Write each X-ray (uint8) next to the DRR at its start pose, with the findings, as PNG.

    ``titles`` name the start poses.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(reports), 2, figsize=(11, 6.2 * len(reports)), squeeze=False, layout="constrained"
    )
    for (left, right), report, image, title in zip(axes, reports, images, titles, strict=True):
        left.imshow(image, cmap="gray")
        left.set_title(report.rows[0][1], fontsize=9)
        right.imshow(report.drr, cmap="gray")
        right.set_title(f"DRR at the start pose ({title})", fontsize=9)
        shape = report.drr > OUTLINE_SHARE * max(report.drr.max(), 1e-9)
        left.contour(shape, [0.5], colors="tab:orange", linewidths=1)
        left.set_xlabel(_below_xray(report), fontsize=8, loc="left")
        right.set_xlabel(_below_drr(report), fontsize=8)
        for axis in (left, right):
            axis.set_xticks([])
            axis.set_yticks([])
    with files.writing(path) as stream:
        figure.savefig(stream, dpi=110, format="png")
    plt.close(figure)


def _below_xray(report: Report) -> str:
    lines = [
        textwrap.fill(f"{each.severity}: {each.what}: {each.change}", LINE_CHARACTERS)
        for each in report.findings
    ]
    return "\n".join(lines) or NO_FINDING


def _below_drr(report: Report) -> str:
    return ", ".join(f"{name} {value}" for name, value in report.rows if name in BELOW_DRR)
