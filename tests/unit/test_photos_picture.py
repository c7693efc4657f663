"""What becomes of an uploaded file before anybody looks at it."""

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from services.worker.handlers.picture import SIDE, Picture, read_picture
from shared.updates import Fatal

RED, BLUE, WHITE = (220, 20, 30), (20, 40, 210), (255, 255, 255)


def striped(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    ImageDraw.Draw(image).rectangle((width // 2, 0, width, height), fill=BLUE)
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Picture]:
    def _read(data: bytes) -> Picture:
        path = tmp_path / "upload"
        path.write_bytes(data)
        return read_picture(path)

    return _read


Read = Callable[[bytes], Picture]


def close(pixel: Any, expected: tuple[int, int, int]) -> bool:
    return all(abs(has - want) <= 12 for has, want in zip(pixel, expected, strict=True))


def assert_striped(picture: Picture) -> None:
    assert picture.image.mode == "RGB"
    width, height = picture.image.size
    assert close(picture.image.getpixel((width // 8, height // 2)), RED)
    assert close(picture.image.getpixel((width - 1 - width // 8, height // 2)), BLUE)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded(striped(), "JPEG", quality=95), "JPEG"),
        (encoded(striped(), "JPEG", quality=95, progressive=True), "JPEG"),
        (encoded(striped(), "MPO", quality=95, save_all=True, append_images=[striped()]), "JPEG"),
        (encoded(striped(), "PNG"), "PNG"),
        (encoded(striped(mode="RGBA"), "PNG"), "PNG"),
        (encoded(striped().quantize(8), "PNG"), "PNG"),
        (encoded(striped(), "WEBP", lossless=True), "WebP"),
        (encoded(striped(mode="RGBA"), "WEBP", lossless=True), "WebP"),
        (encoded(striped(), "WEBP", quality=95), "WebP"),
    ],
    ids=["jpeg", "progressive", "two-pictures", "png", "rgba", "palette", "lossless", "webp-alpha", "lossy"],
)
def test_reads_photos(read: Read, data: bytes, name: str) -> None:
    picture = read(data)
    assert (picture.format, picture.width, picture.height, picture.bytes) == (name, 60, 40, len(data))
    assert_striped(picture)


def test_cmyk_becomes_the_colours_that_it_means(read: Read) -> None:
    assert_striped(read(encoded(striped(mode="CMYK"), "JPEG", quality=95)))


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_stays_grey(read: Read, mode: str) -> None:
    grey = Image.new("L", (30, 20), 255)
    picture = read(encoded(grey.convert(mode), "PNG"))
    assert picture.image.getpixel((5, 5)) == WHITE


def test_sixteen_bits_of_grey_are_scaled_not_clipped(read: Read) -> None:
    image = Image.new("I;16", (4, 4))
    image.putdata([40_000] * 16)
    assert read(encoded(image, "PNG")).image.getpixel((2, 2)) == (156, 156, 156)


def test_sixteen_bits_of_colour(read: Read) -> None:
    row = b"\0" + struct.pack(">3H", 0xFF00, 0x8000, 0) * 2
    assert close(read(png(2, 2, row * 2, depth=16)).image.getpixel((0, 0)), (255, 128, 0))


def test_what_is_transparent_lies_on_white_paper(read: Read) -> None:
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    assert read(encoded(clear, "PNG")).image.getpixel((5, 5)) == WHITE
    keyed = Image.new("RGB", (10, 10), RED)
    assert read(encoded(keyed, "PNG", transparency=RED)).image.getpixel((5, 5)) == WHITE


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(read: Read, kind: str) -> None:
    later = [Image.new("RGB", (60, 40), WHITE)] * 2
    assert_striped(read(encoded(striped(), kind, save_all=True, append_images=later, lossless=True)))


def lain(orientation: int) -> Image.Image:
    """The striped picture as a camera stores it that was held so that viewers have to apply `orientation`."""
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    return striped() if inverse is None else striped().transpose(inverse)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(read: Read, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read(encoded(lain(orientation), kind, exif=exif, quality=95))
    assert (picture.width, picture.height) == (60, 40)
    assert picture.image.size == (60, 40)
    assert_striped(picture)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, that the notes are damaged
def test_damaged_notes_do_no_harm(read: Read, exif: bytes) -> None:
    assert_striped(read(encoded(striped(), "JPEG", quality=95, exif=exif)))


def test_an_unknown_orientation_is_none(read: Read) -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert_striped(read(encoded(striped(), "JPEG", quality=95, exif=exif)))


def test_large_photos_are_made_small_but_their_size_is_told(read: Read) -> None:
    picture = read(encoded(striped(4000, 3000), "JPEG"))
    assert (picture.width, picture.height) == (4000, 3000)
    assert max(picture.image.size) == SIDE
    assert_striped(picture)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_thinnest_photos(read: Read, kind: str, size: tuple[int, int]) -> None:
    picture = read(encoded(Image.new("RGB", size, RED), kind))
    assert (picture.width, picture.height) == size
    assert min(picture.image.size) == 1
    assert close(picture.image.getpixel((0, 0)), RED)


def refused(read: Read, data: bytes) -> Fatal:
    with pytest.raises(Fatal) as caught:
        read(data)
    return caught.value


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (encoded(striped(), "GIF"), "image/gif"),
        (encoded(striped(), "TIFF"), "image/tiff"),
        (encoded(striped(), "PDF"), "application/pdf"),
        (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", "image/heic"),
        (encoded(striped(), "BMP"), "of no kind that we know"),
        (b"this is no photo", "of no kind that we know"),
        (b"", "of no kind that we know"),
    ],
    ids=["gif", "tiff", "pdf", "heic", "bmp", "text", "empty"],
)
def test_other_files_are_refused_whatever_their_name(read: Read, data: bytes, named: str) -> None:
    error = refused(read, data)
    assert error.code == "unsupported_image"
    assert named in error.message


def png(width: int, height: int, rows: bytes, depth: int = 8) -> bytes:
    """A PNG in colour whose header says what we like."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    data = encoded(striped(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def webp_claiming(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = encoded(striped(), "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(60_000, 60_000, b""), "60000 by 60000"),
        (png(10_000, 5_001, b""), "10000 by 5001"),
        (jpeg_claiming(60_000, 60_000), "60000 by 60000"),
        (jpeg_claiming(10_000, 5_001), "10000 by 5001"),
        (webp_claiming(16_384, 16_384), "its number"),
        (encoded(Image.new("RGB", (8_000, 6_300)), "WEBP", lossless=True, method=0, quality=0), "8000 by 6300"),
    ],
    ids=["png", "png-just", "jpeg", "jpeg-just", "webp", "webp-just"],
)
def test_bombs_are_refused_before_they_go_off(read: Read, data: bytes, size: str) -> None:
    assert len(data) < 2_000
    error = refused(read, data)  # decoded, most would be broken: they do not hold so many pixels
    assert error.code == "image_too_large"
    assert size in error.message
    assert "50 megapixels" in error.message


def test_fifty_megapixels_are_not_too_many(read: Read) -> None:
    picture = read(encoded(Image.new("L", (10_000, 5_000), 128), "JPEG"))
    assert (picture.width, picture.height) == (10_000, 5_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_files_cut_short_are_refused(read: Read, kind: str, share: float) -> None:
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    data = encoded(noise, kind)
    assert refused(read, data[: int(len(data) * share)]).code == "broken_image"


def test_only_a_head_is_broken(read: Read) -> None:
    for head in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP", b"RIFF\x10\0\0\0WEBPVP8X"):
        assert refused(read, head).code == "broken_image"


def test_a_vanished_upload(tmp_path: Path) -> None:
    with pytest.raises(Fatal) as caught:
        read_picture(tmp_path / "gone")
    assert caught.value.code == "upload_missing"
    assert str(tmp_path) not in caught.value.message


SAMPLES = [
    encoded(striped(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    encoded(striped(), "PNG"),
    encoded(striped().quantize(8), "PNG"),
    encoded(striped(), "WEBP"),
    encoded(striped(), "WEBP", save_all=True, append_images=[Image.new("RGB", (60, 40), WHITE)]),
]


@given(sample=st.sampled_from(SAMPLES), data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, that something is damaged
def test_damage_yields_a_picture_or_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, sample: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(sample)
    for at, value in damage(data, len(sample)):
        damaged[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    try:
        outcome = read_picture(path).image.mode
    except Fatal as error:
        outcome = error.code
    assert outcome in {"RGB", "broken_image", "unsupported_image", "image_too_large"}


def damage(data: st.DataObject, size: int) -> Iterator[tuple[int, int]]:
    spots = st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, 255)), min_size=1, max_size=8)
    yield from data.draw(spots)
