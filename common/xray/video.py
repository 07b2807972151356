"""Frames of a video (AVI, MP4, MOV, MKV) as grey values, with all bits of its luminance."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InputError, reading

EXPECTED = "a video (AVI, MP4, MOV or MKV)"
REMEDY = "export the run again, as multi-page TIFF or DICOM if it can be"
COLOUR_LEVELS = 24  # of 255: a video codec tints grey more than JPEG does


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its first bytes."""
    with open(path, "rb") as stream:
        start = stream.read(12)
    riff = start[:4] == b"RIFF" and start[8:] == b"AVI "
    return (
        riff or (start[4:8] == b"ftyp" and start[8:11] != b"jp2") or start[:4] == b"\x1aE\xdf\xa3"
    )


def count_frames(path: Path) -> int:
    """Return the number of frames, from the packets: headers of cut videos are wrong.

    Raises InputError if the file cannot be read.
    """
    return len(_times(path))


def _times(path: Path) -> list[int]:
    """Return the time stamp of each frame, in order, read once for all frames of a run."""
    about = path.stat()
    return _times_of(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=2)  # two cameras
def _times_of(path: Path, mtime_ns: int, size: int) -> list[int]:
    import av

    with reading(path, EXPECTED, REMEDY), av.open(str(path)) as container:
        if not container.streams.video:
            raise InputError(path, "has no pictures", EXPECTED, "choose another file")
        packets = container.demux(video=0)
        stamps = [p.pts if p.pts is not None else p.dts for p in packets if p.size]
        times = sorted(time for time in stamps if time is not None)
        if not times:
            raise InputError(path, "has no frames", EXPECTED, REMEDY)
        return times


def read_frame(path: Path, frame: int) -> tuple[np.ndarray, str]:
    """Return the grey values (H, W) float32 of a frame, and what they are.

    Raises InputError if it cannot be decoded, or has colours.
    """
    import av

    time = _times(path)[frame]
    with reading(path, EXPECTED, REMEDY), av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(time, stream=stream)  # to the whole frame before it
        decoded = next(f for f in container.decode(stream) if f.pts is None or f.pts >= time)
        depth = max(component.bits for component in decoded.format.components)
        if decoded.format.is_rgb:
            _check_grey(path, decoded)
        name = "gray16le" if depth > 8 else "gray"
        grey = decoded.reformat(format=name, dst_color_range=2).to_ndarray()
    return grey.astype(np.float32), f"video, frame {frame}, {depth} bit"


def _check_grey(path: Path, decoded: Any) -> None:
    channels = decoded.to_ndarray(format="rgb24").astype(np.int16)
    spread = int(np.ptp(channels, axis=2).max())
    if spread > COLOUR_LEVELS:
        raise InputError(
            path,
            f"is a colour video (channels differ by up to {spread})",
            "grey values",
            "export the run without colours or annotations",
        )
