"""Where the workflow of a cohort puts its files. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common import files
from common.results import names
from common.results.cohort import CohortXray

# below the output folder
RESULTS = "results/{patient}/{bone}/{view}"
REPORT = "reports/{patient}.html"
KINEMATICS = "kinematics/{patient}_{side}/kinematics.csv"
FAILED = "failed"  # content of a stage's output (.txt) if the cohort continues without the patient
# one process writes the headers of all X-rays of a patient; there when it has ended
HEADERS = "patients/{patient}/headers.txt"
# one process registers all X-rays of a patient: "failed" if some of them have no result
REGISTERED = "patients/{patient}/registered.txt"


@dataclass(frozen=True)
class Stage:
    """A rule of the workflow: patterns of its main output and its log, below the output folder."""

    output: str
    log: str


# in order of execution; the stages of the preparation (.txt) write what they made, or "failed", so
# that the cohort continues without the patient
STAGES = {
    "crop": Stage("patients/{patient}/crop.txt", "logs/crop/{patient}.log"),
    "align": Stage("patients/{patient}/{bone}_align.txt", "logs/align/{patient}_{bone}.log"),
    "agnostic": Stage("models/{bone}.pth", "logs/agnostic/{bone}.log"),
    "finetune": Stage(
        "models/{patient}_{bone}_{side}.pth", "logs/finetune/{patient}_{bone}_{side}.log"
    ),
    "header": Stage("xrays/{patient}/{view}.dcm", "logs/header/{patient}_{view}.log"),
    "register": Stage(f"{RESULTS}/{names.PARAMETERS}", "logs/register/{patient}.log"),
    "drr": Stage(f"{RESULTS}/{names.DRR}", "logs/drr/{patient}_{bone}_{view}.log"),
    "evaluate": Stage(f"{RESULTS}/{names.EVALUATION}", "logs/evaluate/{patient}_{bone}_{view}.log"),
}
TRAINING = ("agnostic", "finetune")


def link_name(patient: str, what: str, path: Path) -> str:
    """Return the name of a link to a CT (``what`` ct) or segmentation (seg): scripts use its stem.

    The ending of the file stays, since it states the format; a folder of slices has none.
    """
    ending = "" if path.is_dir() else path.name[len(files.stem(path)) :]
    return f"{patient}_{what}{ending}"


def volume_name(patient: str, bone: str, side: str) -> str:
    """Return the name that crop_cts.py gives to the CT of a bone, without the ending."""
    return f"{patient}_{bone}{'_mirrored' if side == 'right' else ''}"


def results_folder(patient: str, bone: str, view: str) -> str:
    """Return the results folder of a registration, below the output folder."""
    return RESULTS.format(patient=patient, bone=bone, view=view)


def unfinished_stage(
    output: Path, patient: str, bone: str, xray: CohortXray
) -> tuple[str, str] | None:
    """Return (rule, reason) of the first stage of a registration that is not done.

    The reason is the last line of its log that names the X-ray, else the last one. Returns None if
    all stages are done.
    """
    fields = {"patient": patient, "bone": bone, "side": xray.side, "view": xray.view}
    for rule, stage in STAGES.items():
        made, log = (output / path.format(**fields) for path in (stage.output, stage.log))
        if rule == "header" and not xray.gets_header:
            continue
        if rule in TRAINING and not log.exists():  # left out, or with a model of another cohort
            continue
        if not _is_done(made):
            return rule, _reason(log, xray) or "not run yet"
    return None


def _is_done(output: Path) -> bool:
    if not output.exists():
        return False
    return output.suffix != ".txt" or output.read_text(encoding="utf-8").strip() != FAILED


def _reason(log: Path, xray: CohortXray) -> str:
    if not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    # the copy with the distance of the table has another ending
    about = [line for line in lines if f"/{xray.view}." in line or xray.path.name in line]
    return (about or lines or [""])[-1]
