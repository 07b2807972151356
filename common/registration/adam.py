"""The field's reference optimiser, for comparison: xvr's first-order ascent of gradient and multiscale NCC ("gmncc").

Hundreds of renderings for what Gauss-Newton (`common.refinement`) does in tens; similarity and covariance are judged as there. The schedule is
xvr's `Register`: Adam, steps halved at the finer scale, a rate that falls on plateaus (patience 5, at most two falls).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common import geometry
from common.drr import autodiff
from common.pose_network.xvr_parts import xvr_module
from common.progress import track
from common.registration.gauss_newton import Fit, Trace, assess_fit
from common.registration.pyramid import JUDGED, Body, View

SCALES_MM = (6.0, 3.0)  # pixel at the detector
MOST_STEPS = 500
RATE_DEG_RAD, RATE_MM = 1e-2, 1.0  # of the angles (radians) and of the offsets
FALL, PATIENCE, THRESHOLD, MOST_FALLS = 0.1, 5, 1e-4, 2


def ascend(views: Sequence[View], body: Body, start: np.ndarray, trace: Trace) -> Fit | None:
    """The fit that ascent of gmncc reaches from ``start`` (volume_from_rig). None where the body lies outside all pictures."""
    from diffdrr.pose import RigidTransform

    centre = torch.as_tensor(geometry.translation(body.renderer.centre_mm))
    camera_from_carm = torch.as_tensor(geometry.pose_from_camera(np.eye(4)))
    extrinsic = torch.as_tensor(
        geometry.pose_from_camera(geometry.translation(-body.renderer.centre_mm) @ start)
    )
    pose = xvr_module("register/pose.py").Pose(
        RigidTransform(extrinsic[None]), "euler_angles", "ZXY"
    )
    similarity = (
        xvr_module("register/losses/gmncc.py")
        .GradientMultiscaleNormalizedCrossCorrelation2d()
        .double()
    )
    moved = start
    for number, pixel_mm in enumerate(SCALES_MM):
        frames = [(view, view.xray.coarser(pixel_mm)) for view in views]
        rates = [
            {"params": [pose._rot], "lr": RATE_DEG_RAD / 2 ** (number + 1)},
            {"params": [pose._xyz], "lr": RATE_MM / 2 ** (number + 1)},
        ]
        optimizer = torch.optim.Adam(rates, maximize=True)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", FALL, PATIENCE, THRESHOLD
        )
        first_rate = optimizer.param_groups[0]["lr"]
        for _ in track(range(MOST_STEPS), what=f"ascent at {pixel_mm:g} mm", unit="step"):
            volume_from_rig = centre @ pose().matrix[0] @ torch.linalg.inv(camera_from_carm)
            moved = volume_from_rig.detach().numpy()
            values = [
                _value(similarity, view, xray, body, volume_from_rig) for view, xray in frames
            ]
            value = torch.stack(values).sum() / len(frames)
            trace.add([moved], float(value.detach()), pixel_mm)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step(value.detach())
            if optimizer.param_groups[0]["lr"] < first_rate * FALL**MOST_FALLS * 1.01:
                break
    best = max(trace.rows, key=lambda row: (-row[3], row[1]))  # of the finest scale
    return assess_fit(views, [body], best[0], JUDGED)


def _value(
    similarity: torch.nn.Module, view: View, xray, body: Body, volume_from_rig: torch.Tensor
) -> torch.Tensor:
    """gmncc of the rendering and the X-ray, whose field outside the collimator counts for neither."""
    camera = volume_from_rig @ torch.as_tensor(view.rig_from_camera)
    valid = torch.as_tensor(xray.valid)
    rendered = autodiff.render(body.renderer, camera[None], xray.detector)[0].double() * valid
    return similarity(
        (torch.as_tensor(xray.image).double() * valid)[None, None], rendered[None, None]
    ).mean()
