"""Pictures as a viewer shows them, at their full depth, whatever the format."""

import io
import struct
import zlib

import av
import numpy as np
import pytest
import tifffile
from PIL import Image
from test_xrays import FLAGS, agreement, bright, counts, save, thickness

from common.errors import InputError, going_on
from common.xray import image_files, reading

SHOWN = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30) % 251
# as stored, so that a viewer that obeys the orientation shows `SHOWN`
STORED = {
    1: SHOWN,
    2: SHOWN[:, ::-1],
    3: SHOWN[::-1, ::-1],
    4: SHOWN[::-1],
    5: SHOWN.T,
    6: np.rot90(SHOWN),
    7: SHOWN[::-1, ::-1].T,
    8: np.rot90(SHOWN, -1),
}


def png(path, channels, kind, bits=16):
    """A PNG of 16 bits per channel, which Pillow cannot write."""
    rows = np.stack(channels, -1).astype(">u2")

    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, kind, 0, 0, 0)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def oriented(path, stored, orientation, **settings):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif.tobytes(), **settings)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "lzw.tif", "plain.tif"])
def test_a_picture_is_turned_by_its_orientation_tag_in_every_format(tmp_path, ending, orientation):
    path = tmp_path / f"x.{ending}"
    if ending == "plain.tif":
        extra = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, np.ascontiguousarray(STORED[orientation]), extratags=extra)
    else:
        settings = {"compression": "tiff_lzw"} if ending == "lzw.tif" else {}
        oriented(path, STORED[orientation], orientation, **settings)
    picture = image_files.read(path)
    np.testing.assert_array_equal(picture.grey, SHOWN)
    assert bool(picture.warnings) == (orientation != 1)
    assert any("orientation" in remark for remark in picture.remarks) == (orientation != 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_by_its_orientation_tag_too(tmp_path, orientation):
    smooth = np.add.outer(np.arange(64) * 2, np.arange(96)).astype(np.uint8)
    stored = {
        1: smooth, 2: smooth[:, ::-1], 3: smooth[::-1, ::-1], 4: smooth[::-1], 5: smooth.T,
        6: np.rot90(smooth), 7: smooth[::-1, ::-1].T, 8: np.rot90(smooth, -1),
    }[orientation]  # fmt: skip
    path = oriented(tmp_path / "x.jpg", stored, orientation, quality=100)
    np.testing.assert_allclose(image_files.read(path).grey, smooth, atol=3)


def test_the_user_is_told_of_a_turned_picture(tmp_path, caplog):
    reading.read(oriented(tmp_path / "x.png", bright(8)[:, ::-1], 2), FLAGS)
    assert "turned as its orientation tag says" in caplog.text


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_colour_and_alpha_pngs_of_16_bits_keep_their_16_bits(tmp_path, kind, channels):
    grey = (bright().astype(np.uint32) >> 4).astype(np.uint16)  # 12 bits, as of a detector
    alpha = np.full_like(grey, 65535)
    planes = {3: [grey] * 3, 4: [grey] * 3 + [alpha], 2: [grey, alpha]}[channels]
    picture = image_files.read(png(tmp_path / "x.png", planes, kind))
    np.testing.assert_array_equal(picture.grey, grey)
    assert "16 bit" in picture.remarks[0]


def test_a_colour_png_of_16_bits_is_refused_if_its_channels_differ(tmp_path):
    planes = [bright(), bright() // 2, bright()]
    with pytest.raises(InputError, match="is a colour image"):
        image_files.read(png(tmp_path / "x.png", planes, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_keeps_its_values_at_every_depth(tmp_path, dtype, compression):
    values = bright().astype(np.float64)
    top = {"uint8": 255, "uint16": 65535, "uint32": 2**32 - 1}.get(np.dtype(dtype).name, 1.0)
    array = (values / 65535 * top).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", array, compression=compression)
    np.testing.assert_array_equal(image_files.read(tmp_path / "x.tif").grey, np.float32(array))


def test_a_colour_tiff_of_16_bits_that_is_grey_keeps_them(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.stack([bright()] * 3, -1), photometric="rgb")
    np.testing.assert_array_equal(image_files.read(tmp_path / "x.tif").grey, bright())


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_min_is_white_is_exchanged_at_8_and_at_16_bits(tmp_path, bits, compression):
    array = bright(bits)
    full = array.dtype.type(2**bits - 1)
    tifffile.imwrite(
        tmp_path / "x.tif", full - array, photometric="miniswhite", compression=compression
    )
    picture = image_files.read(tmp_path / "x.tif")
    np.testing.assert_array_equal(picture.grey, array)
    assert "MinIsWhite, exchanged" in picture.remarks


def test_pages_of_a_tiff_are_frames(tmp_path):
    pages = np.stack([bright(), counts(), bright()[::-1]])
    tifffile.imwrite(tmp_path / "run.tif", pages, photometric="minisblack")
    assert image_files.count_frames(tmp_path / "run.tif") == 3
    for number, page in enumerate(pages):
        np.testing.assert_array_equal(image_files.read(tmp_path / "run.tif", number).grey, page)
    with pytest.raises(InputError, match="has no frame 3"):
        image_files.read(tmp_path / "run.tif", 3)
    with pytest.raises(InputError, match="has 3 frames"):
        image_files.read(tmp_path / "run.tif")


@pytest.mark.parametrize("ending", ["bmp", "jp2"])
def test_bmp_and_jpeg_2000_are_read(tmp_path, ending):
    grey = bright(8)[:96, :112]
    save(tmp_path / f"x.{ending}", grey, **({"irreversible": False} if ending == "jp2" else {}))
    np.testing.assert_array_equal(image_files.read(tmp_path / f"x.{ending}").grey, grey)


def test_jpeg_2000_keeps_16_bits(tmp_path):
    save(tmp_path / "x.jp2", bright(), irreversible=False)
    np.testing.assert_array_equal(image_files.read(tmp_path / "x.jp2").grey, bright())


# ------------------------------------------------------------------------------------------ videos


def video(path, frames, codec, pixel_format, given="gray", **options):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        for array in frames:
            frame = av.VideoFrame.from_ndarray(array, format=given)
            for packet in stream.encode(frame.reformat(format=pixel_format)):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


RUN = [bright(8), bright(8)[::-1].copy(), bright(8)[:, ::-1].copy()]


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "least"),
    [
        ("run.avi", "ffv1", "gray", 1),
        ("run.avi", "rawvideo", "gray", 1),
        ("run.mkv", "ffv1", "gray", 1),
        ("run.mp4", "mpeg4", "yuv420p", 0.995),
    ],
)
def test_frames_of_a_video_are_read_in_any_order(tmp_path, name, codec, pixel_format, least):
    path = video(tmp_path / name, RUN, codec, pixel_format)
    assert image_files.count_frames(path) == 3
    for number in (0, 2, 1, 2):
        grey = image_files.read(path, number).grey
        assert agreement(grey, RUN[number].astype(float)) >= least - 1e-9
        assert abs(grey.mean() - RUN[number].mean()) <= 300 * (1 - least) + 1e-3
    with pytest.raises(InputError, match="has no frame 3"):
        image_files.read(path, 3)


@pytest.mark.parametrize("bits", [10, 12])
def test_a_video_keeps_more_than_8_bits(tmp_path, bits):
    deep = [(frame.astype(np.uint16) << (bits - 8)) | 1 for frame in RUN]
    path = video(tmp_path / "run.mkv", deep, "ffv1", f"gray{bits}le", f"gray{bits}le")
    picture = image_files.read(path, 0)
    assert len(np.unique(picture.grey)) == len(np.unique(deep[0]))
    assert agreement(picture.grey, deep[0].astype(float)) > 0.99999
    assert f"{bits} bit" in picture.remarks[0]


def test_a_colour_video_and_a_damaged_one_are_refused(tmp_path):
    colours = [np.stack([frame, frame // 2, frame], -1) for frame in RUN]
    path = video(tmp_path / "c.avi", colours, "ffv1", "bgr0", "rgb24")
    with pytest.raises(InputError, match="is a colour video"):
        image_files.read(path, 0)
    torn = tmp_path / "torn.avi"
    torn.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"torn\.avi"):
        image_files.read(torn, 0)


def test_a_run_is_read_as_xrays(tmp_path):
    path = video(tmp_path / "run.avi", RUN, "ffv1", "gray")
    xray = reading.read(path, FLAGS, frame=1)
    assert xray.frame == 1
    assert agreement(xray.image, thickness()[::-1]) > 0.998


def test_a_jpeg_of_12_bits_is_refused_in_one_line(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(bright(8)).save(buffer, "JPEG")
    raw = bytearray(buffer.getvalue())
    start = raw.index(b"\xff\xc0")  # baseline of 8 bits becomes extended of 12
    raw[start + 1], raw[start + 4] = 0xC1, 12
    (tmp_path / "x.jpg").write_bytes(raw)
    with pytest.raises(InputError, match=r"x\.jpg: "):
        image_files.read(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["run.avi", "run.mp4"])
def test_a_video_that_was_cut_anywhere_is_read_or_refused(tmp_path, name):
    codec = ("ffv1", "gray") if name == "run.avi" else ("mpeg4", "yuv420p")
    whole = video(tmp_path / name, RUN, *codec).read_bytes()
    said = set()
    for part in np.linspace(0.02, 0.98, 40):
        path = tmp_path / f"{part:.3f}{name}"
        path.write_bytes(whole[: int(part * len(whole))])
        problems: list[InputError] = []
        with going_on(problems):
            frames = image_files.count_frames(path)
            image_files.read(path, 0 if frames > 1 else None)
        said |= {each.found[:13] for each in problems}
    assert said
    assert said <= {"has no frames", "cannot be rea", "has no pictur", "not an image "}


def test_a_video_without_a_frame_is_refused(tmp_path):
    with av.open(str(tmp_path / "run.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        container.start_encoding()
    with pytest.raises(InputError, match="has no frames"):
        image_files.read(tmp_path / "run.avi")
