"""The cohort on a real SLURM of this machine, by `make slurm`; skipped where there can be none."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import make_cohort

ROOT = Path(__file__).resolve().parents[2]
NO_SLURM = 77  # exit code of start.sh
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SLURM_TESTS" not in os.environ, reason="25 minutes: make slurm runs it"),
]
SETTINGS = """\
patients: fixed.csv
output: out
spacing_mm: 2.5
training: false
drr: --method fused
extras: [listing]
resources:
  prepare: {threads: 1, mem_mb: 1500, runtime: 3}
  register: {threads: 1, mem_mb: 3000, runtime: 3}
  picture: {threads: 1, mem_mb: 3000, runtime: 3}
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A SLURM with one node of two cores, which stops with the test; returns its folder."""
    folder = tmp_path / "slurm"
    cluster = subprocess.Popen(
        [ROOT / "tests/slurm/start.sh", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if cluster.stdout.readline() != "ready\n":
        said = cluster.communicate()[1]
        if cluster.returncode == NO_SLURM:
            pytest.skip(said.strip())
        pytest.fail(said)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    yield folder
    cluster.communicate()


@pytest.fixture
def cohort(tmp_path) -> Path:
    """Two patients with two X-rays and known start poses; returns the folder."""
    made = ["--patients", "2", "--views", "1", "--spacing", "2.5", "--size", "96", "--quiet"]
    assert make_cohort.main(["-o", str(tmp_path), *made]) == 0
    with (tmp_path / "patients.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["flags"] = f"--init fixed --init_pose {tmp_path / row['truth']}"
    with (tmp_path / "fixed.csv").open("w") as stream:
        table = csv.DictWriter(stream, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    (tmp_path / "own.yaml").write_text(SETTINGS)
    return tmp_path


def snakemake(folder: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflow/Snakefile")]
    command += ["--workflow-profile", str(ROOT / "workflow/profiles/slurm"), "--nocolor"]
    command += ["--configfile", "own.yaml", "--cores", "2", "--latency-wait", "10"]
    command += ["--slurm-init-seconds-before-status-checks", "3"]
    command += ["--seconds-between-status-checks", "2", "--slurm-status-command", "squeue"]
    with (folder / "snakemake.log").open("a") as log:
        return subprocess.Popen([*command, *flags], cwd=folder, stdout=log, stderr=log)


def finished(slurm: Path) -> list[str]:
    """Return the states of the jobs that have ended, in their order."""
    return re.findall(r"JobState=(\w+)", (slurm / "finished.txt").read_text())


def wait_for(condition, run: subprocess.Popen, folder: Path, seconds: float = 400) -> None:
    """Wait until a condition holds while a run of Snakemake goes on."""
    until = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, (folder / "snakemake.log").read_text()
        assert time.monotonic() < until, (folder / "snakemake.log").read_text()
        time.sleep(0.5)


def registering(folder: Path) -> list[int]:
    """Return the processes that register X-rays in a folder now."""
    found = subprocess.run(["pgrep", "-f", "registration.py"], capture_output=True, text=True)
    running = (Path("/proc", line) for line in found.stdout.split())
    return [int(each.name) for each in running if (each / "cwd").resolve() == folder.resolve()]


def benchmarks(folder: Path) -> dict[Path, str]:
    """Return time and memory of the jobs that are done: a job that is repeated has others."""
    return {path: path.read_text() for path in folder.glob("out/benchmarks/*/*.tsv")}


def test_a_cohort_runs_in_few_entries_and_after_scancel_of_all_nothing_done_is_repeated(
    slurm, cohort
):
    first = snakemake(cohort)
    until = time.monotonic() + 400
    # headers, crop, align: the patients' jobs come next
    wait_for(lambda: len(finished(slurm)) >= 3, first, cohort)
    before = benchmarks(cohort)
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    while not finished(slurm)[3:]:  # the first of the patients' jobs
        assert first.poll() is None, (cohort / "snakemake.log").read_text()
        assert time.monotonic() < until, (cohort / "snakemake.log").read_text()
        subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
        time.sleep(1)
    assert first.wait(200) != 0, "jobs were cancelled"
    kept = benchmarks(cohort)
    assert kept.items() >= before.items()
    assert not (cohort / "out/reports/P01.html").exists()
    assert "missing" in (cohort / "out/index.html").read_text()  # the page of a stopped run
    entries = len(finished(slurm))

    assert snakemake(cohort).wait(400) == 0, (cohort / "snakemake.log").read_text()
    assert benchmarks(cohort).items() >= kept.items()
    assert len(list(cohort.glob("out/results/*/*/*/parameters.pt"))) == 8
    assert {path.stem for path in cohort.glob("out/reports/*.html")} == {"P01", "P02"}
    # 11 jobs in 6 entries: header, crop, align, two patients, the cohort's page
    assert finished(slurm)[entries:] == ["COMPLETED"] * 3
    assert finished(slurm)[:3] == ["COMPLETED"] * 3


def test_jobs_killed_for_memory_and_for_time_end_the_run_and_only_they_are_repeated(slurm, cohort):
    starved = SETTINGS.replace(
        "register: {threads: 1, mem_mb: 3000", "register: {threads: 1, mem_mb: 150"
    )
    starved = starved.replace(
        "picture: {threads: 1, mem_mb: 3000", "picture: {threads: 1, mem_mb: 150"
    )
    (cohort / "own.yaml").write_text(starved)
    assert snakemake(cohort).wait(600) != 0
    assert set(finished(slurm)[3:]) & {"OUT_OF_MEMORY", "FAILED", "CANCELLED"}
    assert not list(cohort.glob("out/results/*/*/*/parameters.pt"))
    kept = benchmarks(cohort)
    assert kept

    # a job that hangs is killed for its time, which is one minute from now on
    (cohort / "own.yaml").write_text(SETTINGS)
    entries, hung = len(finished(slurm)), snakemake(cohort)
    wait_for(lambda: registering(cohort), hung, cohort)
    for process in registering(cohort):
        os.kill(process, signal.SIGSTOP)
    queued = subprocess.check_output(["squeue", "--noheader", "--format", "%A"], text=True)
    for entry in queued.split():
        limited = ["scontrol", "update", f"jobid={entry}", "timelimit=1"]
        subprocess.run(limited, check=True)
    assert hung.wait(600) != 0
    assert "TIMEOUT" in finished(slurm)[entries:]
    assert benchmarks(cohort).items() >= kept.items()
    kept = benchmarks(cohort)

    assert snakemake(cohort).wait(600) == 0, (cohort / "snakemake.log").read_text()
    assert benchmarks(cohort).items() >= kept.items()
    assert len(list(cohort.glob("out/results/*/*/*/parameters.pt"))) == 8


def test_a_drained_node_and_a_restarted_controller_delay_a_run_and_lose_nothing(slurm, cohort):
    node = subprocess.check_output(["sinfo", "--noheader", "--format", "%n"], text=True).strip()
    run = snakemake(cohort)
    wait_for(lambda: finished(slurm), run, cohort)  # the headers
    drain = ["scontrol", "update", f"nodename={node}"]
    subprocess.run([*drain, "state=drain", "reason=test"], check=True)
    pid = int((slurm / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    time.sleep(15)  # Snakemake asks for its jobs in vain
    configuration = ["-f", str(slurm / "slurm.conf")]
    with (slurm / "slurmctld.log").open("a") as log:
        subprocess.run(["slurmctld", *configuration], check=True, stdout=log, stderr=log)
    time.sleep(10)  # nothing new starts on a drained node
    subprocess.run([*drain, "state=resume"], check=True)
    assert run.wait(600) == 0, (cohort / "snakemake.log").read_text()
    assert set(finished(slurm)) == {"COMPLETED"}
    assert len(finished(slurm)) == 6  # none was submitted twice
    assert len(list(cohort.glob("out/results/*/*/*/parameters.pt"))) == 8
