"""Grey values: stretched for display, and converted to attenuation inside the valid field."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from common.errors import InputError
from common.xray.header import Header, Reading

logger = logging.getLogger(__name__)

# bone in the file as a viewer shows it; auto: from the header, else guessed
Polarity: TypeAlias = Literal["auto", "bright", "dark"]

# halo of an image intensifier: highest grey value, as a fraction of the grey range
GLARE = 0.12
GLARE_WIDTH = 0.12  # its largest depth, as a fraction of the image width
# an image counts photons if this fraction of its field is above this fraction of the grey range
OPEN_SHARE, OPEN_BEAM = 0.35, 0.8
# lowest signal, as a fraction of the open field: weaker signals are noise
MIN_INTENSITY = 1e-3
# attenuation at the upper end of the grey range if bone is bright: that of a knee's bone, so that
# both polarities have one scale
BRIGHT_ATTENUATION = 4
# frame of a digitised film: deviation of its grey values, as a fraction of the grey range; share of
# them in its rows, and beyond its edge; rows of an edge
FRAME_NOISE, FRAME_UNIFORM, FRAME_BEYOND, FRAME_EDGE_PX = 0.05, 0.98, 0.35, 4
LEAST_FIELD = 0.02  # fraction of the image
GUESS = "guess from centre and border"  # in `Reading`, if nothing states the polarity


def stretch(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return grey values from ``low`` to ``high`` mapped to 0..1; values outside are clipped."""
    return np.clip((image - low) / max(high - low, 1e-9), 0, 1)


def as_uint8(image: np.ndarray) -> np.ndarray:
    """Return an image in 0..1 as 8-bit grey values."""
    return (image * 255).round().astype(np.uint8)


def stretched(image: np.ndarray) -> np.ndarray:
    """Return line integrals as 8-bit grey values, lowest black, highest white."""
    return as_uint8(stretch(image, float(image.min()), float(image.max())))


def to_attenuation(
    path: Path, pixels: np.ndarray, header: Header, bone: Polarity
) -> tuple[np.ndarray, np.ndarray, Reading]:
    """Return attenuation (H, W) float32, valid field (H, W) bool, and how the polarity was decided.

    If bone is dark, the detector counted photons: attenuation is the logarithm of the open field
    over the pixel (Beer-Lambert law). If bone is bright, the image is attenuation up to a tone
    curve, which the solver estimates. Raises InputError if little of the image is exposed or the
    valid field is saturated.
    """
    valid = ~border_padding(pixels, header.padding)
    if valid.mean() < LEAST_FIELD or np.ptp(pixels[valid]) == 0:
        raise InputError(
            path,
            f"only {100 * valid.mean():.1f} % of the file holds an image",
            "an exposed field",
            "choose another file",
        )
    dark, logarithmic, reason = _polarity(path, pixels, valid, header, bone)
    inside = pixels[valid]
    low, high = np.percentile(inside, [0.05, 99.5])
    if high <= low:
        raise InputError(
            path,
            f"is saturated (99 % of the valid field has the grey value {low:g})",
            "an X-ray with contrast",
            "export it again",
        )
    if dark and logarithmic:
        image = (high - pixels) / (high - low) * BRIGHT_ATTENUATION
    elif dark:
        floor = min(0.0, float(inside.min()))
        image = -np.log(np.clip((pixels - floor) / (high - floor), MIN_INTENSITY, None))
    else:
        image = (pixels - low) / (high - low) * BRIGHT_ATTENUATION
    image = np.where(valid, np.maximum(image, 0), 0).astype(np.float32)
    about: Reading = {
        "bone": "dark" if dark else "bright",
        "decided_by": reason,
        "linearised": "log" if dark and not logarithmic else "as stored",
        "bone_shown": "dark" if dark != header.inverted else "bright",
    }
    return image, valid, about


def _polarity(
    path: Path, pixels: np.ndarray, valid: np.ndarray, header: Header, bone: Polarity
) -> tuple[bool, bool, str]:
    """Return whether bone is dark in the stored values, whether they are logarithms, and why.

    PixelIntensityRelationshipSign says which way the values run, for LOG as for LIN (PS3.3
    C.8.11.3.1.2): with 1, lower values mean less intensity of the beam, so that bone is dark.
    Without it, LIN is the intensity, and LOG says nothing certain.
    """
    logarithmic = header.relationship == "LOG"
    signed = header.sign in (-1, 1)
    if bone != "auto":
        return (bone == "dark") != header.inverted, logarithmic, "stated polarity"
    if header.relationship in ("LIN", "LOG") and (signed or not logarithmic):
        return header.sign != -1, logarithmic, "DICOM PixelIntensityRelationship"
    dark, reason = _bone_is_dark(pixels, valid), GUESS
    logger.info(
        f"{path.name}: bone assumed {'dark' if dark else 'bright'} in the stored grey values"
        f" ({reason}); `bone` bright or `bone` dark overrules this"
    )
    return dark, logarithmic, reason


def _bone_is_dark(pixels: np.ndarray, valid: np.ndarray) -> bool:
    """Return whether much of the field shows the open beam, or the centre is darker than the rim.

    The limb is in the centre of the field.
    """
    from scipy.ndimage import distance_transform_edt

    low, high = np.percentile(pixels[valid], [0.5, 99.5])
    if (pixels[valid] > low + OPEN_BEAM * (high - low)).mean() > OPEN_SHARE:
        return True
    small, inside = pixels[::4, ::4], valid[::4, ::4]
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    rim, centre = inside & (depth <= max(1.0, 0.15 * depth.max())), depth > 0.6 * depth.max()
    return bool(np.median(small[centre]) < np.percentile(small[rim], 60))


def border_padding(pixels: np.ndarray, padding: float | None = None) -> np.ndarray:
    """Return the mask (H, W) of the surroundings of the exposed field, such as a collimator.

    They are patches of one grey value (lowest, highest or the header's ``padding``) that touch
    the border, the glare along their edge, and 1 % of the image width, because the edge is blurred.
    """
    from scipy.ndimage import binary_dilation, label

    outside = _frame(pixels)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    extremes = {float(pixels.min()), float(pixels.max())}
    for value in extremes | ({float(padding)} if padding is not None else set()):
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


def _frame(pixels: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) of a noisy frame around the picture, as of a digitised film.

    Its rows and columns are of one grey value but for noise, and it ends at a straight edge, at
    which nearly all pixels change. The open field around a limb has no such edge.
    """
    level = float(np.median(np.concatenate([pixels[:2].ravel(), pixels[:, :2].ravel()])))
    low, high = np.percentile(pixels, [0.5, 99.5])
    reach = FRAME_NOISE * (high - low)
    near = np.abs(pixels - level) <= reach
    frame = np.zeros(pixels.shape, bool)
    for quarters in range(4):
        side, thick = np.rot90(frame, quarters), _frame_rows(np.rot90(near, quarters))
        if not thick:  # a limb reaches at least one side
            return np.zeros(pixels.shape, bool)
        side[:thick] = True
    return frame


def _frame_rows(near: np.ndarray) -> int:
    """Return how many first rows of a mask (H, W) of the frame's grey value are frame, 0 if none.

    They end at a straight edge: in the middle of the next rows, most pixels have other values.
    """
    uniform = near.mean(axis=1) >= FRAME_UNIFORM
    thick = len(uniform) if uniform.all() else int(uniform.argmin())
    quarter = near.shape[1] // 4
    beyond = near[thick : thick + FRAME_EDGE_PX, quarter : near.shape[1] - quarter]
    if thick < FRAME_EDGE_PX or not beyond.size:
        return 0
    return thick if beyond.mean(axis=1).min() < FRAME_BEYOND else 0


def _glare(pixels: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return nearly black patches between the blackened outside of the field and its sharp edge.

    A patch that reaches far into the field is anatomy. One without a sharp edge is an open field
    that is black and shades off. Both are kept in the image.
    """
    from scipy.ndimage import binary_dilation, distance_transform_edt, label

    low, high = float(pixels.min()), np.percentile(pixels[~outside], 99.5)
    patches, count = label((pixels < low + GLARE * (high - low)) & ~outside)
    touching = np.unique(patches[binary_dilation(outside & (pixels == low)) & ~outside])
    if not touching.any():
        return np.zeros_like(outside)
    depth, inside = np.zeros(count + 1), patches > 0
    np.maximum.at(depth, patches[inside], distance_transform_edt(~outside)[inside])
    glare = np.isin(
        patches, [t for t in touching if t and depth[t] < GLARE_WIDTH * pixels.shape[1]]
    )
    beyond = binary_dilation(glare, iterations=4) & ~glare & ~outside
    sharp = beyond.any() and np.median(pixels[beyond]) > low + 1.5 * GLARE * (high - low)
    return glare if sharp else np.zeros_like(outside)
