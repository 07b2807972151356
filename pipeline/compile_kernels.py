# PYTHON_ARGCOMPLETE_OK
"""Compile the kernels of a registration once, so that no later run waits for it.

Registers a small phantom in a simulated X-ray, in a temporary folder, by a narrow search. numba
keeps what it compiles next to the sources. `make env` does this.

writes  nothing but numba's caches (__pycache__)
example
  python pipeline/compile_kernels.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.command_line import script

SCRIPT = Path(__file__).resolve().parents[1] / "registration.py"
# a narrow search, which compiles what any search does
QUICK = ("--r1", "-10", "20", "--no_cache", "--quiet", "--device", "cpu")
BONE, SPACING_MM, PIXELS, FIELD_MM, SDD_MM = "femur left", 3.0, 128, 300.0, 1020.0


def build_parser() -> script.Parser:
    return script.build_parser(__doc__)


def register_phantom(folder: Path) -> None:
    """Make a phantom and an X-ray of it in a folder, and register a bone."""
    from common import geometry
    from common.drr.renderer import make_renderer
    from common.geometry import Detector
    from common.synthetic import phantom, xray_simulation
    from common.volume.attenuation import attenuation
    from common.volume.volume import Volume

    made = phantom.make(spacing_mm=SPACING_MM)
    ct, mask, *_ = phantom.write(made, folder, "P")
    label = phantom.LABELS[BONE]
    inside = np.argwhere(made.segmentation.data == label).mean(0)
    centre = geometry.apply(made.ct.affine, inside[None])[0]
    camera = xray_simulation.view(centre, (5.0, 3.0, -2.0), 760.0, (0.0, 0.0))
    detector = Detector.centred(PIXELS, PIXELS, SDD_MM, FIELD_MM / PIXELS)
    whole = Volume(attenuation(made.ct.data), made.ct.affine, made.ct.lineage)
    (image,) = make_renderer(whole, "cpu").render(camera[None], detector)
    xray = folder / "xray.dcm"
    simulated = xray_simulation.simulate(
        image, detector.pixel_mm[0], xray_simulation.Effects(), np.random.default_rng(0)
    )
    xray_simulation.write_dicom(xray, simulated, detector, True)
    words = [xray, "-v", ct, "--mask", mask, "--labels", label, "-o", folder / "result"]
    ran = subprocess.run([sys.executable, str(SCRIPT), *map(str, words), *QUICK], check=False)
    if ran.returncode not in (script.EXIT_DONE, script.EXIT_NOT_CONVERGED):  # any pose will do
        ran.check_returncode()


def run(args: argparse.Namespace) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        register_phantom(Path(folder))
    print(f"compiled in {time.perf_counter() - began:.0f} s")


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
