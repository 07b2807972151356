"""Pictures that are not DICOM: PNG, JPEG, TIFF, BMP, JPEG 2000, and frames of a TIFF or a video.

All are read as a viewer shows them: turned by their EXIF orientation, with the values of a TIFF
that says MinIsWhite exchanged, at full depth. What was done is part of the result.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import files
from common.errors import InputError, reading
from common.xray import video

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 200_000_000
# not all formats that Pillow opens: some of its readers start other programs
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "JPEG2000")
EXPECTED = "PNG, JPEG, TIFF, BMP, JPEG 2000, AVI, MP4 or DICOM"
REMEDY = "export the X-ray again"
# largest difference of channels, as a share of the grey range; JPEG tints grey images slightly
COLOUR_SHARE = 8 / 255
GREY_MODES = ("I;16", "I;16B", "I;16L", "I", "F", "L")
ORIENTATION = 274  # tag of EXIF and TIFF
# rows and columns of a stored array as shown, by that tag: flips, then a transposition
TURNS = {
    2: (1, -1, False),
    3: (-1, -1, False),
    4: (-1, 1, False),
    5: (1, 1, True),
    6: (-1, 1, True),
    7: (-1, -1, True),
    8: (1, -1, True),
}
# compressions of TIFF that tifffile decodes by itself: none, deflate, packbits
PLAIN_TIFF = (1, 8, 32773, 32946)


@dataclass(frozen=True)
class Picture:
    """A picture as a viewer shows it, and what was done for that."""

    grey: np.ndarray  # (H, W) float32
    remarks: tuple[str, ...]
    # what a user should know even in a quiet run
    warnings: tuple[str, ...] = ()


def read(path: Path, frame: int | None = None) -> Picture:
    """Read a picture, or a frame of a multi-page TIFF or a video.

    Raises InputError if the file is none of these, is damaged, has colours, or has several frames
    and ``frame`` is None.
    """
    if video.is_video(path):
        check_frame(path, frame, video.count_frames(path))
        grey, remark = video.read_frame(path, frame or 0)
        return Picture(grey, (remark,))
    if _is_tiff(path):
        found = _exact_tiff(path, frame)
        if found is not None:
            return found
    elif _png_depth(path) == (16, True):
        channels = _colour_png(path)
        return _shown(path, channels, _exif_orientation(path), ["16 bit, several channels"])
    return _by_pillow(path, frame)


def count_frames(path: Path) -> int:
    """Return the number of frames of a picture file: pages of a TIFF, frames of a video, else 1."""
    if video.is_video(path):
        return video.count_frames(path)
    if not _is_tiff(path):
        return 1
    import tifffile

    with reading(path, EXPECTED, REMEDY), tifffile.TiffFile(path) as opened:
        return len(opened.pages)


def check_frame(path: Path, frame: int | None, frames: int) -> None:
    """Raise InputError unless ``frame`` is one of ``frames``, or None for the only one."""
    if frames > 1 and frame is None:
        raise InputError(
            path,
            f"has {frames} frames",
            "the number of one of them, or a run of them",
            f"use `frame` 0 to {frames - 1}, or `sequence`",
        )
    if frame is not None and not 0 <= frame < frames:
        raise InputError(path, f"has no frame {frame}", f"0 to {frames - 1}", "correct `frame`")


# --------------------------------------------------------------------------------------- by Pillow


def _by_pillow(path: Path, frame: int | None) -> Picture:
    from PIL import Image, UnidentifiedImageError

    # Pillow raises above twice this number, before it allocates
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    with reading(path, EXPECTED, REMEDY), warnings.catch_warnings(action="ignore"):
        try:
            opened = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError:
            raise InputError(path, "not an image that can be read", EXPECTED, REMEDY) from None
        with opened as image:
            check_frame(path, frame, getattr(image, "n_frames", 1))
            if frame:
                image.seek(frame)
            orientation, inverted = _said_by(image)
            array, remarks = _decoded(image)
            if image.format == "TIFF":  # Pillow turns these itself
                turned, orientation = orientation, 1
                remarks += [f"turned by its orientation tag ({turned})"] if turned > 1 else []
    if inverted:
        array, remarks = _exchanged(array), [*remarks, "MinIsWhite, exchanged"]
    return _shown(path, array, orientation, remarks)


def _said_by(image: Image) -> tuple[int, bool]:
    """Return the orientation of an opened image, and whether its values are to be exchanged."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # ty: ignore[missing-attribute]
        # Pillow exchanges the values of 8 bits itself
        return int(tags.get(ORIENTATION, 1)), tags.get(262) == 0 and image.mode.startswith("I;16")
    return int(image.getexif().get(ORIENTATION, 1)), False


def _exif_orientation(path: Path) -> int:
    from PIL import Image

    with reading(path, EXPECTED, REMEDY), Image.open(path, formats=FORMATS) as image:
        return _said_by(image)[0]


def _decoded(image: Image) -> tuple[np.ndarray, list[str]]:
    """Return the values (H, W) or (H, W, 3) of an opened image, and what they are."""
    if image.mode in GREY_MODES:
        bits = {"L": "8 bit", "F": "32 bit, floating point", "I": "32 bit"}.get(image.mode)
        return np.asarray(image), [bits or "16 bit"]
    kind = "8 bit, several channels"
    if image.mode in ("RGBA", "LA", "PA"):
        kind += ", without its alpha channel"
    return np.asarray(image.convert("RGB")), [kind]


# ------------------------------------------------------------------------------ where Pillow is not


def _png_depth(path: Path) -> tuple[int, bool] | None:
    """Return bits per channel of a PNG, and whether it has several channels; None if no PNG."""
    with open(path, "rb") as stream:
        start = stream.read(26)
    if start[:8] != b"\x89PNG\r\n\x1a\n" or len(start) < 26:
        return None
    return start[24], start[25] in (2, 4, 6)


def _colour_png(path: Path) -> np.ndarray:
    """Return a PNG (H, W, C) of 16 bits per channel, which Pillow would cut to 8, without alpha."""
    import av

    with reading(path, EXPECTED, REMEDY), av.open(str(path), format="png_pipe") as opened:
        stream = opened.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            raise _too_large(path, stream.width, stream.height)
        frame = next(opened.decode(video=0))
        if frame.format.name == "ya16be":  # its conversion is not exact
            plane = frame.planes[0]
            rows = np.frombuffer(bytes(plane), ">u2").reshape(frame.height, plane.line_size // 2)
            return rows[:, : 2 * frame.width : 2, None].astype(np.uint16)
        return frame.to_ndarray()[..., :3].astype(np.uint16)


def _is_tiff(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _exact_tiff(path: Path, frame: int | None) -> Picture | None:
    """Return a TIFF by tifffile, at its own depth; None where Pillow reads it as well.

    Raises InputError if the values would be cut or wrap around, and tifffile cannot decode them.
    """
    import tifffile

    with reading(path, EXPECTED, REMEDY), tifffile.TiffFile(path) as opened:
        check_frame(path, frame, len(opened.pages))
        page = opened.pages[frame or 0].aspage()
        kind, bits, samples = page.sampleformat, page.bitspersample, page.samplesperpixel
        height, width = page.imagelength, page.imagewidth
        exact = bits <= 8 or (samples == 1 and (bits == 16 or (bits, kind) == (32, 3)))
        if exact and page.compression not in PLAIN_TIFF:
            return None
        if width * height > MAX_PIXELS:
            raise _too_large(path, width, height)
        if page.compression not in PLAIN_TIFF or page.dtype is None:
            raise InputError(
                path,
                f"has {samples} channel(s) of {bits} bits, compressed",
                "8 or 16 bit grey, or no compression",
                "save it as 16-bit grey, or without compression",
            )
        if page.photometric not in (0, 1, 2):  # a colour table, or luminance and colour
            return None
        held = height * width * samples * max(1, bits // 8)
        files.check_claim(path, held, page.compression != 1, "a TIFF")
        array = page.asarray()
        if not array.size:
            raise InputError(path, "has no pixels", EXPECTED, REMEDY)
        orientation = int(page.tags[ORIENTATION].value) if ORIENTATION in page.tags else 1
        inverted = page.photometric == 0
    if page.planarconfig == 2 and samples > 1:
        array = np.moveaxis(array, 0, -1)
    remarks = [f"{bits} bit" + (", floating point" if kind == 3 else "")]
    if inverted:
        array = _exchanged(array)
        remarks.append("MinIsWhite, exchanged")
    if array.ndim == 3:
        remarks[0] += ", several channels"
        array = array[..., : 1 if samples <= 2 else 3]
    return _shown(path, array, orientation, remarks)


def _too_large(path: Path, width: int, height: int) -> InputError:
    return InputError(
        path,
        f"header claims {width} x {height} pixels",
        f"at most {MAX_PIXELS:.0e}",
        "export it again, the header is damaged",
    )


# ----------------------------------------------------------------------------------------- as shown


def _exchanged(array: np.ndarray) -> np.ndarray:
    """Return values with black and white exchanged, on their own range."""
    if array.dtype.kind == "u":
        return np.iinfo(array.dtype).max - array
    return array.max() + array.min() - array


def _shown(path: Path, array: np.ndarray, orientation: int, remarks: list[str]) -> Picture:
    """Return the picture of an array (H, W) or (H, W, C). Raises InputError if it has colours."""
    if array.ndim == 3:
        array = as_grey(path, array)
    warned = []
    if orientation in TURNS:
        rows, columns, transposed = TURNS[orientation]
        array = np.swapaxes(array, 0, 1) if transposed else array
        array = array[::rows, ::columns] if not transposed else array[::columns, ::rows]
        remarks = [*remarks, f"turned by its EXIF orientation ({orientation})"]
    if any("orientation" in remark for remark in remarks):
        warned.append(
            "turned as its orientation tag says, as viewers show it; poses and principal point are"
            " those of the turned picture; save it without the tag to keep it as it lies"
        )
    return Picture(np.ascontiguousarray(array, np.float32), tuple(remarks), tuple(warned))


def as_grey(path: Path, channels: np.ndarray) -> np.ndarray:
    """Return the grey values (H, W) of channels (H, W, C) that are alike.

    Raises InputError if they differ.
    """
    if channels.shape[2] == 1:
        return channels[..., 0]
    wide = channels.astype(np.float32)
    spread = float(np.ptp(wide, axis=2).max())
    full = np.iinfo(channels.dtype).max if channels.dtype.kind == "u" else float(wide.max())
    if spread > COLOUR_SHARE * full:
        raise InputError(
            path,
            f"is a colour image (channels differ by up to {spread:g})",
            "grey values",
            "export the X-ray without colours or annotations",
        )
    return wide.mean(axis=2)
