"""The handler `photos`: real photographs with the real detector, and what it does where there is none."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import numpy as np
import pytest
from PIL import Image

from services.worker.detector import Detector, DetectorError, load_detector
from services.worker.detectors.coco import LABELS
from services.worker.handlers.photos import NO_DETECTOR, photos
from shared.kinds import KINDS
from shared.kinds.photos import Inventory, Photo, PhotoFile
from shared.updates import Fatal, Job, Log, Progress, Step, Update
from tests.support.detector import PHOTOS, detector_path
from tests.support.onnx_models import save_model

Look = Callable[[], Detector | None]


def seeing(folder: Path, *seen: tuple[str, float]) -> Look:
    """A model that sees these things side by side on `small_photo()`, 8 by 20 pixels each."""
    output = np.zeros((1, 84, max(1, len(seen))), dtype=np.float32)
    for at, (label, confidence) in enumerate(seen):
        output[0, :4, at] = (10 * at + 5, 25, 8, 20)
        output[0, 4 + LABELS.index(label), at] = confidence
    path = save_model(folder / "made.onnx", {"output0": output}, taking=(1, 3, 50, 100))
    return partial(load_detector, path)


@pytest.fixture
def real() -> Look:
    return partial(load_detector, detector_path())


def job(uploads: Path, name: str = "photo.jpg") -> Job:
    return Job(uuid4(), uuid4(), "anna", name, 1, uploads)


def upload(uploads: Path, content: bytes | Path) -> Photo:
    params = Photo(uuid4())
    if isinstance(content, Path):
        shutil.copy(content, uploads / str(params.upload_id))
    else:
        (uploads / str(params.upload_id)).write_bytes(content)
    return params


def run(params: Photo, given: Job, detector: Look) -> tuple[list[Update], Inventory]:
    results: list[Inventory] = []

    def whole() -> Iterator[Update]:
        results.append((yield from photos(params, given, detector=detector)))

    updates = list(whole())
    return updates, results[0]


def small_photo() -> bytes:
    file = BytesIO()
    Image.new("RGB", (100, 50), "grey").save(file, "JPEG")
    return file.getvalue()


def counted(result: Inventory) -> dict[str, int]:
    return {item.label: item.count for item in result.items}


@pytest.mark.parametrize(
    ("name", "room", "items"),
    [
        ("living_room.jpg", "living room", {"chair": 1, "tv": 1, "potted plant": 1}),
        ("kitchen_appliances.jpg", "kitchen", {"refrigerator": 1, "chair": 2, "oven": 1, "microwave": 1}),
        ("kitchen_cooking.jpg", "kitchen", {"bowl": 2}),
        ("street.jpg", "outdoors", {}),
    ],
)
def test_real_photographs(tmp_path: Path, real: Look, name: str, room: str, items: dict[str, int]) -> None:
    updates, result = run(upload(tmp_path, PHOTOS / name), job(tmp_path, name), real)
    with Image.open(PHOTOS / name) as image:
        width, height = image.size
    assert result.file == PhotoFile(name, width, height, "JPEG", (PHOTOS / name).stat().st_size)
    assert result.detector == f"CenterNet ({detector_path().name})"
    assert (result.room, counted(result), result.note) == (room, items, None)
    assert result.total_items == sum(items.values())
    assert result.total_volume == pytest.approx(sum(item.volume for item in result.items))
    for item in result.items:
        assert len(item.boxes) == item.count
        for left, top, right, bottom in item.boxes:
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
    assert [update.name for update in updates if isinstance(update, Step)] == ["reading", "detecting", "measuring"]
    percents = [update.percent for update in updates if isinstance(update, Progress | Step)]
    assert percents == sorted(percents, key=lambda percent: percent or 0)
    assert percents[0] == 0
    assert percents[-1] == 99


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_that_lies_on_its_side_shows_the_same(tmp_path: Path, real: Look, orientation: int) -> None:
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    with Image.open(PHOTOS / "kitchen_appliances.jpg") as image:
        image.transpose(turned).save(file, "JPEG", quality=95, exif=exif)
    _, upright = run(upload(tmp_path, PHOTOS / "kitchen_appliances.jpg"), job(tmp_path), real)
    _, result = run(upload(tmp_path, file.getvalue()), job(tmp_path), real)
    assert (result.file.width, result.file.height) == (upright.file.width, upright.file.height)
    assert counted(result) == counted(upright)
    for was, now in zip(upright.items, result.items, strict=True):
        for before, after in zip(sorted(was.boxes), sorted(now.boxes), strict=True):
            assert after == pytest.approx(before, abs=8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_same_photo_in_other_formats_shows_the_same(tmp_path: Path, real: Look, kind: str) -> None:
    file = BytesIO()
    with Image.open(PHOTOS / "living_room.jpg") as image:
        image.save(file, kind, lossless=True)
    _, result = run(upload(tmp_path, file.getvalue()), job(tmp_path), real)
    assert result.file.format == {"PNG": "PNG", "WEBP": "WebP"}[kind]
    assert counted(result) == {"chair": 1, "tv": 1, "potted plant": 1}


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000)])
def test_photos_of_nothing(tmp_path: Path, real: Look, size: tuple[int, int]) -> None:
    file = BytesIO()
    Image.new("RGB", size, "white").save(file, "PNG")
    _, result = run(upload(tmp_path, file.getvalue()), job(tmp_path), real)
    assert (result.room, result.items, result.total_items, result.total_volume) == ("unknown", (), 0, 0.0)


def test_without_a_detector_nothing_is_invented(tmp_path: Path) -> None:
    photo = small_photo()
    updates, result = run(upload(tmp_path, photo), job(tmp_path, "salon.jpg"), lambda: None)
    assert msgspec.to_builtins(result) == {
        "file": {"name": "salon.jpg", "width": 100, "height": 50, "format": "JPEG", "bytes": len(photo)},
        "detector": None,
        "room": "unknown",
        "items": (),
        "totalItems": 0,
        "totalVolume": 0.0,
        "note": NO_DETECTOR,
    }
    assert Log(NO_DETECTOR, "warn") in updates
    assert updates[-1] == Progress(percent=99, message="no detector is set")


def test_the_result_is_what_the_documentation_promises(tmp_path: Path) -> None:
    seen = seeing(tmp_path, ("chair", 0.91239), ("person", 0.9), ("tv", 0.8), ("chair", 0.7), ("pizza", 0.6))
    updates, result = run(upload(tmp_path, small_photo()), job(tmp_path), seen)
    assert msgspec.json.decode(msgspec.json.encode(result)) == {
        "file": {"name": "photo.jpg", "width": 100, "height": 50, "format": "JPEG", "bytes": len(small_photo())},
        "detector": "YOLO (made.onnx)",
        "room": "living room",
        "items": [
            {
                "label": "chair",
                "count": 2,
                "confidence": 0.912,
                "boxes": [[1, 15, 9, 35], [31, 15, 39, 35]],
                "volumeEach": 0.3,
                "volume": 0.6,
            },
            {
                "label": "tv",
                "count": 1,
                "confidence": 0.8,
                "boxes": [[21, 15, 29, 35]],
                "volumeEach": 0.2,
                "volume": 0.2,
            },
        ],
        "totalItems": 3,
        "totalVolume": 0.8,
        "note": None,
    }
    assert updates[-1] == Progress(percent=99, message="3 items: 2 chairs, tv")
    assert Log("seen: chair 0.91, person 0.90, tv 0.80, chair 0.70, pizza 0.60") in updates


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "0 items"),
        (["person"], "0 items"),
        (["bed"], "1 item: bed"),
        (["couch", "couch", "bench", "bench"], "4 items: 2 couches, 2 benches"),
        (["skis", "skis", "dining table", "dining table"], "4 items: 2 dining tables, 2 skis"),
    ],
)
def test_the_last_message(tmp_path: Path, labels: list[str], message: str) -> None:
    seen = seeing(tmp_path, *((label, 0.5) for label in labels))
    updates, _ = run(upload(tmp_path, small_photo()), job(tmp_path), seen)
    assert updates[-1] == Progress(percent=99, message=message)


def test_for_the_room_the_surest_of_a_sort_counts(tmp_path: Path) -> None:
    seen = seeing(tmp_path, ("tv", 0.9), ("dining table", 0.7), ("tv", 0.45))
    _, result = run(upload(tmp_path, small_photo()), job(tmp_path), seen)
    assert result.room == "living room"


def test_what_stands_in_the_street_is_not_moved(tmp_path: Path) -> None:
    seen = seeing(tmp_path, ("car", 0.8), ("bicycle", 0.7), ("bicycle", 0.6), ("chair", 0.5))
    updates, result = run(upload(tmp_path, small_photo()), job(tmp_path), seen)
    assert (result.room, result.items, result.total_items, result.total_volume) == ("outdoors", (), 0, 0.0)
    assert result.note == "The photo shows the outdoors: 2 bicycles, chair there were not counted."
    assert Log(result.note, "warn") in updates
    assert updates[-1] == Progress(percent=99, message="0 items")


def test_a_detector_that_cannot_be_used_fails_the_job(tmp_path: Path) -> None:
    def broken() -> Detector:
        raise DetectorError("own.onnx is not an ONNX model that can be loaded")

    with pytest.raises(Fatal, match=r"the detector cannot be used: own\.onnx is not an ONNX model") as caught:
        run(upload(tmp_path, small_photo()), job(tmp_path), broken)
    assert caught.value.code == "detector_unusable"


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"GIF89a is no photo", "unsupported_image"), (small_photo()[:400], "broken_image")],
)
def test_unusable_files_fail_the_job_before_a_detector_is_loaded(tmp_path: Path, content: bytes, code: str) -> None:
    def never() -> Detector:
        pytest.fail("the detector was asked for")

    with pytest.raises(Fatal) as caught:
        run(upload(tmp_path, content), job(tmp_path), never)
    assert caught.value.code == code


def test_a_vanished_upload_fails_the_job(tmp_path: Path) -> None:
    with pytest.raises(Fatal) as caught:
        run(Photo(UUID(int=7)), job(tmp_path), lambda: None)
    assert caught.value.code == "upload_missing"


def test_results_survive_their_storage_for_the_summary(tmp_path: Path) -> None:
    kind = KINDS["photos.inventory"]
    assert kind.summarise is not None
    _, result = run(upload(tmp_path, small_photo()), job(tmp_path), seeing(tmp_path, ("chair", 0.9), ("tv", 0.8)))
    stored = msgspec.convert(msgspec.json.decode(msgspec.json.encode(result)), kind.result)
    assert stored == result
    assert kind.summarise([stored]).total_volume == 0.5
