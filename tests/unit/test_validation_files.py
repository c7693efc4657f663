"""What is believed of an uploaded file, and what is not."""

import pytest

from services.api.reception import LONGEST_NAME, clean_name
from shared.media import HEAD, media_type

NAMES = [
    ("salon-1.jpg", "salon-1.jpg"),
    ("../../etc/passwd", "passwd"),
    ("C:\\photos\\Salon 1.JPG", "Salon 1.JPG"),
    ("/", "file"),
    ("", "file"),
    ("..", "file"),
    (".hidden", ".hidden"),
    ("a\0b\r\n\x1b[31m.png", "ab[31m.png"),
    ("\u202egnp.exe", "gnp.exe"),
    ("küche 😀.webp", "küche 😀.webp"),
    ("x" * 300 + ".jpeg", "x" * (LONGEST_NAME - 5) + ".jpeg"),
    ("x." + "y" * 300, "x." + "y" * (LONGEST_NAME - 2)),
    ("z" * 300, "z" * LONGEST_NAME),
]


@pytest.mark.parametrize(("given", "kept"), NAMES, ids=range(len(NAMES)))
def test_a_name_is_a_base_name_that_can_be_shown(given: str, kept: str) -> None:
    assert clean_name(given) == kept


FILES = [
    (b"\xff\xd8\xff\xe0\x00\x10JFIF", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "image/png"),
    (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "image/webp"),
    (b"RIFF\x24\x00\x00\x00WAVEfmt ", "application/octet-stream"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-1.7\n", "application/pdf"),
    (b"II*\x00\x08\x00", "image/tiff"),
    (b"\x00\x00\x00\x18ftypheic\x00\x00", "image/heic"),
    (b"\x00\x00\x00\x1cftypavif\x00\x00", "image/avif"),
    (b"\x00\x00\x00\x18ftypisom\x00\x00", "video/mp4"),
    (b"PK\x03\x04\x14", "application/zip"),
    (b"<svg onload=alert(1)>", "application/octet-stream"),
    (b"<html>", "application/octet-stream"),
    (b"\xff\xd8", "application/octet-stream"),
    (b"", "application/octet-stream"),
]


@pytest.mark.parametrize(("head", "expected"), FILES, ids=range(len(FILES)))
def test_the_type_is_what_the_bytes_say(head: bytes, expected: str) -> None:
    assert len(head) <= HEAD
    assert media_type(head) == expected
