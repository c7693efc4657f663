"""An uploaded photo as handlers work with it: checked, upright, RGB, and no larger than anything here needs."""

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Lock

from msgspec import Struct
from PIL import ExifTags
from PIL.Image import DecompressionBombError, Image, Resampling, Transpose, new
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from shared.media import HEAD, UNKNOWN, media_type
from shared.updates import Fatal

MOST_PIXELS = 50_000_000
"""Width times height. Phones make up to 50 megapixels of JPEG; decoded as they are, they would take 150 MB each."""
LARGE = 12_000_000
"""Pixels to decode above which one photo waits for another: 50 megapixels of PNG or WebP take 300 to 800 MB."""
SIDE = 1024
"""Pixels of the longer side in memory: detectors take 512 to 640, which leaves some for their own scaling."""

# Opened by class: Image.open() only warns, and only above its own limit, of what is too large.
_FORMATS: dict[str, tuple[str, Callable[[BytesIO], ImageFile]]] = {
    "image/jpeg": ("JPEG", JpegImageFile),
    "image/png": ("PNG", PngImageFile),
    "image/webp": ("WebP", WebPImageFile),
}

# What Pillow raises for files that are not what they should be, as its sources and fuzzing show.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError)

_UPRIGHT: dict[int, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""EXIF orientation: what undoes it."""
_SWAPPING = range(5, 9)
"""Orientations of photos that lie on their side."""

_large = Lock()


class Picture(Struct, frozen=True):
    image: Image
    """RGB, upright, the first frame; its longer side is SIDE pixels at most."""
    format: str
    width: int
    """Pixels of the whole photo, upright."""
    height: int
    bytes: int


def read_picture(path: Path) -> Picture:
    """Raises Fatal: `upload_missing`, `unsupported_image`, `image_too_large`, `broken_image`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Fatal("the uploaded photo is not there any more", code="upload_missing") from None
    kind = media_type(data[:HEAD])
    if kind not in _FORMATS:
        what = "of no kind that we know" if kind == UNKNOWN else kind
        raise Fatal(
            f"JPEG, PNG and WebP photos can be read, and this file is {what}, whatever its name says",
            code="unsupported_image",
        )
    name, opener = _FORMATS[kind]
    try:
        # only the header is read here; pixels are decoded below, when their number is known
        image = opener(BytesIO(data))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise _too_large(f"{width} by {height} pixels are")
        pixels = _decode(image)
        orientation = _orientation(image)  # a PNG may have it after its pixels
    except DecompressionBombError:  # Pillow's own limit, in a header that it reads before we see it
        raise _too_large("its number of pixels is") from None
    except _BROKEN as error:
        raise Fatal(f"the {name} file is damaged or incomplete", code="broken_image") from error
    if orientation in _UPRIGHT:
        pixels = pixels.transpose(_UPRIGHT[orientation])
    if orientation in _SWAPPING:
        width, height = height, width
    return Picture(pixels, name, width, height, len(data))


def _too_large(what: str) -> Fatal:
    return Fatal(f"{what} too many: photos of up to {MOST_PIXELS // 10**6} megapixels are read", code="image_too_large")


def _orientation(image: ImageFile) -> int:
    with suppress(*_BROKEN):  # viewers show a photo whose notes are damaged, and so do we
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _decode(image: ImageFile) -> Image:
    image.draft(None, (SIDE, SIDE))  # lets a JPEG be decoded at a half, a quarter or an eighth of its size
    if image.width * image.height <= LARGE:
        return _rgb(image)
    with _large:
        return _rgb(image)


def _rgb(image: Image) -> Image:
    image.load()
    if image.mode.startswith("I"):  # 16 bits of grey, of which convert() would keep the lower ones
        grey = image.point(lambda value: value / 256)
        return _reduced(grey.convert("L")).convert("RGB")
    if not image.has_transparency_data:
        return _reduced(_as(image, "RGB"))
    clear = _reduced(_as(image, "RGBA"))
    paper = new("RGB", clear.size, "white")
    paper.paste(clear, mask=clear)
    return paper


def _as(image: Image, mode: str) -> Image:
    return image if image.mode == mode else image.convert(mode)  # which would copy it, 200 MB of it at worst


def _reduced(image: Image) -> Image:
    image.thumbnail((SIDE, SIDE), Resampling.BILINEAR)
    return image
