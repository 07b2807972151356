"""The report: content of its pages, private data that they never contain, use in a browser."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers import save_registration
from test_cohort import HEAD, write_table

from common.command_line import script
from common.geometry import Detector
from common.registration import recording
from common.reports import charts, overlays, pages, patient_page, registered, view_images
from common.reports.cohort_page import cohort_page as report_of_cohort
from common.results import parameters_file, workflow_files
from common.results.cohort import CohortPatient, CohortXray
from common.results.result import Verdict, detector_entries
from common.xray import reading
from pipeline import report

VERDICT = Verdict(
    "suspect",
    ("another pose fits <nearly> as well",),
    in_plane_sd_mm=0.1,
    depth_sd_mm=1.7,
    rotation_sd_deg=0.3,
    in_view=0.97,
    similarity=0.7,
    agreement=0.5,
    rival=None,
    in_plane_95_mm=0.21,
    depth_95_mm=3.4,
    rotation_95_deg=0.6,
    wrong_probability=0.02,
)


def save(folder, **changes):
    """A finished registration with a verdict, and an evaluation beside it."""
    _, result = save_registration(folder, steps=4)
    parameters_file.save(
        folder / "parameters.pt",
        dataclasses.replace(result, verdict=VERDICT, runtime_s={"registration": 1.5}, **changes),
    )
    numbers = {
        "in_plane_mm": 0.12,
        "depth_mm": 2.5,
        "rotation_deg": 0.4,
        "mtre_mm": 2.6,
        "projection_mm": 0.2,
    }
    scores = {"MSE": 0.01, "SSIM": 0.9, "NMI": 1.3, "NCC": 0.95}
    (folder / "evaluation.json").write_text(
        json.dumps({"pictures": {"final": {"pose_error": numbers, "similarity": scores}}})
    )
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two registrations of one patient and their page; returns (folder of results, page's path)."""
    folder = tmp_path_factory.mktemp("report")
    for view in ("ap", "oblique"):
        save(folder / "P01" / "femur" / view)
    assert report.main([str(folder / "P01"), "-o", str(folder / "P01.html")]) == 0
    return folder / "P01", folder / "P01.html"


@pytest.fixture(scope="module")
def cohort_page(tmp_path_factory):
    """A cohort of two X-rays, of which one has no result; returns the page's path."""
    folder = tmp_path_factory.mktemp("cohort_report")
    table = write_table(
        folder,
        HEAD + "P01,ct.nii.gz,seg.nii.gz,a.dcm,left,\nP02,ct.nii.gz,seg.nii.gz,b.png,right,\n",
    )
    for rule, stage in workflow_files.STAGES.items():
        done = (
            folder / "out" / stage.output.format(patient="P01", bone="femur", side="left", view="a")
        )
        if rule != "header":
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text("ok")
    save(folder / "out" / workflow_files.results_folder("P01", "femur", "a"))
    assert (
        report.main(
            [
                str(folder / "out"),
                "--patients",
                str(table),
                "--bones",
                "femur",
                "-o",
                str(folder / "out" / "index.html"),
            ]
        )
        == 0
    )
    return folder / "out" / "index.html"


# -------------------------------------------------------------------------------------------- pages


def test_a_page_opens_offline_and_contains_verdict_numbers_scene_and_origin(made):
    page = made[1].read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:|#)", page)
    assert page.count("plotly.js v") == 1
    for wanted in (
        "suspect",
        "another pose fits &lt;nearly&gt; as well",
        "0.21 mm",
        "2.60 mm",
        "0.9500",
        "femur, oblique",
        "data:image/webp;base64,",
        "1.5 s",
        "numpy",
    ):
        assert wanted in page, wanted
    store = json.loads(re.search(r'id="scenes">(.*?)</script>', page)[1])
    assert len(store["scenes"]) == 2
    assert len(store["surfaces"]) == 1  # both look at one CT
    source = registered.load_registered(made[0] / "femur" / "ap").result.volume_from_camera()[:3, 3]
    np.testing.assert_allclose(store["scenes"]["r0"]["source"], source, atol=0.06)


def test_the_cohort_lists_failures_first_with_their_reason_and_links_what_is_there(cohort_page):
    page = cohort_page.read_text()
    assert page.index("P02, femur, b") < page.index("P01, femur, a")
    assert "crop: not run yet" in page
    assert page.count('role="img"') == 9  # a distribution of each number that is known
    assert "in plane, error: median 0.12 mm" in page


def test_nothing_of_a_dicom_header_and_no_folder_gets_into_a_page(tmp_path):
    secret = {
        "PatientName": "SECRET^NAME",
        "PatientID": "ID-SECRET-7",
        "PatientBirthDate": "19560708",
        "InstitutionName": "SECRETCLINIC",
        "AccessionNumber": "ACC-SECRET",
    }
    from common.synthetic import xray_simulation

    private = tmp_path / "SECRET_FOLDER"
    result = save(private / "results")
    detector = result.detector
    xray_simulation.write_dicom(
        private / "x.dcm",
        np.asarray(result.xray["image"]).astype(np.uint16) * 200,
        Detector.centred(detector.height, detector.width, 900.0, 1.6),
        True,
    )
    header = pydicom.dcmread(private / "x.dcm")
    for name, value in secret.items():
        setattr(header, name, value)
    header.save_as(private / "x.dcm")
    about = recording.xray_entries(reading.read(private / "x.dcm"))
    save(
        private / "results",
        xray={**about, "image": result.xray["image"]},
        settings={"checkpoint": str(private / "model.pth")},
    )
    assert report.main([str(private / "results"), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "model.pth" in page
    for value in [*secret.values(), "SECRET_FOLDER", str(tmp_path)]:
        assert value not in page, value


def test_fifty_xrays_of_two_bones_stay_below_15_megabytes(made):
    rng = np.random.default_rng(0)
    one = registered.load_registered(made[0] / "femur" / "ap")
    # a detector of 600 x 500 pixels with film grain, which compresses badly
    detector = Detector.centred(600, 500, 900.0, 0.4)
    rough = np.clip(
        np.kron(np.asarray(one.result.image), np.ones((7, 5)))[:600, :500]
        + rng.normal(0, 6, (600, 500)),
        0,
        255,
    ).astype(np.uint8)
    large = dataclasses.replace(
        one,
        result=dataclasses.replace(
            one.result,
            xray={**one.result.xray, "image": rough},
            drr={**one.result.drr, **detector_entries(detector, np.zeros(3))},
        ),
    )
    a_page = len(patient_page.patient_page("P", made[0], [large]))
    three_pages = len(patient_page.patient_page("P", made[0], [large] * 3))
    assert a_page + 99 * (three_pages - a_page) / 2 < 15e6


def test_a_thousand_patients_with_three_xrays_of_two_bones_stay_below_5_megabytes(
    made,
):
    one = registered.load_registered(made[0] / "femur" / "ap")
    row = pages.row_of(
        one, "P0001, femur, oblique", "reports/P0001.html", bone="femur", side="left"
    )
    columns = {**pages.columns_of([row]), "side": pages.Column("side")}

    def size(count):
        content = {"rows": [row] * count, "columns": columns, "counts": [], "charts": []}
        return len(pages.render("cohort.html", "c", "", content))

    assert size(10) + 5990 * (size(110) - size(10)) / 100 < 5e6


def test_an_invalid_request_is_an_error_of_one_line(tmp_path, capsys):
    for arguments in (
        [tmp_path / "none", "-o", tmp_path / "a.html"],
        [tmp_path, "-o", tmp_path / "a.pdf"],
        [tmp_path, "-o", tmp_path / "a.html"],
    ):
        assert report.main([str(a) for a in arguments]) == script.EXIT_BAD_INPUT
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_outline_and_the_scale_bar_are_where_the_bone_is(made):
    one = registered.load_registered(made[0] / "femur" / "ap")
    (shown,) = view_images.view_images(one)
    assert one.result.bone_depth_mm == pytest.approx(
        620, abs=30
    )  # the offset that the pose was made with
    assert shown.pixel_mm == pytest.approx(1.6 * one.result.bone_depth_mm / 900)
    longest = max(shown.outline, key=len)
    along = shown.drr[tuple(longest.round().astype(int).T[::-1])]
    assert along.mean() < 0.5 * shown.drr.max()  # along the edge, not across the bone


def test_every_view_of_one_instant_has_its_pictures_and_its_own_scale(tmp_path):
    result = save(tmp_path)
    further = dataclasses.replace(result.scanner_pose[0], pixel_spacing_mm=[0.4, 0.4])
    save(tmp_path, scanner_pose=[result.scanner_pose[0], further])
    for name in ("gt", "final_img"):
        shutil.copy(tmp_path / f"{name}.png", tmp_path / f"{name}_view2.png")
    first, second = view_images.view_images(registered.load_registered(tmp_path))
    np.testing.assert_allclose(
        first.drr, second.drr, atol=1e-5
    )  # one is read from 32-bit grey values
    assert first.pixel_mm == pytest.approx(4 * second.pixel_mm)
    page = patient_page.patient_page("P", tmp_path, [registered.load_registered(tmp_path)])
    assert page.count('class="compare"') == 2
    assert ", view 2" in page


@pytest.mark.parametrize(("width", "bar"), [(200, 50), (130, 20), (45, 10), (9, 2), (1000, 200)])
def test_a_scale_bar_is_a_round_number_of_millimetres(width, bar):
    assert overlays.scale_bar_mm(width) == bar


# ------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0, 4, [0, 1, 2, 3, 4]),
        (-0.2, 0.9, [-0.5, 0, 0.5, 1]),
        (3, 3, [3, 4, 5, 6]),
    ],
)
def test_ticks_are_round_and_cover_the_values(low, high, expected):
    assert charts.nice_ticks(low, high) == expected


def test_a_histogram_counts_every_value_and_survives_one():
    text = charts.histogram({"a": np.array([1.0, 1, 5]), "b": np.array([2.0])}, "mm", "label")
    heights = [float(h) for h in re.findall(r'<rect class="bar c\d"[^>]+height="([\d.]+)"', text)]
    assert sum(heights) / (charts.HEIGHT - charts.TOP - charts.BOTTOM) * 4 == pytest.approx(
        4
    )  # the axis goes to 4
    assert "<rect" in charts.histogram({"a": np.array([0.0])}, "mm", "label")


def test_one_value_far_off_does_not_squeeze_the_others_into_one_bar():
    values = np.r_[np.linspace(0.1, 1, 39), 150]
    text = charts.histogram({"a": values}, "mm", "label")
    assert text.count("<rect") > 8
    assert "≥ 1" in text


def test_a_name_in_a_chart_cannot_break_out_of_it():
    assert "<script>" not in charts.lines(
        {"<script>": np.arange(3), "b": np.arange(3)}, "x", "y", 'a "label" <b>'
    )


# ------------------------------------------------------------------------------------------ browser


def relevant(messages):
    """Console messages but for the graphics driver's and the canvas's advice on speed."""
    return [
        text
        for text in messages
        if "GL Driver Message" not in text and "willReadFrequently" not in text
    ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=shutil.which("chromium"),
            args=flags,
            offline=True,
        )
        yield context
        context.close()


@pytest.fixture
def tab(browser):
    """(open page, its console messages and errors)."""
    page, messages = browser.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    yield page, messages
    page.close()


@pytest.mark.browser
@pytest.mark.slow
def test_the_slider_uncovers_the_xray_by_keyboard_and_the_outline_can_be_hidden(tab, made):
    page, messages = tab
    page.goto(made[1].as_uri())
    figure = page.locator(".compare").first
    slider = figure.get_by_role("slider")
    clip = "element => getComputedStyle(element).clipPath"
    assert "50%" in figure.locator(".drr").evaluate(clip)
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert "60%" in figure.locator(".drr").evaluate(clip)
    figure.get_by_role("checkbox").uncheck()
    assert not figure.locator(".outline").is_visible()
    assert all(page.evaluate("[...document.images].map(image => image.naturalWidth > 0)"))
    assert relevant(messages) == []


@pytest.mark.browser
@pytest.mark.slow
def test_the_scene_draws_bone_detector_and_source_when_it_is_opened(tab, made):
    page, messages = tab
    page.goto(made[1].as_uri())
    page.get_by_text("Bone, source and detector").first.click()
    page.wait_for_selector(".plot .main-svg", state="attached")
    names = page.evaluate("document.querySelector('.plot').data.map(trace => trace.name)")
    assert {"bone", "X-ray", "X-ray source", "principal ray"} <= set(names)
    grey = page.evaluate(
        "document.querySelector('.plot').data.find(trace => trace.name ==="
        " 'X-ray').surfacecolor.flat()"
    )
    assert max(grey) > 200
    assert min(grey) < 60
    assert relevant(messages) == []


@pytest.mark.browser
@pytest.mark.slow
def test_the_cohort_table_sorts_and_filters(tab, cohort_page):
    page, messages = tab
    page.goto(cohort_page.as_uri())

    def names():
        return page.eval_on_selector_all(
            "tbody tr:not([hidden]) th", "cells => cells.map(cell => cell.textContent)"
        )

    assert names() == ["P02, femur, b", "P01, femur, a"]
    page.get_by_role("button", name="registration").click()
    assert names() == ["P01, femur, a", "P02, femur, b"]
    assert page.locator("th[aria-sort=ascending]").count() == 1
    page.get_by_role("button", name="depth, 95 %").click()
    page.get_by_role("button", name="depth, 95 %").click()
    assert names() == ["P01, femur, a", "P02, femur, b"]  # rows without a number stay last
    page.get_by_role("searchbox").fill("missing")
    assert names() == ["P02, femur, b"]
    assert relevant(messages) == []


@pytest.mark.browser
@pytest.mark.slow
def test_a_long_table_shows_its_first_rows_and_filters_and_sorts_all_of_them(tab, tmp_path):
    page, messages = tab
    patients = [
        CohortPatient(
            f"P{n}", tmp_path / "ct.nii", tmp_path / "s.nii", (CohortXray(Path("a.png"), "left"),)
        )
        for n in range(150)
    ]
    text = report_of_cohort("c", tmp_path, patients, ["femur", "tibia"], tmp_path)
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    page.goto((tmp_path / "index.html").as_uri())
    shown = page.locator("tbody tr:not([hidden])")
    assert shown.count() == 200
    page.get_by_role("searchbox").fill("P149")  # beyond the first rows
    assert shown.locator("th").all_inner_texts() == ["P149, femur, a", "P149, tibia, a"]
    page.get_by_role("searchbox").fill("")
    for _ in range(2):
        page.get_by_role("button", name="registration").click()
    assert shown.locator("th").first.inner_text() == "P149, tibia, a"
    assert shown.count() == 200
    page.get_by_role("button", name="Show all 300").click()
    page.get_by_role("button", name="registration").click()  # stays so
    assert shown.count() == 300
    assert page.locator(".all").is_hidden()
    page.reload()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert shown.count() == 300
    assert relevant(messages) == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_both_pages_pass_the_accessibility_check_in_light_and_dark(tab, made, cohort_page, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page, _ = tab
    page.emulate_media(color_scheme=scheme)
    for path in (made[1], cohort_page):
        page.goto(path.as_uri())
        for summary in page.locator("summary").all():
            summary.click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


@pytest.mark.browser
@pytest.mark.slow
def test_a_printed_page_shows_images_and_charts_without_controls(tab, made):
    page, _ = tab
    page.goto(made[1].as_uri())
    page.emulate_media(media="print")
    assert not page.get_by_role("slider").first.is_visible()
    assert page.locator(".drr").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
