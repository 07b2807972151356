"""Before slow work: does the X-ray's geometry make sense together with this CT? One picture, one table, and for every finding what to change.

`examine` looks at one view and a start pose. A quick registration tells whether the picture fits; only where it does not are turned, mirrored and inverted pictures tried,
and only a clearly better one becomes a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common import files, geometry
from common.drr.renderer import Renderer
from common.geometry import Detector
from common.progress import track
from common.registration.competition import compete_from
from common.registration.pyramid import View
from common.registration.scene import Structure
from common.registration.starts import Starter
from common.registration.verdict import SUSPECT_SIMILARITY
from common.xray.dicom import ANATOMY
from common.xray.xray import Xray, inverted, turned

SDD_MM, PIXEL_MM, DETECTOR_MM = (
    (500.0, 2500.0),
    (0.05, 1.5),
    (60.0, 600.0),
)  # of clinical and laboratory X-rays of limbs and trunk
MAGNIFICATION = (1.02, 3.0)
SAME_DISTANCE = 0.2  # relative: the header's patient is a point near the bone, and one view says little about depth
SURE_SIMILARITY = 0.8  # a picture that fits so well is not turned: a mirrored frontal femur reached 0.65, the right one 0.89
CLEARLY = 2.0  # times as much contrast stays unexplained (1 - similarity^2) the wrong way round: 2.8 for that femur; 1.6 for a tibia that the search had missed and a femur upside down resembled
PICTURE = "check.png"
LINE = 85  # characters of a finding under a picture
STARTS = 4  # of a search, refined for a quick registration
AS_IT_IS = "as it is"
TURNS = {"by 90 degrees anticlockwise": 1, "by 180 degrees": 2, "by 90 degrees clockwise": 3}


@dataclass(frozen=True)
class Finding:
    """``impossible`` stops, ``likely`` is probably a mistake, ``note`` is worth knowing."""

    severity: str
    what: str
    change: str


@dataclass(frozen=True)
class Report:
    """What `examine` found in one view."""

    rows: list[tuple[str, str]]  # the table
    findings: list[Finding]
    drr: np.ndarray  # (H, W) at the start pose
    fits: dict[str, float] = field(
        default_factory=dict
    )  # similarity of each orientation of the picture that was tried


def examine(
    xray: Xray,
    renderer: Renderer,
    points: np.ndarray,
    camera: np.ndarray,
    scanner_from_volume: np.ndarray,
    fit: Callable[[Xray], float] | None = None,
) -> Report:
    """Check an X-ray against a body (its renderer and points (N, 3), mm) seen by ``camera`` (volume_from_camera).

    ``fit`` registers a picture quickly and returns the similarity; without it the picture's orientation is not judged.
    """
    detector = xray.detector
    centre = geometry.apply(geometry.invert(camera), renderer.centre_mm)
    findings = _detector_findings(detector)
    in_view, facing = _in_view(points, detector, camera, centre, findings)
    fits = (
        orientation_fits(xray, fit) if fit and not findings else {}
    )  # with a wrong geometry any orientation may fit
    findings += [Finding("likely", *_split(text)) for text in xray.reading.get("findings", [])]
    drr = (
        renderer.render(camera[None], detector)[0]
        if centre[2] > 0
        else np.zeros((detector.height, detector.width), np.float32)
    )
    if xray.reading.get("decided_by", "").startswith("guess"):
        findings.append(
            Finding(
                "note",
                f"bone was guessed to be {xray.reading['bone']} in the stored values",
                "look at the picture; --bone bright or --bone dark overrules",
            )
        )
    if fits:
        findings += _orientation_findings(fits, xray.flipped)
    if facing:
        findings += [
            *_distance_findings(xray, centre[2]),
            *_patient_findings(xray, camera, scanner_from_volume),
        ]
    magnification = detector.sdd_mm / centre[2] if centre[2] > 0 else float("nan")
    field_mm = [size / magnification for size in detector.size_mm]
    rows = [
        (
            "X-ray",
            (
                f"{xray.path.name}, {detector.width} x {detector.height}"
                f" pixels{', flipped left to right' if xray.flipped else ''}"
            ),
        ),
        ("geometry from", str(xray.reading.get("geometry"))),
        ("source to detector", f"{detector.sdd_mm:.1f} mm"),
        (
            "pixel at the detector",
            (
                f"{detector.pixel_mm[0]:.4f} x {detector.pixel_mm[1]:.4f} mm; detector"
                f" {detector.size_mm[0]:.0f} x {detector.size_mm[1]:.0f} mm"
            ),
        ),
        (
            "principal point",
            f"{detector.principal_px[0]:.1f}, {detector.principal_px[1]:.1f} (column, row)",
        ),
        ("source to isocentre", f"{centre[2]:.1f} mm"),
        ("magnification", f"{magnification:.3f}"),
        ("field at the isocentre", f"{field_mm[0]:.0f} x {field_mm[1]:.0f} mm"),
        ("bone in view", f"{100 * in_view:.0f} %"),
        ("bone in the file", f"{xray.reading.get('bone')} ({xray.reading.get('decided_by')})"),
        *[
            (f"similarity {name}", f"{value:.2f}")
            for name, value in sorted(fits.items(), key=lambda entry: -entry[1])[:3]
        ],
    ]
    return Report(rows, findings, drr, fits)


def examine_views(
    views: Sequence[View], structure: Structure, starter: Starter, seed: int
) -> list[Report]:
    """Check each view against a structure at the starter's first pose; the orientation of a single view is judged by quick registrations."""
    start = starter(views, structure)[0]
    cameras = [start @ view.rig_from_camera for view in views]
    body, frame = structure.body, structure.ct.lineage.scanner_from_volume

    def fit(xray: Xray) -> float:
        """Similarity of a registration that starts as the real one would; a stated pose stays where it is."""
        view = View(xray)
        stated = starter.method in ("fixed", "dicom")
        starts = [cameras[0]] if stated else starter([view], structure)[:STARTS]
        solution = compete_from([view], body, starts, seed)
        return solution.fit.similarity if solution else -1.0

    quick = fit if len(views) == 1 else None
    return [
        examine(view.xray, body.renderer, body.points, camera, frame, quick)
        for view, camera in zip(views, cameras, strict=True)
    ]


def _detector_findings(detector: Detector) -> list[Finding]:
    findings = []
    if not SDD_MM[0] <= detector.sdd_mm <= SDD_MM[1]:
        findings.append(
            Finding(
                "likely",
                f"SDD {detector.sdd_mm:g} mm; expected {SDD_MM[0]:g} to {SDD_MM[1]:g} mm",
                "correct --sdd or the header; is it in centimetres?",
            )
        )
    if not all(PIXEL_MM[0] <= pixel <= PIXEL_MM[1] for pixel in detector.pixel_mm):
        findings.append(
            Finding(
                "likely",
                f"pixels of {detector.pixel_mm[0]:.4g} x {detector.pixel_mm[1]:.4g} mm; expected"
                f" {PIXEL_MM[0]:g} to {PIXEL_MM[1]:g} mm",
                "correct --pixel_spacing or the header",
            )
        )
    if not all(DETECTOR_MM[0] <= size <= DETECTOR_MM[1] for size in detector.size_mm):
        findings.append(
            Finding(
                "likely",
                f"the detector measures {detector.size_mm[0]:.0f} x {detector.size_mm[1]:.0f} mm;"
                f" expected {DETECTOR_MM[0]:g} to {DETECTOR_MM[1]:g} mm a side",
                "correct --pixel_spacing: was the picture resized?",
            )
        )
    ratio = detector.pixel_mm[0] / detector.pixel_mm[1]
    if not 0.9 < ratio < 1.1:
        findings.append(
            Finding(
                "likely",
                f"pixels are {ratio:.2f} times as wide as high",
                "check the order of --pixel_spacing: width, then height",
            )
        )
    off = np.abs(
        np.array(detector.principal_px) - [(detector.width - 1) / 2, (detector.height - 1) / 2]
    ) / [detector.width, detector.height]
    if off.max() > 0.5:
        findings.append(
            Finding(
                "likely",
                f"the principal point ({detector.principal_px[0]:.0f},"
                f" {detector.principal_px[1]:.0f}) lies outside the picture",
                "check --principal_point: column, then row, in pixels from 0",
            )
        )
    return findings


def _in_view(
    points: np.ndarray,
    detector: Detector,
    camera: np.ndarray,
    centre: np.ndarray,
    findings: list[Finding],
) -> tuple[float, bool]:
    """Share of the points inside the picture, and whether the bone lies between source and detector."""
    if centre[2] <= 0:
        findings.append(
            Finding(
                "impossible",
                f"the bone lies {-centre[2]:.0f} mm behind the source at the start pose",
                "check the start pose, or use --init search",
            )
        )
        return 0.0, False
    magnification = detector.sdd_mm / centre[2]
    if magnification < MAGNIFICATION[0]:
        findings.append(
            Finding(
                "impossible",
                f"the isocentre is {centre[2]:.0f} mm from the source, the detector only"
                f" {detector.sdd_mm:.0f} mm",
                "raise --sdd, or lower --ty (distance from source to isocentre)",
            )
        )
    elif magnification > MAGNIFICATION[1]:
        findings.append(
            Finding(
                "likely",
                f"the magnification is {magnification:.1f}",
                "check --sdd and the distance from source to isocentre (--ty)",
            )
        )
    pixels = geometry.project(points, detector, camera)
    share = float(
        ((pixels >= 0) & (pixels <= np.array([detector.width, detector.height]) - 1))
        .all(axis=1)
        .mean()
    )
    if share < 0.05:
        findings.append(
            Finding(
                "impossible",
                "nothing of the bone is inside the picture at the start pose",
                "check the pixel size and the principal point, or use --init search with a wider"
                " range",
            )
        )
    elif share < 0.5:
        findings.append(
            Finding(
                "likely",
                f"only {100 * share:.0f} % of the bone is inside the picture at the start pose",
                "check the pixel size, the distances and --mask",
            )
        )
    return share, True


def orientation_fits(xray: Xray, fit: Callable[[Xray], float]) -> dict[str, float]:
    """Similarity that a quick registration reaches with the picture as it is and, where that is not sure, inverted, mirrored and turned, until one is.

    ``fit`` registers a picture and returns the similarity, -1 where nothing was found.
    """
    fits = {AS_IT_IS: fit(xray)}
    if fits[AS_IT_IS] >= SURE_SIMILARITY:
        return fits
    others = {
        "inverted": inverted(xray),
        "mirrored": xray.flip(),
        "mirrored and inverted": inverted(xray.flip()),
    }
    for name, quarters in TURNS.items():
        others |= {
            f"turned {name}": turned(xray, quarters),
            f"mirrored and turned {name}": turned(xray.flip(), quarters),
        }
    for name, picture in track(
        list(others.items()), what="orientations of the picture", unit="orientation"
    ):
        fits[name] = fit(picture)
        if fits[name] >= SURE_SIMILARITY:
            break
    return fits


def _orientation_findings(fits: dict[str, float], flipped: bool) -> list[Finding]:
    best = max(fits, key=lambda name: fits[name])
    unexplained = {name: 1 - max(similarity, 0) ** 2 for name, similarity in fits.items()}
    if fits[best] >= SUSPECT_SIMILARITY and unexplained[AS_IT_IS] >= CLEARLY * unexplained[best]:
        changes = []
        if "inverted" in best:
            changes.append("give --bone with the other value")
        if "mirrored" in best:
            changes.append(f"give --flip {'no' if flipped else 'yes'}, or check --side")
        if "turned" in best:
            changes.append(
                f"turn the file itself {best.partition('turned ')[2]}, and its principal point; no"
                " flag does"
            )
        return [
            Finding(
                "likely",
                f"the picture fits {best} (similarity {fits[best]:.2f}) and not as it is"
                f" ({fits[AS_IT_IS]:.2f})",
                "; ".join(changes),
            )
        ]
    if fits[AS_IT_IS] < SUSPECT_SIMILARITY:
        return [
            Finding(
                "note",
                f"the rendering explains little of the picture (similarity {fits[AS_IT_IS]:.2f}),"
                " however it is turned",
                "is this the right bone and mask, are pixel size and SDD right, and does the pose"
                " range (--r1 ... --tz) cover the view? look at check.png",
            )
        ]
    return []


def _patient_findings(
    xray: Xray, camera: np.ndarray, scanner_from_volume: np.ndarray
) -> list[Finding]:
    """Where the header's PatientOrientation points elsewhere than the start pose does."""
    stated = xray.reading.get("patient_orientation")
    if not stated:
        return []
    scanner_from_camera = (scanner_from_volume @ camera)[:3, :3] @ (
        np.diag([-1.0, 1, 1]) if xray.flipped else np.eye(3)
    )
    for letters, direction, what in zip(
        stated, scanner_from_camera.T[:2], ("columns", "rows"), strict=True
    ):
        if not letters or letters[0] not in ANATOMY:
            continue
        axis, sign = ANATOMY[letters[0]]
        if sign * direction[axis] < -0.7:
            return [
                Finding(
                    "likely",
                    f"PatientOrientation says that {what} run towards {letters[0]}; at the start"
                    " pose they run the other way",
                    "check --flip, or the view (orientation) of the start pose",
                )
            ]
    return []


def _distance_findings(xray: Xray, distance_mm: float) -> list[Finding]:
    """Where the header's DistanceSourceToPatient is far from that of the start pose."""
    stated = xray.reading.get("source_to_patient_mm")
    if not stated or abs(distance_mm / stated - 1) < SAME_DISTANCE:
        return []
    return [
        Finding(
            "likely",
            f"DistanceSourceToPatient is {stated:.0f} mm; the start pose puts the bone"
            f" {distance_mm:.0f} mm from the source",
            "check the pixel size and --sdd, and whether the range of --ty holds the header's"
            " distance",
        )
    ]


def _split(text: str) -> tuple[str, str]:
    what, _, change = text.rpartition("; ")
    return what, change


def table(reports: Sequence[Report]) -> str:
    """The rows of every view, then its findings, as text."""
    lines = []
    for report in reports:
        width = max(len(name) for name, _ in report.rows)
        lines += [f"{name:<{width}}  {value}" for name, value in report.rows]
        lines += [
            f"{finding.severity.upper()}: {finding.what}."
            f" {finding.change[:1].upper()}{finding.change[1:]}{'' if finding.change.endswith('?') else '.'}"
            for finding in report.findings
        ] or ["nothing to change"]
        lines.append("")
    return "\n".join(lines).rstrip()


def write_picture(
    path: Path, reports: Sequence[Report], pictures: Sequence[np.ndarray], titles: Sequence[str]
) -> None:
    """``check.png``: each X-ray (uint8) beside the rendering at its start pose, with the findings under them."""
    import textwrap

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(reports), 2, figsize=(11, 6.2 * len(reports)), squeeze=False, layout="constrained"
    )
    for (left, right), report, picture, title in zip(axes, reports, pictures, titles, strict=True):
        left.imshow(picture, cmap="gray")
        left.set_title(report.rows[0][1], fontsize=9)
        right.imshow(report.drr, cmap="gray")
        right.set_title(f"rendering at the start pose ({title})", fontsize=9)
        left.contour(
            report.drr > 0.05 * max(report.drr.max(), 1e-9),
            [0.5],
            colors="tab:orange",
            linewidths=1,
        )
        text = (
            "\n".join(
                textwrap.fill(f"{f.severity}: {f.what}: {f.change}", LINE) for f in report.findings
            )
            or "nothing to change"
        )
        left.set_xlabel(text, fontsize=8, loc="left")
        right.set_xlabel(
            ", ".join(
                f"{name} {value}"
                for name, value in report.rows
                if name in ("magnification", "field at the isocentre", "bone in view")
            ),
            fontsize=8,
        )
        for axis in (left, right):
            axis.set_xticks([])
            axis.set_yticks([])
    with files.writing(path) as stream:
        figure.savefig(stream, dpi=110, format="png")
    plt.close(figure)


def impossible(reports: Sequence[Report]) -> bool:
    """Whether a finding makes the registration impossible."""
    return any(
        finding.severity == "impossible" for report in reports for finding in report.findings
    )
