"""X-ray pictures: read, turned into attenuation (bone bright), with the detector that took them.

PNG, JPEG, TIFF (8 or 16 bit) and DICOM. The geometry comes from flags, else from the DICOM header or from ``NAME.json`` beside a picture,
else from the caller's fallback; which one it was is part of the result.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError
from common.xray.dicom import Header

logger = logging.getLogger(__name__)


GLARE, GLARE_WIDTH = (
    0.12,
    0.12,
)  # of the grey range, of the picture's width: an image intensifier's halo outside its field
OPEN_BEAM, OPEN_SHARE = (
    0.8,
    0.35,
)  # of the grey range, of the field: a picture with that much that bright counts photons
MIN_INTENSITY = (
    1e-3  # of the open field: thinner signals are noise, and their logarithm would be too
)


def to_attenuation(
    path: Path, pixels: np.ndarray, header: Header, bone: str
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Attenuation image, valid field, and how it was decided.

    A detector that counts photons (bone dark) is linearised by the logarithm of the open field over the pixel (Beer and Lambert);
    a picture with bright bone is taken as attenuation with a tone curve, which the solver estimates.
    """
    valid = ~border_padding(pixels, header.padding)
    if valid.mean() < 0.02 or np.ptp(pixels[valid]) == 0:
        raise InputError(
            path,
            f"only {100 * valid.mean():.1f} % of the picture holds an image",
            "an exposed field",
            "choose another file",
        )
    shown_inverted = bool(header.inverted)
    if bone != "auto":
        dark, reason = (bone == "dark") != shown_inverted, "--bone"
    elif header.relationship in ("LIN", "LOG"):
        dark, reason = (
            (header.relationship == "LIN" and header.sign != -1),
            "DICOM PixelIntensityRelationship",
        )
    else:
        dark, reason = _bone_is_dark(pixels, valid), "guess from centre and border"
        logger.info(
            f"{path.name}: bone taken as {'dark' if dark else 'bright'} in the stored values"
            f" ({reason}); `bone` bright|dark overrules"
        )
    inside = pixels[valid]
    low, high = np.percentile(inside, [0.05, 99.5])
    if high <= low:
        raise InputError(
            path,
            f"is saturated (99 % of the field has the grey value {low:g})",
            "an X-ray with contrast",
            "export it again",
        )
    if dark:
        floor = min(0.0, float(inside.min()))
        image = -np.log(np.clip((pixels - floor) / (high - floor), MIN_INTENSITY, None))
    else:
        image = (
            (pixels - low) / (high - low) * 4
        )  # a knee's bone attenuates about e^-4: keeps both kinds on one scale
    image = np.where(valid, np.maximum(image, 0), 0).astype(np.float32)
    return (
        image,
        valid,
        {
            "bone": "dark" if dark else "bright",
            "decided_by": reason,
            "linearised": "log" if dark else "as stored",
        },
    )


def border_padding(pixels: np.ndarray, padding: float | None = None) -> np.ndarray:
    """Pixels of one constant value (0, the extremes, or the header's padding) in patches that touch the border: collimator, round field.

    With them goes the glare along their edge, and 1 % of the picture's width, because that edge is blurred.
    """
    from scipy.ndimage import binary_dilation, label

    outside = np.zeros(pixels.shape, bool)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    for value in {float(pixels.min()), float(pixels.max())} | (
        {float(padding)} if padding is not None else set()
    ):
        if not (border == value).any():
            continue
        patches, _ = label(pixels == value)
        touching = np.unique(
            np.concatenate([patches[0], patches[-1], patches[:, 0], patches[:, -1]])
        )
        sizes = np.bincount(patches.ravel())
        large = [t for t in touching if t and sizes[t] > 0.002 * pixels.size]
        outside |= np.isin(patches, large)
    if outside.any() and not outside.all():
        outside = binary_dilation(
            outside | _glare(pixels, outside), iterations=max(1, pixels.shape[1] // 100)
        )
    return outside


def _glare(pixels: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Nearly black patches between the blackened outside of the field and its sharp edge. A patch that reaches far into the field is anatomy and stays."""
    from scipy.ndimage import binary_dilation, distance_transform_edt, label, maximum

    low, high = float(pixels.min()), np.percentile(pixels[~outside], 99.5)
    patches, count = label((pixels < low + GLARE * (high - low)) & ~outside)
    touching = np.unique(patches[binary_dilation(outside & (pixels == low)) & ~outside])
    if not touching.any():
        return np.zeros_like(outside)
    depth = maximum(distance_transform_edt(~outside), patches, np.arange(count + 1))
    glare = np.isin(
        patches, [t for t in touching if t and depth[t] < GLARE_WIDTH * pixels.shape[1]]
    )
    beyond = binary_dilation(glare, iterations=4) & ~glare & ~outside
    sharp = beyond.any() and np.median(pixels[beyond]) > low + 1.5 * GLARE * (
        high - low
    )  # else it shades off, as an open field does that is black
    return glare if sharp else np.zeros_like(outside)


def _bone_is_dark(pixels: np.ndarray, valid: np.ndarray) -> bool:
    """Whether bone is dark: much of the field is as bright as the open beam, or its middle, where the limb lies, is darker than its rim."""
    from scipy.ndimage import distance_transform_edt

    low, high = np.percentile(pixels[valid], [0.5, 99.5])
    if (pixels[valid] > low + OPEN_BEAM * (high - low)).mean() > OPEN_SHARE:
        return True

    padded = np.pad(valid[::4, ::4], 1)
    depth = distance_transform_edt(padded)[1:-1, 1:-1]
    small = pixels[::4, ::4]
    inside = valid[::4, ::4]
    rim, middle = inside & (depth <= max(1.0, 0.15 * depth.max())), depth > 0.6 * depth.max()
    return bool(np.median(small[middle]) < np.percentile(small[rim], 60))


def stretched(image: np.ndarray) -> np.ndarray:
    """Line integrals as 8-bit grey, lowest black, highest white."""
    low, high = float(image.min()), float(image.max())
    return ((image - low) / max(high - low, 1e-9) * 255).round().astype(np.uint8)
