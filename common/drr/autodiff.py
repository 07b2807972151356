"""Renderers as differentiable functions of the camera, for losses and optimisers in torch."""

from __future__ import annotations

from typing import Any

import torch

from common.drr.renderer import Renderer
from common.geometry import Detector


def render(renderer: Renderer, cameras: torch.Tensor, detector: Detector) -> torch.Tensor:
    """Return line integrals (B, H, W) float32 of cameras (B, 4, 4), ``volume_from_camera``.

    Gradients are propagated to the cameras. The gradient is that of a rigid motion of each camera:
    the gradient of the matrix that is tangent to SE(3), the same for every parameterisation of the
    pose.
    """
    return _Render.apply(cameras, renderer, detector)


class _Render(torch.autograd.Function):
    """The renderer's own derivative as a node of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any, cameras: torch.Tensor, renderer: Renderer, detector: Detector
    ) -> torch.Tensor:
        matrices = cameras.detach().cpu().double().numpy()
        if not ctx.needs_input_grad[0]:
            return torch.from_numpy(renderer.render(matrices, detector)).to(cameras.device)
        images, jacobians = renderer.render_with_jacobian(matrices, detector)
        ctx.save_for_backward(cameras.detach(), torch.from_numpy(jacobians).to(cameras.device))
        ctx.centre = torch.as_tensor(renderer.centre_mm, dtype=cameras.dtype, device=cameras.device)
        return torch.from_numpy(images).to(cameras.device)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[torch.Tensor, None, None]:
        (upstream,) = grad_outputs  # (B, H, W)
        cameras, jacobians = ctx.saved_tensors
        turn, shift = (
            torch.einsum("bchw,bhw->bc", jacobians, upstream).to(cameras.dtype).split(3, dim=1)
        )
        # a left twist (w, v) about c moves R by [w] R and t by w x (t - c) + v: the gradient by t
        # is that by v, and the part of the gradient by w that t does not give, h, is [h] R / 2
        h = turn - torch.linalg.cross(cameras[:, :3, 3] - ctx.centre, shift)
        gradient = torch.zeros_like(cameras)
        gradient[:, :3, :3] = 0.5 * _cross_matrix(h) @ cameras[:, :3, :3]
        gradient[:, :3, 3] = shift
        return gradient, None, None


def _cross_matrix(vectors: torch.Tensor) -> torch.Tensor:
    """Return matrices [h] (B, 3, 3) of vectors h (B, 3): [h] a is the cross product of h and a."""
    x, y, z = vectors.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
