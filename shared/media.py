"""What a file is, by what its bytes say: neither its name nor its sender is believed."""

HEAD = 32
"""Bytes from the beginning that `media_type` needs to see."""

UNKNOWN = "application/octet-stream"

# (offset, bytes there, type); the first that fits counts
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    # ISO base media: the major brand says which of the family
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypheic", "image/heic"),
    (4, b"ftypheix", "image/heic"),
    (4, b"ftypmif1", "image/heif"),
    (4, b"ftypqt  ", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
)


def media_type(head: bytes) -> str:
    """The media type of a file that begins with `head`."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    for offset, signature, name in _SIGNATURES:
        if head.startswith(signature, offset):
            return name
    return UNKNOWN
