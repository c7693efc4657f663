"""Looks at one photo and lists what a removal would have to carry."""

from collections import defaultdict
from collections.abc import Callable, Iterable

from services.worker.detector import Detection, Detector, DetectorError
from services.worker.handlers.picture import Picture, read_picture
from shared.kinds.furniture import LITRES
from shared.kinds.photos import Inventory, Item, Photo, PhotoFile, cubic_metres
from shared.kinds.rooms import OUTDOORS, UNKNOWN, room_of
from shared.updates import Fatal, Job, Log, Progress, Step, Updates

NO_DETECTOR = "No detector is set, so nothing on this photo was looked for or counted."


def photos(params: Photo, job: Job, *, detector: Callable[[], Detector | None]) -> Updates[Inventory]:
    """`detector` loads what is set (None: nothing is), which only the first photo of a process waits for."""
    yield Step("reading", percent=0)
    picture = read_picture(job.upload(params.upload_id))
    yield Log(f"{picture.format}, {picture.width} by {picture.height} pixels, {picture.bytes:,} bytes")

    yield Step("detecting", percent=20)
    file = PhotoFile(job.name, picture.width, picture.height, picture.format, picture.bytes)
    name, seen = _look(picture, detector)
    if name is None:
        yield Log(NO_DETECTOR, "warn")
        yield Progress(percent=99, message="no detector is set")
        return Inventory(file, None, UNKNOWN, (), 0, 0.0, NO_DETECTOR)
    yield Log("seen: " + (", ".join(f"{one.label} {one.confidence:.2f}" for one in seen) or "nothing"))

    yield Step("measuring", percent=80)
    room = room_of({one.label: one.confidence for one in reversed(seen)})  # the surest of a label comes last, and stays
    found = [one for one in seen if one.label in LITRES]
    note = None
    if room == OUTDOORS and found:
        note = f"The photo shows the outdoors: {_named(_counts(found))} there were not counted."
        yield Log(note, "warn")
        found = []
    items = _items(found, picture)
    total = sum(item.count for item in items)
    message = f"{total} item{'' if total == 1 else 's'}"
    if items:
        message += ": " + _named({item.label: item.count for item in items})
    yield Progress(percent=99, message=message)
    volume = cubic_metres(sum(LITRES[one.label] for one in found))
    return Inventory(file, name, room, items, total, volume, note)


def _look(picture: Picture, detector: Callable[[], Detector | None]) -> tuple[str | None, list[Detection]]:
    try:
        eye = detector()
        return (eye.name, eye.detect(picture.image)) if eye else (None, [])
    except DetectorError as error:
        raise Fatal(f"the detector cannot be used: {error}", code="detector_unusable") from error


def _items(found: Iterable[Detection], picture: Picture) -> tuple[Item, ...]:
    groups = defaultdict[str, list[Detection]](list)
    for one in found:
        groups[one.label].append(one)
    items = [
        Item(
            label=label,
            count=len(group),
            confidence=round(group[0].confidence, 3),
            boxes=tuple(_pixels(one, picture) for one in group),
            volume_each=cubic_metres(LITRES[label]),
            volume=cubic_metres(LITRES[label] * len(group)),
        )
        for label, group in groups.items()
    ]
    return tuple(sorted(items, key=lambda item: (-item.volume, item.label)))


def _pixels(one: Detection, picture: Picture) -> tuple[int, int, int, int]:
    left, top, right, bottom = one.box
    return (
        round(left * picture.width),
        round(top * picture.height),
        round(right * picture.width),
        round(bottom * picture.height),
    )


def _counts(found: Iterable[Detection]) -> dict[str, int]:
    counts = defaultdict[str, int](int)
    for one in found:
        counts[one.label] += 1
    return counts


def _named(counts: dict[str, int]) -> str:
    """`2 chairs, tv`"""
    return ", ".join(label if count == 1 else f"{count} {_plural(label)}" for label, count in counts.items())


def _plural(label: str) -> str:
    if label.endswith("s"):  # skis
        return label
    return label + ("es" if label.endswith("ch") else "s")
