"""The body that creates a batch, as the OpenAPI document has it: one form for each kind."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct

from services.api.submission import JOBS_OF_OPEN, BatchFields, JobFields
from shared.kinds import KINDS, PLUGINS
from shared.kinds.kind import Kind


def _type_name(kind: str) -> str:
    """One for each: `words.count` is WordsCount, and what could be taken for it keeps its dashes as underscores."""
    return "".join(word[:1].upper() + word[1:] for word in kind.replace("_", "__").replace("-", "_").split("."))


def _submission(kind: Kind) -> type[Struct]:
    """The body that creates a batch of this kind: what submission.py reads, its jobs' `params` included."""
    # a plug-in's by its kind: its parameters may be called as somebody else's are
    name = _type_name(kind.name) if kind.name in PLUGINS else kind.params.__name__
    job = msgspec.defstruct(
        f"{name}Job", [("params", kind.params)], bases=(JobFields,), forbid_unknown_fields=True, kw_only=True
    )
    return msgspec.defstruct(
        f"{name}Batch",
        [("kind", Literal[kind.name]), ("jobs", Annotated[list[job], JOBS_OF_OPEN], [])],  # type: ignore[valid-type]
        bases=(BatchFields,),
        forbid_unknown_fields=True,
        kw_only=True,
    )


_SUBMISSIONS = {kind.name: _submission(kind) for kind in KINDS.values()}

SUBMISSION: dict[str, Any] = {
    "oneOf": list(_SUBMISSIONS.values()),
    "anyOf": [
        {"required": ["jobs"], "properties": {"jobs": {"minItems": 1}}},
        {"required": ["open"], "properties": {"open": {"const": True}}},
    ],
    "discriminator": {
        "propertyName": "kind",
        "mapping": {kind: f"#/components/schemas/{type_.__name__}" for kind, type_ in _SUBMISSIONS.items()},
    },
}
