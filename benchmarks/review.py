"""Measure how fast the review page's server answers: pictures a second, latency, refinement.

A phantom femur with voxels of 0.7 mm in a simulated X-ray of 2,000 x 2,000 pixels is registered
from its true pose. A client then asks for DRRs of poses along a path, as a page does while the bone
is dragged, each as soon as the last one came (latest request wins, so a page that asks more often
gets no fewer), fully as when it stands still, and for refinements from poses up to 6 degrees,
8 mm in plane and 20 mm in depth away.

writes  OUT/review.csv: a row per measure, with median, 95th percentile and count
example
  python benchmarks/review.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import registration
from common import files, geometry
from common.command_line import script
from common.drr.renderer import make_renderer
from common.geometry import Detector
from common.synthetic import phantom, xray_simulation
from common.volume import nifti
from common.volume.attenuation import WHOLE_ATTENUATION_HU, select_structures
from common.volume.volume import Volume, points_of

ROOT = Path(__file__).resolve().parents[1]
FEMUR = 4  # label of the left one
DRAG_PX, FULL_PX = 256, 2000


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("benchmarks/results"), help="folder"
    )
    parser.add_argument("--spacing", type=float, default=0.7, help="voxels of the CT, mm")
    parser.add_argument("--size", type=int, default=2000, help="pixels along a side of the X-ray")
    parser.add_argument("--count", type=int, default=100, help="pictures while dragging")
    return parser


def make_result(folder: Path, spacing_mm: float, size: int) -> Path:
    """Register the femur of a phantom from its true pose, and return the folder of its result."""
    knees = phantom.make(seed=3, spacing_mm=spacing_mm)
    bone = Volume(
        (knees.segmentation.data == FEMUR).astype(np.uint8), knees.ct.affine, knees.ct.lineage
    )
    ct, mask = nifti.save(folder / "ct.nii.gz", knees.ct), nifti.save(folder / "m.nii.gz", bone)
    detector = Detector.centred(size, size, 1020.0, 300 / size)
    camera = xray_simulation.view(
        points_of(bone, bone.data > 0).mean(axis=0), [10, 4, -5], 850, [0, 0]
    )
    whole = select_structures(knees.ct, None, None, WHOLE_ATTENUATION_HU)
    image = xray_simulation.simulate(
        make_renderer(whole, "cpu").render(camera[None], detector)[0],
        detector.pixel_mm[0],
        xray_simulation.Effects(),
        np.random.default_rng(0),
    )
    xray_simulation.write_dicom(folder / "knee.dcm", image, detector, True)
    files.write_json(folder / "start.json", {"camera": camera.tolist()})
    words = [folder / "knee.dcm", "-v", ct, "--mask", mask, "--init", "fixed", "--quiet"]
    words += ["--init_pose", folder / "start.json", "-o", folder / "results"]
    if registration.main([str(word) for word in words]) not in (0, 3):
        raise RuntimeError("the registration to be reviewed failed")
    return folder / "results"


def around(pose: np.ndarray, centre: np.ndarray, rng: np.random.Generator) -> list[list[float]]:
    """Return a pose up to 6 degrees, 8 mm in plane and 20 mm in depth away."""
    turn, shift = np.radians(rng.uniform(-6, 6, 3)), rng.uniform(-8, 8, 2)
    in_camera = np.r_[turn, shift, rng.uniform(-20, 20)]
    at = geometry.apply(geometry.invert(pose), centre)
    return (pose @ geometry.invert(geometry.twist(in_camera, at))).tolist()


async def measure(address: str, count: int) -> dict[str, list[float]]:
    """Return seconds of every answer, by measure."""
    import aiohttp

    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{address}live", max_msg_size=0) as line,
    ):
        async with client.get(f"{address}api/list") as answer:
            item = (await answer.json())["items"][0]["id"]
        began = time.perf_counter()
        async with client.get(f"{address}api/item/{item}") as answer:
            about = await answer.json()
        opened = time.perf_counter() - began
        pose, centre = np.array(about["pose"]), np.array(about["centre_mm"])
        rng = np.random.default_rng(0)

        async def ask(content: dict[str, Any]) -> float:
            sent = time.perf_counter()
            await line.send_json({"item": item, "number": 1, **content})
            await line.receive()
            return time.perf_counter() - sent

        async def repeated(
            times: int, kind: Callable[[np.ndarray], Awaitable[float]]
        ) -> list[float]:
            return [await kind(np.array(around(pose, centre, rng))) for _ in range(times + 2)][2:]

        drag = await repeated(count, _drawing(ask, DRAG_PX))
        full = await repeated(max(3, count // 10), _drawing(ask, FULL_PX))
        refined = await repeated(
            max(3, count // 10), lambda at: ask({"type": "refine", "pose": at.tolist()})
        )
    return {
        "open": [opened],
        f"DRR, {DRAG_PX} px": drag,
        f"DRR, {FULL_PX} px": full,
        "refine": refined,
    }


def _drawing(
    ask: Callable[[dict[str, Any]], Awaitable[float]], px: int
) -> Callable[[np.ndarray], Awaitable[float]]:
    return lambda at: ask({"type": "render", "pose": at.tolist(), "px": px})


def run(args: argparse.Namespace) -> int | None:
    table = args.output / "review.csv"
    files.check_outputs([table], args.overwrite)
    with tempfile.TemporaryDirectory() as folder:
        results = make_result(Path(folder), args.spacing, args.size)
        command = [sys.executable, ROOT / "pipeline/review.py", results, "--no_browser", "--quiet"]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                address = server.stdout.readline().strip()
                found = asyncio.run(measure(address, args.count))
            finally:
                server.terminate()
    rows = [
        {
            "measure": name,
            "median_s": f"{np.median(values):.4f}",
            "percentile_95_s": f"{np.percentile(values, 95):.4f}",
            "count": len(values),
        }
        for name, values in found.items()
    ]
    files.write_text(table, files.as_csv(rows))
    print(json.dumps({"pictures_per_s": round(1 / float(np.median(found[f"DRR, {DRAG_PX} px"])))}))
    print(table)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
