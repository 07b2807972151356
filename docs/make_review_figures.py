"""Draw the pictures of docs/review.md and README's recording: a phantom knee, reviewed in Chromium.

`make docs` runs this. Git keeps the pictures for those who read the pages without building them, so
a picture is replaced only if it looks different.

writes  docs/review.webp, docs/review_sequence.webp, docs/review.gif
needs   chromium on the path; without it the pictures stay as they are

example
  python docs/make_review_figures.py
"""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import geometry
from common.registration import recording
from common.review import reopening, solving

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 7
MERGED = 3  # frames of a recording
SAME_GREYS = 1.0  # mean difference, of 255, up to which a picture looks the same
SIZE = {"width": 1366, "height": 768}
GIF_WIDTH, GIF_GREYS, GIF_MS = 760, 40, 110
# colours of the page in a light scheme, and of the outlines
COLOURS = ("e69f00", "56b4e9", "0059a3", "a32a00", "7a5200", "00664b", "f2f3f5", "c5c9cf", "4d545c")
# radians and mm about the centre of the bone
WRONG = np.r_[np.radians([2.0, -3, 4]), 10.0, 12, -6]
LABELMAP = "data/P01/segmentations/P01_seg.nii.gz"
COMMANDS = (
    "pipeline/make_phantom.py -o data --patients 1",
    f"segmentation_preprocessing.py -i {LABELMAP} -o data/P01/segmentations",
    "crop_cts.py --base_dir data/P01 --ct_filename P01_ct.nii.gz"
    " --seg_filename segmentations/P01_seg_cleaned.nii.gz",
)
XRAY = (
    f"pipeline/make_xray.py --ct data/P01/P01_ct.nii.gz --mask {LABELMAP} --labels 4"
    " --size 400 400 --pixel 0.75"
)


def make_results(folder: Path) -> Path:
    """Register femur and tibia of a phantom in a sequence, and make one femur wrong."""
    commands = list(COMMANDS)
    for number in range(FRAMES):
        angles = f"{8 + 3 * number} {4 - number} -5"
        commands.append(f"{XRAY} --angles {angles} -o data/x/frame{number}.dcm")
    frames = " ".join(f"data/x/frame{number}.dcm" for number in range(FRAMES))
    cts, masks = (
        " ".join(f"data/P01/{bone}_{what}_cropped/P01_{bone}.nii.gz" for bone in ("femur", "tibia"))
        for what in ("cts", "masks")
    )
    commands.append(
        f"registration.py {frames} --sequence -v {cts} --mask {masks} --init fixed --init_pose"
        " data/x/frame0_truth.json -o results/knee"
    )
    for command in commands:
        script, *words = shlex.split(command)
        subprocess.run([sys.executable, ROOT / script, *words, "--quiet"], cwd=folder, check=True)
    wrong = folder / f"results/knee/frame{FRAMES // 2}/P01_femur"
    opened = reopening.open_result(wrong)
    pose = geometry.twist(WRONG, opened.structure.body.centre_mm) @ opened.pose
    recording.save(wrong, [solving.registration_at(opened, pose, pose)], 0, opened.stored_request)
    return folder / "results"


def keep(name: str, content: bytes) -> None:
    """Write a picture into docs/ unless the one there looks the same."""
    path = ROOT / "docs" / name
    if path.exists() and alike(path.read_bytes(), content):
        print(f"{path.relative_to(ROOT)} is as before")
        return
    path.write_bytes(content)
    print(path.relative_to(ROOT))


def alike(one: bytes, other: bytes) -> bool:
    """Return whether two pictures look the same, the first and the last frame of a recording.

    Between them, frames without a change are merged, so that their number depends on the machine.
    """
    first, second = Image.open(io.BytesIO(one)), Image.open(io.BytesIO(other))
    counts = [getattr(each, "n_frames", 1) for each in (first, second)]
    if first.size != second.size or abs(counts[0] - counts[1]) > MERGED:
        return False
    for last in (False, True):
        for each, count in zip((first, second), counts, strict=True):
            each.seek(count - 1 if last else 0)
        greys = [np.asarray(each.convert("L"), float) for each in (first, second)]
        if np.abs(greys[0] - greys[1]).mean() > SAME_GREYS:
            return False
    return True


def small(picture: bytes) -> Image.Image:
    """Return a screenshot in the size and the colours of the recording."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    height = round(image.height * GIF_WIDTH / image.width)
    return image.resize((GIF_WIDTH, height), Image.Resampling.LANCZOS)


def palette() -> Image.Image:
    """Return the palette of the recording: greys, and the page's colours with their mixtures."""
    greys = np.repeat(np.linspace(0, 255, GIF_GREYS), 3)
    pure = np.array([list(bytes.fromhex(colour)) for colour in COLOURS])
    mixed = np.concatenate([pure, (pure + 255) / 2, pure / 2])
    found = Image.new("P", (1, 1))
    found.putpalette(np.r_[greys, mixed.ravel()].round().astype(int).tolist())
    return found


def record(page: Any) -> list[tuple[Image.Image, int]]:
    """Drag the wrong bone near its place, refine and accept it; return pictures and their ms."""
    taken: list[tuple[Image.Image, int]] = []

    def take(milliseconds: int = GIF_MS) -> None:
        taken.append((small(page.screenshot()), milliseconds))

    box = page.locator("figure").bounding_box()
    offset = page.evaluate("review.views[0].picture.place().scale") * 20
    x, y = box["x"] + box["width"] / 2 + 40, box["y"] + box["height"] / 2 - 90
    take(1200)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 11):
        page.mouse.move(x - offset * step / 10, y - 1.1 * offset * step / 10)
        page.wait_for_timeout(120)
        take()
    page.mouse.up()
    take(900)
    page.locator("#refine").click()
    take(300)
    page.locator("#verdict .badge.ok").wait_for(timeout=60_000)
    page.wait_for_timeout(900)
    take(1500)
    page.locator("#accept").click()
    page.locator("#progress", has_text="1 of").wait_for(timeout=60_000)
    page.wait_for_timeout(900)
    take(1500)
    return taken


def with_page(address: str, work: Callable[[Any], None]) -> None:
    """Open the review in a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        page.locator("figure[data-drawn]").first.wait_for(timeout=60_000)
        page.locator("figure .neighbour").first.wait_for(timeout=60_000)
        page.wait_for_timeout(2500)
        work(page)
        browser.close()


def draw(page: Any) -> None:
    """Write the pictures and the recording."""

    def shot(name: str) -> None:
        image = Image.open(io.BytesIO(page.screenshot()))
        packed = io.BytesIO()
        image.convert("RGB").save(packed, "webp", quality=82, method=6)
        keep(name, packed.getvalue())

    shot("review.webp")
    taken = record(page)
    colours = palette()
    images = [image.quantize(palette=colours, dither=Image.Dither.NONE) for image, _ in taken]
    packed = io.BytesIO()
    images[0].save(
        packed,
        "gif",
        save_all=True,
        append_images=images[1:],
        duration=[milliseconds for _, milliseconds in taken],
        loop=0,
        optimize=True,
    )
    keep("review.gif", packed.getvalue())
    for number in (0, FRAMES - 1):
        page.locator("#list button", has_text=f"frame{number} / P01_femur").click()
        page.wait_for_timeout(2500)
        page.locator("#key").click()
    page.locator("#track").click()
    page.locator("#strip-state", has_text="frames changed").wait_for(timeout=120_000)
    page.locator(".frames button").nth(FRAMES // 2 + 1).click()
    page.locator("#blend").fill("45")
    page.wait_for_timeout(2500)
    shot("review_sequence.webp")


def main() -> None:
    if not shutil.which("chromium"):
        print("no chromium: the pictures of docs/review.md stay as they are")
        return
    with tempfile.TemporaryDirectory() as folder:
        results = make_results(Path(folder))
        command = [sys.executable, ROOT / "pipeline/review.py", results, "--no_browser"]
        command += ["--reviewer", "AB", "--quiet"]
        with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                with_page(server.stdout.readline().strip(), draw)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
