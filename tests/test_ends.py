"""Cut ends: found at the faces of a CT, recorded in its lineage, excluded by the solver."""

from dataclasses import replace

import helpers
import numpy as np
import pytest
from test_refinement import DETECTOR, LEVELS, error, moved, take_xray

from common import geometry
from common.drr import joseph
from common.geometry import MIRROR
from common.registration.gauss_newton import refine
from common.registration.scene import Body, View
from common.volume import attenuation, cut_ends
from common.volume.hounsfield import SOFT_TISSUE_HU
from common.volume.lineage import Lineage
from common.volume.volume import Volume, affine_of_box, points_of


def rod(count=30):
    """A bone that leaves the volume at its last slice, and its labelmap."""
    data = np.full((20, 22, count), 40, np.int16)
    data[8:12, 9:14] = 900
    data[5:15, 7:12, 4:9] = 1000
    data[:, :, :2] = 40
    ct = Volume(data, helpers.oblique_affine((2.0, 2.0, 3.0)), Lineage())
    labels = np.where(data > 300, 7, 0).astype(np.uint8)
    labels[:, :, :2] = 0
    return ct, replace(ct, data=labels)


def test_a_bone_is_cut_where_its_label_reaches_the_volumes_face():
    ct, labelmap = rod()
    (cut,) = cut_ends.cuts_of(labelmap.data, [7], ct)
    np.testing.assert_allclose(
        cut.point_mm, geometry.apply(ct.affine, np.array([9.5, 11, 29])), atol=1e-9
    )
    np.testing.assert_allclose(cut.normal, ct.affine[:3, 2] / 3.0, atol=1e-9)
    assert cut_ends.cuts_of(labelmap.data, [3], ct) == []
    assert cut_ends.cuts_of(labelmap.data[:, :, :-1] * 0, None, ct) == []


def test_the_points_of_a_cut_follow_the_bone_through_mirror_and_motion():
    ct, labelmap = rod()
    cuts = cut_ends.cuts_of(labelmap.data, None, ct)
    plain = cut_ends.end_points(labelmap.data > 0, ct, cuts)
    np.testing.assert_allclose(
        geometry.apply(geometry.invert(ct.affine), plain)[:, 2].min(), 28, atol=1e-6
    )
    scanner_from_volume = geometry.twist(np.array([0.1, -0.2, 0.3, 5, 6, 7]), np.zeros(3)) @ MIRROR
    elsewhere = replace(
        ct,
        affine=geometry.invert(scanner_from_volume) @ ct.affine,
        lineage=Lineage(scanner_from_volume),
    )
    np.testing.assert_allclose(
        geometry.apply(
            scanner_from_volume, cut_ends.end_points(labelmap.data > 0, elsewhere, cuts)
        ),
        plain,
        atol=1e-9,
    )


def test_recorded_cuts_are_read_from_the_lineage():
    ct, _ = rod()
    assert cut_ends.recorded_cuts(ct) is None
    assert (
        cut_ends.recorded_cuts(replace(ct, lineage=Lineage().then("crop_cts", {"cuts": []}))) == []
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.slow
def test_a_cut_shifts_the_pose_only_if_it_is_unknown(known):
    """The X-ray shows a longer rod than the CT has."""
    long, long_labels = rod(count=60)
    short = replace(
        long, data=long.data[:, :, :34], affine=affine_of_box(long.affine, np.s_[0:20, 0:22, 0:34])
    )
    short_labels = replace(short, data=long_labels.data[:, :, :34])

    def body_of(ct, labelmap, points=None):
        volume = attenuation.select_structures(ct, labelmap, None, SOFT_TISSUE_HU)
        return Body(
            joseph.FusedRenderer(volume, volume.isocentre_mm),
            points_of(volume, volume.data > 0),
            ends=points,
        )

    cuts = cut_ends.cuts_of(short_labels.data, None, short)
    body = body_of(
        short,
        short_labels,
        cut_ends.end_points(short_labels.data > 0, short, cuts) if known else None,
    )
    truth = geometry.translation(body.renderer.centre_mm) @ geometry.camera_from_pose(
        geometry.pose_from_angles([12, -8, 6], [0, 620, 0])
    )
    xray = take_xray([body_of(long, long_labels)], [truth])
    fit = refine([View(xray)], [body], [moved(truth, body, (1, -1, 1), (1, 1, -1))], LEVELS)
    assert DETECTOR.width == xray.image.shape[1]
    assert (error(fit.poses[0], truth, body).mtre_mm < 1.0) == known
