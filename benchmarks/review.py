"""Measure how fast the review answers: opening, pictures a second, latency, refinement.

A phantom femur with voxels of 0.7 mm in a simulated X-ray of 2,000 x 2,000 pixels is registered
from its true pose. A client then asks for DRRs of poses along a path, as a page does while the bone
is dragged, each as soon as the last one came (latest request wins, so a page that asks more often
gets no fewer), fully as when it stands still, and for refinements from poses up to 6 degrees,
8 mm in plane and 20 mm in depth away. Then a headless Chromium drags the bone in the page, drawn
without a GPU in windows of three sizes, and the DRRs that were painted are counted.

writes  OUT/review.csv: a row per measure, with median, 95th percentile and count
        OUT/review_browser.csv: a row per size of the window, with pictures a second
needs   for the second table, chromium on the path
example
  python benchmarks/review.py -o benchmarks/results
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
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
WINDOWS = ((1366, 768), (1920, 1080), (3840, 2160))
KEPT = '"not_kept"'  # in the message that follows when an answer is on the disk


def build_parser() -> script.Parser:
    parser = script.build_parser(__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("benchmarks/results"), help="folder"
    )
    parser.add_argument("--spacing", type=float, default=0.7, help="voxels of the CT, mm")
    parser.add_argument("--size", type=int, default=2000, help="pixels along a side of the X-ray")
    parser.add_argument("--count", type=int, default=100, help="pictures while dragging")
    parser.add_argument("--seconds", type=float, default=10, help="of dragging in the browser")
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
    from aiohttp import WSMsgType

    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"{address}live", max_msg_size=0) as line,
    ):
        async with client.get(f"{address}api/list") as answer:
            item = (await answer.json())["items"][0]["id"]
        began = time.perf_counter()
        async with client.get(f"{address}api/item/{item}/glance") as answer:
            await answer.read()
        glanced = time.perf_counter() - began
        async with client.get(f"{address}api/item/{item}") as answer:
            about = await answer.json()
        opened = time.perf_counter() - began
        pose, centre = np.array(about["pose"]), np.array(about["centre_mm"])
        rng = np.random.default_rng(0)

        async def ask(content: dict[str, Any], wanted: str | None = None) -> list[float]:
            """Return the seconds to the first answer, and to the one that is ``wanted``."""
            sent = time.perf_counter()
            await line.send_json({"item": item, "number": 1, **content})
            message = await line.receive()
            seconds = [time.perf_counter() - sent]
            while wanted and not (message.type == WSMsgType.TEXT and wanted in message.data):
                message = await line.receive()
            return [*seconds, time.perf_counter() - sent]

        async def repeated(times: int, content: dict[str, Any], wanted: str | None = None) -> Any:
            found = []
            for _ in range(times + 2):
                at = around(pose, centre, rng)
                found.append(await ask({**content, "pose": at}, wanted))
            return np.array(found[2:]).T.tolist()

        few = max(3, count // 10)
        drag, _ = await repeated(count, {"type": "render", "px": DRAG_PX})
        full, _ = await repeated(few, {"type": "render", "px": FULL_PX})
        refined, judged = await repeated(few, {"type": "refine"}, KEPT)
    return {
        "saved pictures of the first result": [glanced],
        "open the first result": [opened],
        f"DRR, {DRAG_PX} px": drag,
        f"DRR, {FULL_PX} px": full,
        "refine, pose": refined,
        "refine, verdict": judged,
    }


def processor(results: Path, count: int) -> list[float]:
    """Return the processor seconds of refinements in this process, whatever else is running."""
    from common.review import jobs, solving

    one, rng, found = jobs.opened(str(results)), np.random.default_rng(0), []
    for _ in range(count + 2):
        at = np.array(around(one.pose, one.structure.body.points.mean(axis=0), rng))
        began = time.process_time()
        solving.refine(one, at)
        found.append(time.process_time() - began)
    return found[2:]


def dragged(address: str, seconds: float) -> list[dict[str, Any]]:
    """Return how many DRRs a second the page paints while the bone is dragged, by its size."""
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for width, height in WINDOWS:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.locator("body:not(.loading) figure[data-drawn]").first.wait_for(timeout=120_000)
            page.wait_for_timeout(3000)  # the DRR when still
            rows.append({"width": width, "height": height, **_drag(page, seconds)})
            page.close()
        browser.close()
    return rows


def _drag(page: Any, seconds: float) -> dict[str, Any]:
    """Drag the bone in circles, and count pictures and moves."""
    box = page.locator("figure").first.bounding_box()
    x, y = box["x"] + box["width"] / 2 + 90, box["y"] + box["height"] / 2 - 60
    count = "review.views[0].picture.count"
    page.mouse.move(x, y)
    page.mouse.down()
    began, before, moves = time.perf_counter(), page.evaluate(count), 0
    while (passed := time.perf_counter() - began) < seconds:
        page.mouse.move(x + 40 * np.cos(2 * passed) - 40, y + 40 * np.sin(2 * passed))
        moves += 1
    pictures = page.evaluate(count) - before
    page.mouse.up()
    return {"pictures_per_s": f"{pictures / passed:.1f}", "moves_per_s": f"{moves / passed:.1f}"}


def run(args: argparse.Namespace) -> int | None:
    table, browsed = (args.output / name for name in ("review.csv", "review_browser.csv"))
    files.check_outputs([table, browsed], args.overwrite)
    with tempfile.TemporaryDirectory() as folder:
        results = make_result(Path(folder), args.spacing, args.size)
        command = [sys.executable, ROOT / "pipeline/review.py", results, "--no_browser", "--quiet"]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                address = server.stdout.readline().strip()
                found = asyncio.run(measure(address, args.count))
                painted = dragged(address, args.seconds) if shutil.which("chromium") else []
            finally:
                server.terminate()
        found["refine, pose, processor"] = processor(results, max(3, args.count // 10))
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
    if painted:
        files.write_text(browsed, files.as_csv(painted))
    print(json.dumps({"pictures_per_s": round(1 / float(np.median(found[f"DRR, {DRAG_PX} px"])))}))
    print(table)
    return None


main = script.script(run, build_parser)

if __name__ == "__main__":
    sys.exit(main())
