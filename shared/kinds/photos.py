"""Kind `photos.inventory`: what stands in a room, by its photographs. docs/photos.md explains the results."""

from collections import Counter
from collections.abc import Iterable
from uuid import UUID

from msgspec import Struct

from shared.kinds.kind import Kind


class Photo(Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    upload_id: UUID


class PhotoFile(Struct, rename="camel", frozen=True):
    """`width` and `height` in pixels, upright: as the camera's orientation mark says it is to be looked at."""

    name: str
    width: int
    height: int
    format: str
    """JPEG, PNG or WebP."""
    bytes: int


class Item(Struct, rename="camel", frozen=True):
    """All things of one sort on one photo."""

    label: str
    count: int
    confidence: float
    """Of the surest of them, from 0 to 1."""
    boxes: tuple[tuple[int, int, int, int], ...]
    """Where each is: left, top, right, bottom in pixels of the upright photo, the surest first."""
    volume_each: float
    """Cubic metres."""
    volume: float
    """Cubic metres, of all together."""


class Inventory(Struct, rename="camel", frozen=True):
    file: PhotoFile
    detector: str | None
    """What looked at the photo; None: nothing did, and there are no items for that reason."""
    room: str
    items: tuple[Item, ...]
    """The largest volume first."""
    total_items: int
    total_volume: float
    """Cubic metres."""
    note: str | None = None
    """What a reader of the numbers has to know."""


class RoomTotal(Struct, rename="camel", frozen=True):
    photos: int
    items: int
    volume: float


class ItemTotal(Struct, rename="camel", frozen=True):
    label: str
    count: int
    volume: float


class PhotosSummary(Struct, rename="camel", frozen=True):
    """Things are counted per photo: two photos of one chair are two chairs. Volumes are cubic metres."""

    photos: int
    total_items: int
    total_volume: float
    by_room: dict[str, RoomTotal]
    items: tuple[ItemTotal, ...]
    """The largest volume first."""
    without_detector: int
    """Photos at which no detector looked."""


def cubic_metres(litres: float) -> float:
    """Rounded to litres, as every volume is that leaves this kind."""
    return round(litres / 1000, 3)


def summarise(results: Iterable[Inventory]) -> PhotosSummary:
    photos, volumes, counts = Counter[str](), Counter[str](), Counter[str]()
    room_items, room_volumes = Counter[str](), Counter[str]()
    blind = 0
    for result in results:
        photos[result.room] += 1
        room_items[result.room] += result.total_items
        room_volumes[result.room] += _litres(result.total_volume)
        blind += result.detector is None
        for item in result.items:
            counts[item.label] += item.count
            volumes[item.label] += _litres(item.volume)
    return PhotosSummary(
        photos=photos.total(),
        total_items=room_items.total(),
        total_volume=cubic_metres(room_volumes.total()),
        by_room={
            room: RoomTotal(photos[room], room_items[room], cubic_metres(room_volumes[room])) for room in sorted(photos)
        },
        items=tuple(
            ItemTotal(label, counts[label], cubic_metres(volumes[label]))
            for label in sorted(counts, key=lambda label: (-volumes[label], label))
        ),
        without_detector=blind,
    )


def _litres(volume: float) -> int:
    # exact, because volumes are whole litres (shared/kinds/furniture.py); adding floats up would not be
    return round(volume * 1000)


def uploads(params: Photo) -> Iterable[tuple[str, UUID]]:
    yield "uploadId", params.upload_id


PHOTOS_INVENTORY = Kind(
    name="photos.inventory",
    title="Photo inventory",
    params=Photo,
    queue="photos",
    result=Inventory,
    summarise=summarise,
    uploads=uploads,
)
