"""What a handler gives to be kept as JSON: its result, what is shown of the job, and its checkpoint."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from shared.texts import holds_nul
from shared.updates import Checkpoint, Fatal, Metadata

_DEEPEST = 64
"""Levels of nesting, as for parameters (docs/protocol.md): it has to be readable wherever a reader's stack stands."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


class Form(msgspec.Struct, frozen=True):
    """What it is called, and the codes with which a job fails for it."""

    name: str
    unencodable: str
    too_large: str


RESULT = Form("result", "unencodable_result", "result_too_large")
METADATA = Form("metadata", "unencodable_metadata", "metadata_too_large")
CHECKPOINT = Form("checkpoint", "unencodable_checkpoint", "checkpoint_too_large")


class Kept(msgspec.Struct, frozen=True):
    """An update that is JSON already. None keeps what is there."""

    metadata: bytes | None = None
    checkpoint: bytes | None = None


def kept(update: Metadata | Checkpoint, mask: Callable[[bytes], bytes], *, max_metadata: int, max_result: int) -> Kept:
    """Raises Fatal for what cannot be kept. A checkpoint is shown to nobody, and so given back as it was."""
    if isinstance(update, Checkpoint):
        return Kept(checkpoint=encoded(CHECKPOINT, update.value, max_result))
    metadata = encoded(METADATA, update.value, max_metadata, mask)
    if not metadata.startswith(b"{"):
        raise Fatal(f"the metadata has to be an object, not {type(update.value).__name__}", code=METADATA.unencodable)
    return Kept(metadata=metadata)


def encoded(form: Form, value: Any, limit: int, mask: Callable[[bytes], bytes] = bytes) -> bytes:
    """`value` as JSON of at most `limit` bytes. Raises Fatal: another attempt would give the same."""
    what, unencodable = form.name, form.unencodable
    try:
        data = msgspec.json.encode(value)
    except Exception as error:
        message = f"the {what} cannot be encoded as JSON: {type(error).__name__}: {error}"
        raise Fatal(message, code=unencodable) from error
    data = mask(data)
    if len(data) > limit:
        raise Fatal(f"the {what} has {len(data)} bytes; at most {limit} are kept", code=form.too_large)
    if _depth(data) > _DEEPEST:
        raise Fatal(f"the {what} is nested more than {_DEEPEST} levels deep", code=unencodable)
    if holds_nul(data):
        raise Fatal(f"the {what} holds a NUL character, which PostgreSQL cannot store", code=unencodable)
    return data


def _depth(data: bytes) -> int:
    deepest = depth = 0
    for mark in re.findall(rb"[\[\]{}]", _STRING.sub(b"", data)):
        depth += 1 if mark in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
