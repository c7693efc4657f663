"""Kind `photos.inventory`: what stands in a room, by its photographs."""

from collections.abc import Iterable
from uuid import UUID

from msgspec import Struct

from shared.kinds.kind import Kind


class Photo(Struct, rename="camel", forbid_unknown_fields=True, frozen=True):
    upload_id: UUID


def uploads(params: Photo) -> Iterable[tuple[str, UUID]]:
    yield "uploadId", params.upload_id


PHOTOS_INVENTORY = Kind(name="photos.inventory", title="Photo inventory", params=Photo, queue="photos", uploads=uploads)
