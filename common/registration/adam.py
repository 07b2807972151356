"""First-order reference optimiser, for comparison: xvr's ascent of gradient and multiscale NCC.

It renders hundreds of DRRs where Gauss-Newton (`gauss_newton`) renders tens; similarity and
covariance are assessed in the same way. The schedule is that of xvr's `Register` with its loss
"gmncc": Adam, rates halved at the finer scale and reduced on plateaus (patience 5, at most twice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from common import geometry
from common.drr import autodiff
from common.pose_network.xvr_parts import xvr_module
from common.progress import track
from common.registration.gauss_newton import Fit, Trace, assess_fit
from common.registration.pyramid import JUDGED
from common.registration.scene import Body, View
from common.xray.xray import Xray

SCALES_MM = (6.0, 3.0)  # pixel spacing at the detector
MOST_ITERATIONS = 500
RATE_RAD, RATE_MM = 1e-2, 1.0  # of the angles and of the offsets
FALL, PATIENCE, THRESHOLD, MOST_FALLS = 0.1, 5, 1e-4, 2


def ascend(views: Sequence[View], body: Body, start: np.ndarray) -> Fit | None:
    """Maximise gmncc from ``start`` (volume_from_rig).

    Returns the best pose of the finest scale, or None if the body is out of view in all X-rays.
    """
    trace = Trace()
    pose = _Pose(body, start)
    similarity = (
        xvr_module("register/losses/gmncc.py")
        .GradientMultiscaleNormalizedCrossCorrelation2d()
        .double()
    )
    for number, pixel_mm in enumerate(SCALES_MM):
        images = [(view, view.xray.coarser(pixel_mm)) for view in views]
        optimizer = torch.optim.Adam(pose.rates(0.5 ** (number + 1)), maximize=True)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", FALL, PATIENCE, THRESHOLD
        )
        first_rate = optimizer.param_groups[0]["lr"]
        for _ in track(range(MOST_ITERATIONS), f"ascent at {pixel_mm:g} mm", "iteration"):
            volume_from_rig = pose.volume_from_rig()
            values = [
                _value(similarity, view, xray, body, volume_from_rig) for view, xray in images
            ]
            value = torch.stack(values).sum() / len(images)
            trace.add([volume_from_rig.detach().numpy()], float(value.detach()), pixel_mm)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step(value.detach())
            if optimizer.param_groups[0]["lr"] < first_rate * FALL**MOST_FALLS * 1.01:
                break
    best = max(trace.evaluations, key=lambda each: (-each.pixel_mm, each.similarity))
    fit = assess_fit(views, [body], best.poses, JUDGED)
    return replace(fit, trace=tuple(trace.evaluations)) if fit else None


class _Pose:
    """xvr's pose parameters (Euler ZXY and an offset) of a body."""

    def __init__(self, body: Body, start: np.ndarray):
        from diffdrr.pose import RigidTransform

        self._centre = torch.as_tensor(geometry.translation(body.centre_mm))
        self._camera_from_carm = torch.as_tensor(geometry.pose_from_camera(np.eye(4)))
        canonical = geometry.translation(-body.centre_mm) @ start
        extrinsics = torch.as_tensor(geometry.pose_from_camera(canonical))
        self._pose = xvr_module("register/pose.py").Pose(
            RigidTransform(extrinsics[None]), "euler_angles", "ZXY"
        )

    def rates(self, share: float) -> list[dict[str, object]]:
        """Return parameter groups for an optimiser, with ``share`` of the learning rates."""
        return [
            {"params": [self._pose._rot], "lr": RATE_RAD * share},
            {"params": [self._pose._xyz], "lr": RATE_MM * share},
        ]

    def volume_from_rig(self) -> torch.Tensor:
        """Return the pose (4, 4), float64."""
        return self._centre @ self._pose().matrix[0] @ torch.linalg.inv(self._camera_from_carm)


def _value(
    similarity: torch.nn.Module,
    view: View,
    xray: Xray,
    body: Body,
    volume_from_rig: torch.Tensor,
) -> torch.Tensor:
    """Return gmncc of DRR and X-ray; both are 0 outside the valid field."""
    camera = volume_from_rig @ torch.as_tensor(view.rig_from_camera)
    valid = torch.as_tensor(xray.valid)
    rendered = autodiff.render(body.renderer, camera[None], xray.detector)[0].double() * valid
    seen = torch.as_tensor(xray.image).double() * valid
    return similarity(seen[None, None], rendered[None, None]).mean()
