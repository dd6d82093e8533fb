"""Pictures are read one way, whoever reads them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, features

from penchant.data.sources.images import FORMATS, open_picture, small_jpeg, undecodable


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_kept_can_be_read(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow knows no AVIF")
    picture = encoded(Image.new("RGB", (30, 20), "blue"), kind)
    assert not undecodable(picture)
    opened = open_picture(picture)
    assert opened is not None
    assert opened.size == (30, 20)
    assert small_jpeg(picture, (10, 10))


def test_grey_of_sixteen_bits_is_no_white() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    picture = open_picture(encoded(Image.fromarray(ramp)))
    assert picture is not None
    np.testing.assert_allclose(np.asarray(picture)[..., 0], ramp >> 8)


def test_no_other_program_is_asked_to_read_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: asked.append(given))
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    assert Image.open(io.BytesIO(page)).format == "EPS"
    assert open_picture(page) is None
    assert not asked


def test_transparency_is_white_and_pictures_stand_upright() -> None:
    clear = open_picture(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0))))
    assert clear is not None
    assert clear.mode == "RGB"
    assert clear.getpixel((1, 1)) == (255, 255, 255)
    lying = Image.new("RGB", (30, 10), "blue")
    exif = lying.getexif()
    exif[0x0112] = 6  # a quarter turn
    upright = open_picture(encoded(lying, "JPEG", exif=exif))
    assert upright is not None
    assert upright.size == (10, 30)
    for mode in ("1", "L", "P", "CMYK", "I;16", "LA"):
        kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
        picture = open_picture(encoded(Image.new(mode, (5, 6)), kind))
        assert picture is not None
        assert (picture.mode, picture.size) == ("RGB", (5, 6))


def test_a_picture_of_too_many_pixels_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("RGB", (101, 100)))
    monkeypatch.setattr("penchant.data.sources.images.MAX_PIXELS", 100 * 100)
    assert open_picture(data) is small_jpeg(data, (9, 9)) is None
    assert open_picture(encoded(Image.new("RGB", (100, 100)))) is not None
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the picture was unpacked"))
    assert open_picture(data) is None


@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP"]))
@settings(deadline=None, max_examples=60)
def test_no_bytes_raise(data: st.DataObject, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    whole = bytearray(encoded(Image.fromarray(noise), kind))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    picture = open_picture(damaged)
    assert picture is None or picture.mode == "RGB"
    assert open_picture(data.draw(st.binary(max_size=40))) is None


@pytest.mark.parametrize(("mode", "size"), [("RGB", (600, 300)), ("RGBA", (40, 900)), ("P", (97, 10)), ("L", (1, 1))])
def test_a_small_picture_is_a_jpeg_within_its_bounds(mode: str, size: tuple[int, int]) -> None:
    small = small_jpeg(encoded(Image.new(mode, size)), (96, 144))
    assert small is not None
    picture = Image.open(io.BytesIO(small))
    assert picture.format == "JPEG"
    assert picture.width <= 96
    assert picture.height <= 144


@pytest.mark.parametrize("broken", [b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(20), b"\xff\xd8\xff"])
def test_a_broken_picture_gives_none(broken: bytes) -> None:
    assert small_jpeg(broken, (96, 144)) is None


def test_a_small_picture_is_upright_and_white_where_it_was_clear() -> None:
    lying = Image.new("RGB", (3000, 1000), "blue")
    exif = lying.getexif()
    exif[0x0112] = 6  # a quarter turn
    small = small_jpeg(encoded(lying, "JPEG", exif=exif), (96, 144))
    assert small is not None
    assert Image.open(io.BytesIO(small)).size == (48, 144)
    clear = small_jpeg(encoded(Image.new("RGBA", (9, 9), (255, 0, 0, 0))), (96, 144))
    assert clear is not None
    assert Image.open(io.BytesIO(clear)).getpixel((4, 4)) == (255, 255, 255)
