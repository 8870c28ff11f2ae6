from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image as pillow  # noqa: N813  # Image is the manifest's

from server.errors import Problem
from server.model.manifest import Image, Input
from server.model.pixels import PixelReader
from tests.app.harness import APP

RED, BLUE = (255, 0, 0), (0, 0, 255)


def reader(shape: list[int], datatype: Any = "UINT8", **image: Any) -> PixelReader:
    return PixelReader(Input(name="x", datatype=datatype, shape=[-1, *shape], image=Image(**image)), shape)


def picture(size: tuple[int, int] = (4, 2), mode: str = "RGB") -> pillow.Image:
    """Red on the left and blue on the right."""
    image = pillow.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def saved(image: pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG whose header promises what may not follow."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def refused(raw: bytes, **options: Any) -> str:
    with pytest.raises(Problem) as error:
        reader([3, 2, 4], **options).read(raw, 7)
    assert (error.value.status, error.value.code, error.value.row) == (422, "bad_image", 7)
    return error.value.message


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_each_format_is_read(kind: str) -> None:
    # 16 pixels wide: JPEG keeps colours by blocks of that size
    row = reader([32, 16, 3], layout="HWC").read(
        saved(picture((16, 32)).resize((32, 32), 0).crop((0, 0, 16, 32)), kind)
    )
    assert row.dtype == np.uint8
    assert np.abs(row.astype(int) - RED).max() < 5


def test_the_layouts() -> None:
    rows_first = reader([2, 4, 3], layout="HWC").read(saved(picture()))
    assert rows_first[:, 0].tolist() == [list(RED)] * 2
    assert rows_first[:, 3].tolist() == [list(BLUE)] * 2
    channels_first = reader([3, 2, 4]).read(saved(picture()))
    assert channels_first.flags.c_contiguous
    assert np.array_equal(channels_first, rows_first.transpose(2, 0, 1))


def test_grey() -> None:
    grey = np.asarray(picture(mode="L"))
    assert np.array_equal(reader([1, 2, 4], mode="L").read(saved(picture()))[0], grey)
    assert np.array_equal(reader([2, 4, 1], mode="L", layout="HWC").read(saved(picture()))[..., 0], grey)
    assert np.array_equal(reader([3, 2, 4]).read(saved(picture(mode="L"))), [grey] * 3)


def test_pixels_are_scaled_and_normalised_by_channel() -> None:
    image = {"scale": 1 / 255, "mean": [0.5, 0.25, 0], "std": [0.5, 1, 2]}
    row = reader([3, 2, 4], "FP32", **image).read(saved(picture()))
    assert row.dtype == np.float32
    np.testing.assert_allclose(row[:, 0, 0], [(1 - 0.5) / 0.5, -0.25, 0], rtol=1e-6)
    np.testing.assert_allclose(row[:, 0, 3], [-1, -0.25, 0.5], rtol=1e-6)
    same = reader([2, 4, 3], "FP32", layout="HWC", **image).read(saved(picture()))
    assert np.array_equal(same.transpose(2, 0, 1), row)
    plain = reader([3, 2, 4], "FP32", scale=1.0).read(saved(picture()))
    assert plain.max() == 255


def test_it_is_resized_as_pillow_does() -> None:
    noise = pillow.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8))
    expected = np.asarray(noise.resize((5, 7), pillow.Resampling.BILINEAR))
    assert np.array_equal(reader([7, 5, 3], layout="HWC").read(saved(noise)), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L", "CMYK"])
def test_every_mode_is_converted(mode: str) -> None:
    image = picture((32, 16), mode)
    row = reader([16, 32, 3], layout="HWC").read(saved(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert np.abs(row.astype(int) - np.asarray(image.convert("RGB"))).max() < 9


def test_transparency_is_dropped() -> None:
    image = picture(mode="RGBA")
    image.putalpha(0)
    assert np.array_equal(reader([2, 4, 3], layout="HWC").read(saved(image)), np.asarray(picture()))


def test_sixteen_bits_a_pixel_become_eight() -> None:
    deep = np.arange(8, dtype=np.uint16).reshape(2, 4) * 8192 + 255
    row = reader([1, 2, 4], mode="L").read(saved(pillow.fromarray(deep)))
    assert np.array_equal(row[0], deep >> 8)


def test_it_is_turned_as_its_camera_was_held() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: what was left is up
    for kind in ("JPEG", "PNG", "WEBP"):
        raw = saved(picture((64, 32)), kind, exif=exif, quality=95)
        row = reader([64, 32, 3], layout="HWC").read(raw).astype(int)
        assert np.abs(row[:24] - RED).max() < 20
        assert np.abs(row[40:] - BLUE).max() < 20


def test_too_little_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pillow, "open", fail)
    with pytest.raises(MemoryError):
        reader([1, 1, 1]).read(b"")


def test_of_an_animation_the_first_picture_counts() -> None:
    first, second = picture(), pillow.new("RGB", (4, 2), (0, 255, 0))
    for kind in ("PNG", "WEBP"):
        raw = saved(first, kind, save_all=True, append_images=[second], lossless=True)
        assert np.array_equal(reader([2, 4, 3], layout="HWC").read(raw), np.asarray(first))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    noise = pillow.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    raw = saved(noise, kind)
    for length in (8, 12, 30, 100, len(raw) // 2):
        assert refused(raw[:length])


def test_a_bomb_is_refused_by_its_header() -> None:
    assert "30000 x 30000 pixels" in refused(png(9000, 3000)).replace("9000 x 3000", "30000 x 30000")
    assert refused(png(60_000, 60_000))
    assert refused(png(2**31 - 1, 2**31 - 1))
    size = struct.pack("<I", 16382 | 16382 << 14)
    assert refused(b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8L" + struct.pack("<I", 18) + b"\x2f" + size + bytes(13))


def test_the_largest_picture_is_read() -> None:
    packer = zlib.compressobj(1)
    content = b"".join(packer.compress(bytes(1 + 3 * 5000)) for _ in range(5000)) + packer.flush()
    assert not reader([3, 2, 4]).read(png(5000, 5000, content)).any()


def test_damaged_files_are_refused_or_read_but_nothing_else() -> None:
    random = np.random.default_rng(6)
    noise = pillow.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
    exif = pillow.Exif()
    exif[0x0112] = 6
    read = reader([3, 2, 4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in ("PNG", "JPEG", "WEBP"):
            raw = saved(noise, kind, exif=exif)
            for _ in range(300):
                damaged = bytearray(raw)
                for place in random.integers(0, len(raw), random.integers(1, 5)):
                    damaged[place] = random.integers(0, 256)
                try:
                    assert read.read(bytes(damaged)).shape == (3, 2, 4)
                except Problem as found:
                    assert found.code == "bad_image"  # noqa: PT017  # it need not be raised


def test_pillow_is_not_loaded_before_it_is_needed() -> None:
    program = (
        "import sys, server.model.pixels; assert 'PIL' not in sys.modules\n"
        "from server.model.manifest import Image, Input\n"
        "picture = Input(name='x', datatype='UINT8', shape=[-1, 3, 2, 2], image=Image())\n"
        "server.model.pixels.PixelReader(picture, [3, 2, 2])\n"
        "from PIL import Image; assert sorted(set(Image.OPEN)) == ['JPEG', 'PNG', 'WEBP'], Image.OPEN"
    )
    subprocess.run([sys.executable, "-B", "-c", program], cwd=APP, check=True, timeout=30)
