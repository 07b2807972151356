"""X-ray pictures: read, turned into attenuation (bone bright), with the detector that took them.

PNG, JPEG, TIFF (8 or 16 bit) and DICOM. The geometry comes from flags, else from the DICOM header or from ``NAME.json`` beside a picture,
else from the caller's fallback; which one it was is part of the result.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common import cli, dicom
from common.dicom import MAX_PIXELS, Header
from common.geometry import Detector

BONE = ("auto", "bright", "dark")
FORMATS = ("PNG", "JPEG", "TIFF")  # not all that Pillow opens: some of its readers start other programs
LEAST_GREYS = 8  # different values; with fewer it is a mask or a drawing
PAIRS = ("pixel_spacing_mm", "principal_point_px")  # in NAME.json, beside sdd_mm
GLARE, GLARE_WIDTH = 0.12, 0.12  # of the grey range, of the picture's width: an image intensifier's halo outside its field
OPEN_BEAM, OPEN_SHARE = 0.8, 0.35  # of the grey range, of the field: a picture with that much that bright counts photons
MIN_INTENSITY = 1e-3  # of the open field: thinner signals are noise, and their logarithm would be too


@dataclass(frozen=True)
class Xray:
    """An X-ray as the solver sees it."""

    image: np.ndarray  # (H, W) float32, attenuation up to scale and tone: 0 where nothing absorbs, bone bright
    valid: np.ndarray  # (H, W) bool: inside the collimated field, neither padding nor saturated
    detector: Detector  # of this picture, after the flip
    path: Path
    flipped: bool = False  # mirrored left to right after reading
    frame: int | None = None  # of a multi-frame DICOM
    reading: dict[str, Any] = field(default_factory=dict)  # how it was read: bone, tone, where the geometry came from and what of it is the checkpoint's
    _binned: dict[int, Xray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def flip(self) -> Xray:
        return replace(self, image=self.image[:, ::-1].copy(), valid=self.valid[:, ::-1].copy(), detector=self.detector.flipped(), flipped=not self.flipped)

    def binned(self, factor: int) -> Xray:
        """The picture with ``factor`` x ``factor`` pixels averaged; a pixel is valid where all of its parts are."""
        if factor == 1:
            return self
        height, width = (n // factor * factor for n in self.image.shape)
        weight = _blocks(self.valid[:height, :width].astype(np.float32), factor)
        total = _blocks(np.where(self.valid, self.image, 0)[:height, :width], factor)
        image = np.where(weight > 0, total / np.maximum(weight, 1e-6), 0).astype(np.float32)
        return replace(self, image=image, valid=weight > 0.99, detector=self.detector.binned(factor))

    def coarser(self, pixel_mm: float) -> Xray:
        """The picture binned to pixels of about ``pixel_mm``, itself where it is coarser; kept for the next who asks."""
        factor = max(1, round(pixel_mm / max(self.detector.pixel_mm)))
        if factor not in self._binned:
            self._binned[factor] = self.binned(factor)
        return self._binned[factor]

    def as_uint8(self) -> np.ndarray:
        """The picture for the eye: bone bright, the valid field stretched to 0..255, the rest black."""
        low, high = np.percentile(self.image[self.valid], [0.1, 99.9])
        return np.where(self.valid, np.clip((self.image - low) / max(high - low, 1e-6), 0, 1) * 255, 0).round().astype(np.uint8)


@dataclass(frozen=True)
class GeometryFlags:
    """What the user said about the detector; None where nothing was said."""

    sdd_mm: float | None = None
    pixel_mm: tuple[float, float] | None = None  # width, height
    principal_px: tuple[float, float] | None = None
    calibrated: bool = False  # from a calibration file: only the ratio of distance to pixel size is known


def read(path: str | Path, flags: GeometryFlags | None = None, fallback: Detector | None = None, bone: str = "auto", frame: int | None = None) -> Xray:
    """Read an X-ray.

    ``fallback`` is the detector to assume where neither flags nor header give SDD and pixel size: its field of view is
    spread over the picture. ``bone`` says whether bone is bright or dark in the file as a viewer shows it. ``frame`` chooses
    from a multi-frame DICOM. Raises InputError for a file that cannot be read, holds no contrast or has no geometry.
    """
    flags = flags or GeometryFlags()
    path = cli.existing_file(path, "an X-ray (PNG, JPEG, TIFF or DICOM)")
    if is_dicom(path):
        pixels, header = dicom.read(path, frame)
    else:
        pixels, header = read_picture(path), geometry_beside(path)
    if min(pixels.shape) < 16:
        raise cli.InputError(f"{path}: has {pixels.shape[1]} x {pixels.shape[0]} pixels; expected an X-ray of at least 16 x 16; choose another file")
    if not np.isfinite(pixels).all():
        raise cli.InputError(f"{path}: holds NaN or infinite pixels; expected grey values; export the X-ray again")
    if pixels.min() == pixels.max():
        raise cli.InputError(f"{path}: has a single grey value ({pixels.flat[0]:g}); expected an X-ray with contrast; export it again")
    if (greys := len(np.unique(pixels))) < LEAST_GREYS:
        raise cli.InputError(f"{path}: has {greys} different grey values; expected an X-ray, not a mask or a drawing; export it with its grey values")
    detector, origin = _detector(path, pixels.shape, flags, header, fallback)
    image, valid, tone = _to_attenuation(path, pixels, header, bone)
    findings = [*header.findings, *dicom.contradictions(header, flags.sdd_mm, flags.pixel_mm, flags.calibrated)]
    for finding in findings:
        cli.warn(f"{path.name}: {finding}")
    orientation = list(header.patient_orientation) if header.patient_orientation else None
    reading = {**tone, **origin, "findings": findings, "patient_orientation": orientation, "source_to_patient_mm": header.source_to_patient_mm}
    return Xray(image, valid, detector, path, frame=frame, reading=reading)


def is_dicom(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


# ------------------------------------------------------------------------------------------------ reading


def read_picture(path: Path) -> np.ndarray:
    """Grey values (H, W), float32, of a PNG, JPEG or TIFF as stored. Raises InputError for colours, several pages or no picture."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice this number before it allocates
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise cli.InputError(f"{path}: holds {image.n_frames} pages; expected one picture; export the frame to register")
            if image.mode in ("I;16", "I;16B", "I;16L", "I", "F", "L"):
                return np.asarray(image).astype(np.float32)
            channels = np.asarray(image.convert("RGB")).astype(np.int16)
    except UnidentifiedImageError:
        raise cli.InputError(f"{path}: is not a picture that can be read; expected PNG, JPEG, TIFF or DICOM; export the X-ray again") from None
    except (cli.InputError, MemoryError):
        raise
    except Exception as error:  # whatever Pillow meets in a damaged or hostile file
        raise cli.InputError(f"{path}: cannot be read ({cli.one_line(error)}); expected PNG, JPEG, TIFF or DICOM; export the X-ray again") from error
    spread = int(np.ptp(channels, axis=2).max())
    if spread > 8:  # JPEG turns grey into colours a few levels apart
        raise cli.InputError(f"{path}: is a colour picture (channels differ by up to {spread}); expected grey values; export the X-ray without colours or annotations")
    return channels.mean(axis=2).astype(np.float32)


# ------------------------------------------------------------------------------------------------ geometry


def geometry_beside(picture: Path) -> Header:
    """What ``NAME.json`` beside ``NAME.png`` states: sdd_mm, pixel_spacing_mm [width, height], principal_point_px [column, row].

    A JSON with none of these keys is something else and is left alone. Raises InputError for values that are no geometry.
    """
    beside = picture.with_suffix(".json")
    if not beside.exists():
        return Header()
    content = cli.read_json(beside, f"the geometry of {picture.name} (or move it away)")
    stated = {key: content[key] for key in ("sdd_mm", *PAIRS) if content.get(key) is not None}
    try:
        pairs = {key: tuple(map(float, stated[key])) for key in PAIRS if key in stated}
        sdd = float(stated["sdd_mm"]) if "sdd_mm" in stated else None
    except (TypeError, ValueError):
        pairs, sdd = {"": ()}, None
    if not all(len(pair) == 2 and np.isfinite(pair).all() for pair in pairs.values()):
        raise cli.InputError(
            f"{beside}: holds {stated}; expected sdd_mm, a number, and pixel_spacing_mm [width, height] and principal_point_px [column, row], two numbers each; correct it"
        )
    return Header(sdd_mm=sdd, pixel_mm=pairs.get("pixel_spacing_mm"), principal_px=pairs.get("principal_point_px"))


def _detector(path: Path, shape: tuple[int, int], flags: GeometryFlags, header: Header, fallback: Detector | None) -> tuple[Detector, dict[str, Any]]:
    height, width = shape
    sdd, pixel, principal = flags.sdd_mm or header.sdd_mm, flags.pixel_mm or header.pixel_mm, flags.principal_px or header.principal_px
    file = "DICOM header" if is_dicom(path) else path.with_suffix(".json").name
    pairs = ((flags.sdd_mm, header.sdd_mm), (flags.pixel_mm, header.pixel_mm), (flags.principal_px, header.principal_px))
    origin = " and ".join(
        name
        for name, used in (("calibration" if flags.calibrated else "flags", any(flag for flag, _ in pairs)), (file, any(not flag and stated for flag, stated in pairs)))
        if used
    )
    assumed = []
    if fallback is not None:
        if not sdd:
            sdd = fallback.sdd_mm
            assumed.append(f"source-to-detector distance of {sdd:g} mm")
        if not pixel:  # the training field of view, spread over this picture
            pixel = (max(fallback.size_mm) / max(height, width),) * 2
            assumed.append(f"pixel size of {pixel[0]:.4g} mm")
    if assumed:
        origin = " and ".join([*filter(None, [origin]), "checkpoint's training geometry"])
        cli.warn(
            f"{path.name}: neither file nor flags state a {' and a '.join(assumed)}; taken from the checkpoint. Distances are only as true as that; give --sdd and --pixel_spacing"
        )
    absent = [name for name, value in (("source-to-detector distance (--sdd, or add_dicom_data.py)", sdd), ("pixel size (--pixel_spacing)", pixel)) if not value]
    if absent:
        raise cli.InputError(f"{path}: no {' and no '.join(absent)} in the file; expected it there, in {path.stem}.json beside a picture, or as flags, in mm; give the flags")
    if not (50 <= sdd <= 10_000) or not all(0.005 <= p <= 20 for p in pixel):
        raise cli.InputError(
            f"{path}: SDD {sdd:g} mm with pixels of {pixel[0]:g} x {pixel[1]:g} mm; expected 50 to 10000 mm and 0.005 to 20 mm; correct --sdd, --pixel_spacing or the header"
        )
    detector = Detector.centred(height, width, sdd, pixel)
    cli.note(f"{path.name}: SDD {sdd:g} mm, pixel {pixel[0]:.4g} x {pixel[1]:.4g} mm{', principal point {:.1f}, {:.1f}'.format(*principal) if principal else ''} ({origin})")
    return (replace(detector, principal_px=principal) if principal else detector), {"geometry": origin, "assumed": assumed}


# ----------------------------------------------------------------------------------------- grey to attenuation


def _to_attenuation(path: Path, pixels: np.ndarray, header: Header, bone: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Attenuation image, valid field, and how it was decided.

    A detector that counts photons (bone dark) is linearised by the logarithm of the open field over the pixel (Beer and Lambert);
    a picture with bright bone is taken as attenuation with a tone curve, which the solver estimates.
    """
    valid = ~border_padding(pixels, header.padding)
    if valid.mean() < 0.02 or np.ptp(pixels[valid]) == 0:
        raise cli.InputError(f"{path}: only {100 * valid.mean():.1f} % of the picture holds an image; expected an exposed field; choose another file")
    shown_inverted = bool(header.inverted)
    if bone != "auto":
        dark, reason = (bone == "dark") != shown_inverted, "--bone"
    elif header.relationship in ("LIN", "LOG"):
        dark, reason = (header.relationship == "LIN" and header.sign != -1), "DICOM PixelIntensityRelationship"
    else:
        dark, reason = _bone_is_dark(pixels, valid), "guess from centre and border"
        cli.note(f"{path.name}: bone taken as {'dark' if dark else 'bright'} in the stored values ({reason}); --bone bright|dark overrules")
    inside = pixels[valid]
    low, high = np.percentile(inside, [0.05, 99.5])
    if high <= low:
        raise cli.InputError(f"{path}: is saturated (99 % of the field has the grey value {low:g}); expected an X-ray with contrast; export it again")
    if dark:
        floor = min(0.0, float(inside.min()))
        image = -np.log(np.clip((pixels - floor) / (high - floor), MIN_INTENSITY, None))
    else:
        image = (pixels - low) / (high - low) * 4  # a knee's bone attenuates about e^-4: keeps both kinds on one scale
    image = np.where(valid, np.maximum(image, 0), 0).astype(np.float32)
    return image, valid, {"bone": "dark" if dark else "bright", "decided_by": reason, "linearised": "log" if dark else "as stored"}


def border_padding(pixels: np.ndarray, padding: float | None = None) -> np.ndarray:
    """Pixels of one constant value (0, the extremes, or the header's padding) in patches that touch the border: collimator, round field.

    With them goes the glare along their edge, and 1 % of the picture's width, because that edge is blurred.
    """
    from scipy.ndimage import binary_dilation, label

    outside = np.zeros(pixels.shape, bool)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    for value in {float(pixels.min()), float(pixels.max())} | ({float(padding)} if padding is not None else set()):
        if not (border == value).any():
            continue
        patches, _ = label(pixels == value)
        touching = np.unique(np.concatenate([patches[0], patches[-1], patches[:, 0], patches[:, -1]]))
        sizes = np.bincount(patches.ravel())
        large = [t for t in touching if t and sizes[t] > 0.002 * pixels.size]
        outside |= np.isin(patches, large)
    if outside.any() and not outside.all():
        outside = binary_dilation(outside | _glare(pixels, outside), iterations=max(1, pixels.shape[1] // 100))
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
    glare = np.isin(patches, [t for t in touching if t and depth[t] < GLARE_WIDTH * pixels.shape[1]])
    beyond = binary_dilation(glare, iterations=4) & ~glare & ~outside
    sharp = beyond.any() and np.median(pixels[beyond]) > low + 1.5 * GLARE * (high - low)  # else it shades off, as an open field does that is black
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


def _blocks(array: np.ndarray, factor: int) -> np.ndarray:
    height, width = array.shape
    return array.reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3))
