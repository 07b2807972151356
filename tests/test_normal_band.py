"""A normal band of the user's: placed over a cycle, counted, drawn, and refused if it is none."""

import json

import numpy as np
import pytest
from test_kinematics import command, scene, template

from common.errors import InputError
from common.kinematics import normal_band
from pipeline import kinematics

__all__ = ["scene", "template"]  # fixtures
QUANTITIES = ("FE_deg", "VV_deg")
TABLE = "percent,FE_deg_low,FE_deg_high\n0,0,10\n50,20,30\n100,40,60\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "gait.csv"
    path.write_text(TABLE)
    return path


def test_a_band_is_interpolated_over_the_time_of_the_cycle(table):
    band = normal_band.read(table, QUANTITIES)
    times = np.array([0, 1, 1.5, 2, 3])
    placed = normal_band.place(band, ["a", "b", "c", "d", "e"], times, ("b", "d"))
    np.testing.assert_allclose(placed.percent, [np.nan, 0, 50, 100, np.nan])
    low, high = placed.bounds("FE_deg")
    np.testing.assert_allclose(low, [np.nan, 0, 20, 40, np.nan])
    np.testing.assert_allclose(high, [np.nan, 10, 30, 60, np.nan])
    assert placed.bounds("VV_deg") is None
    uneven = normal_band.place(band, ["a", "b", "c"], np.array([0, 1, 4.0]))
    np.testing.assert_allclose(uneven.percent, [0, 25, 100])
    by_number = normal_band.place(band, ["a", "b", "c"], None)
    np.testing.assert_allclose(by_number.percent, [0, 50, 100])


def test_frames_outside_the_band_are_counted_and_gaps_are_not(table):
    placed = normal_band.place(normal_band.read(table, QUANTITIES), list("abcde"), None)
    values = np.array([[12, 0], [16, 0], [np.nan, np.nan], [20, 0], [50, 0]], float)
    stated = placed.entries(values, QUANTITIES)["FE_deg"]
    assert stated == {"frames": 4, "outside": 2, "furthest": 10.0}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("percent,FE_deg\n0,1\n", "has the columns percent, FE_deg"),
        ("", "(none)"),
        ("percent,FE_deg_low,FE_deg_high\n0,1,x\n", "cannot be read"),
        ("percent,FE_deg_low,FE_deg_high\n0,1\n", "cannot be read"),
        ("percent,FE_deg_low,FE_deg_high\n50,1,2\n40,1,2\n", "does not increase"),
        ("percent,FE_deg_low,FE_deg_high\n0,1,2\n100,1,nan\n", "is not finite"),
        ("percent,FE_deg_low,FE_deg_high\n0,1,2\n1,1,2\n", "is from 0 to 1"),
        ("percent,FE_deg_low,FE_deg_high\n0,1,2\n110,1,2\n", "is from 0 to 110"),
        ("percent,FE_deg_low,FE_deg_high\n0,1,2\n100,3,2\n", "above FE_deg_high at 100 %"),
    ],
)
def test_a_table_that_is_no_band_is_refused(table, content, error):
    table.write_text(content or "\n")
    with pytest.raises(InputError) as refused:
        normal_band.read(table, QUANTITIES)
    assert error in str(refused.value)


def test_a_cycle_has_to_be_of_the_movement(table):
    band = normal_band.read(table, QUANTITIES)
    for cycle, error in ((("a", "z"), "names frame z"), (("b", "a"), "is from b to a")):
        with pytest.raises(InputError) as refused:
            normal_band.place(band, ["a", "b"], None, cycle)
        assert error in str(refused.value)


def test_the_band_is_in_the_figure_the_page_and_the_numbers(scene, table, capsys):
    flags = ["--normal_band", str(table), "--format", "svg", "html", "--fps", "10"]
    assert kinematics.main([*command(scene), *flags]) == 0
    beside = json.loads((scene / "knee/kinematics.json").read_text())
    assert beside["normal_band"]["FE_deg"] == {"frames": 3, "outside": 0, "furthest": 0.0}
    page = (scene / "knee/kinematics.html").read_text()
    assert "Frames outside the normal band of gait.csv: flexion 0 of 3." in page
    assert "Normal: the bounds of the table" in page
    assert page.count("normal</span>") == 1  # in the legend of flexion only
    assert "#bbbbbb" in (scene / "knee/kinematics.svg").read_text()
    alone = [*command(scene), "--cycle", "f1", "f2", "--overwrite"]
    assert kinematics.main(alone) == 2
    assert "--normal_band with it" in capsys.readouterr().err
