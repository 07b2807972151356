"""Bead grids of a distorted image intensifier: beads are found and pictures undistorted."""

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from common.xray import image_files
from common.xray.bead_grid import find_beads, fit_distortion, number_beads
from pipeline import calibrate

SIDE = 320
CENTRE = (SIDE - 1) / 2


def distorted(pixels):
    """Pincushion and S-shaped distortion, as of an image intensifier."""
    x, y = (pixels[..., 0] - CENTRE) / CENTRE, (pixels[..., 1] - CENTRE) / CENTRE
    r = x * x + y * y
    turn = 0.03 * r
    u = x * (1 + 0.06 * r) - turn * y
    v = y * (1 + 0.06 * r) + turn * x
    return np.stack([u, v], -1) * CENTRE + CENTRE


def grid(step=20.0, sigma=1.6, angle_deg=4.0, beads="dark"):
    """The X-ray (H, W) of a grid of beads, and the undistorted places (N, 2) of the beads."""
    number = np.arange(-9, 10) * step
    ideal = np.stack(np.meshgrid(number, number), -1).reshape(-1, 2)
    angle = np.radians(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    ideal = ideal @ turn.T + CENTRE + 2.0
    seen = distorted(ideal)
    shown = ((seen > 8) & (seen < SIDE - 9)).all(axis=1)
    columns, rows = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    image = np.zeros((SIDE, SIDE))
    for column, row in seen[shown]:
        image += np.exp(-((columns - column) ** 2 + (rows - row) ** 2) / (2 * sigma**2))
    noise = np.random.default_rng(0).normal(0, 0.02, image.shape)
    shade = 0.3 * np.hypot(columns - CENTRE, rows - CENTRE) / CENTRE
    image = (1 - 0.6 * image if beads == "dark" else 0.2 + 0.6 * image) - shade + noise
    return (image * 40000 + 20000).clip(0, 65535).astype(np.uint16), ideal[shown]


@pytest.mark.parametrize("beads", ["dark", "bright"])
def test_beads_are_found_where_they_are_and_their_grid_becomes_square(tmp_path, beads):
    image, ideal = grid(beads=beads)
    distortion = fit_distortion(tmp_path, image.astype(np.float32))
    assert len(distortion.residuals_px) > 0.9 * len(ideal)
    assert np.sqrt((distortion.residuals_px**2).mean()) < 0.15
    # but for a shift, a turn and a scale of the centre, pixels go where the distortion moves them
    inner = ideal[np.abs(ideal - CENTRE).max(axis=1) < 120]
    seen, expected = distortion.distorted(inner), distorted(inner)
    assert np.linalg.norm(inner - expected, axis=1).max() > 4
    assert np.linalg.norm(seen - expected, axis=1).max() < 1.5


def test_the_script_undistorts_xrays_by_a_grid(tmp_path, capsys):
    image, _ = grid()
    Image.fromarray(image).save(tmp_path / "grid.png")
    Image.fromarray(image).save(tmp_path / "knee.png")
    flags = ["--grid", str(tmp_path / "grid.png"), "--undistort", str(tmp_path / "knee.png")]
    assert calibrate.main([*flags, "-o", str(tmp_path / "out")]) == 0
    assert "beads" in capsys.readouterr().err
    found = image_files.read(tmp_path / "out" / "knee.tif").grey
    inner = -found[40:-40, 40:-40].astype(float)
    numbered = number_beads(find_beads(inner, 1.6), np.array(inner.shape) / 2)
    index = np.c_[np.array(list(numbered)), np.ones(len(numbered))]
    places = np.array(list(numbered.values()))
    square, *_ = np.linalg.lstsq(index, places, rcond=None)
    assert np.linalg.norm(index @ square - places, axis=1).max() < 0.5  # 5 before
    across, down = square[:2]
    assert abs(across @ down) < 0.01 * (across @ across)
    assert np.linalg.norm(across) == pytest.approx(np.linalg.norm(down), rel=0.01)
    assert found.max() > 255


def test_an_xray_without_a_grid_is_refused(tmp_path):
    noise = np.random.default_rng(0).normal(30000, 900, (SIDE, SIDE)).astype(np.float32)
    with pytest.raises(InputError, match=r"square grid of .* beads|shows no regular grid"):
        fit_distortion(tmp_path / "x.png", noise)
