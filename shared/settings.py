"""Every setting, read once from the environment. A wrong value stops the start with a sentence."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Key = Annotated[str, Meta(min_length=32)]

_UNPREFIXED = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"}


class SettingsError(Exception):
    """One sentence that names the variable and what was expected."""


class Settings(Struct, frozen=True, kw_only=True):
    """Each field is the variable HEADWAY_<FIELD>, but DATABASE_URL and REDIS_URL. Times are seconds, sizes bytes."""

    database_url: str
    redis_url: str
    namespace: str = ""
    """Put before every Redis name, for several installations on one server."""

    secret: Key
    """Signs and checks users' tokens (HS256)."""
    ticket_key: Key
    """Signs and checks stream tickets."""
    issuer: str = "headway"
    audience: str = "headway"

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    public_url: str = ""
    """What `streamUrl` and `webUrl` begin with; empty: they begin with a slash."""
    log_format: Literal["text", "json"] = "text"

    uploads: Path = Path("uploads")
    """The directory of uploaded files."""
    max_request: Count = 16 * 2**20
    max_upload: Count = 25 * 2**20
    max_params: Count = 64 * 2**10
    max_metadata: Count = 16 * 2**10
    max_result: Count = 256 * 2**10
    max_line: Count = 8 * 2**10
    max_lines: Count = 100_000
    """Log lines of one job; later ones are dropped, with a last line that says so."""
    upload_ttl: Positive = 24 * 3600
    """How long an upload that no batch uses is kept."""
    retention: Positive = 30 * 24 * 3600
    """How long a batch is kept after it finished."""

    threads: Count = 8
    """Jobs that one worker process runs at once."""
    lease: Annotated[float, Meta(ge=1, le=3600)] = 15
    """How long a worker that is not heard of keeps its jobs."""
    cancel_grace: Positive = 5
    """How long a handler may take to end after a cancel, a time limit or at shutdown."""
    drain_grace: Positive = 10
    """How long running jobs may go on after SIGTERM before they are given back."""
    rehearsal: Literal["safe", "unsafe"] = "safe"
    """`unsafe` lets the kind `rehearsal` crash and hang its worker."""
    detector: Path | None = None
    """A COCO object detector in ONNX, as `make detector` builds it."""

    heartbeat: Positive = 15
    """Silence on a stream before a `ping`."""
    lifetime: Positive = 1800
    """A stream's age at which the server asks it to reconnect; each gets 80 to 100 % of it."""
    window: Annotated[float, Meta(ge=0)] = 0.05
    """Changes of one batch closer together than this leave together."""
    poll: Positive = 2
    """How often watched batches are asked after while Redis is away."""
    version_check: Positive = 10
    """How often they are asked after while it is there, to heal a lost last message."""

    def __repr__(self) -> str:
        """Says nothing: half of the values are secrets, and this ends up in tracebacks."""
        return "Settings(…)"


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in `environment` (default: the process's). Raises SettingsError; an empty value counts as unset."""
    environment = os.environ if environment is None else environment
    values = {}
    for field in msgspec.structs.fields(Settings):
        name = variable(field.name)
        if text := environment.get(name):
            try:
                values[field.name] = msgspec.convert(text, field.type, strict=False, dec_hook=_path)
            except msgspec.ValidationError as error:
                raise SettingsError(f"{name}: {error}") from None
        elif field.required:
            raise SettingsError(f"{name} is not set")
    known = {variable(field) for field in Settings.__struct_fields__} | _NOT_OURS
    if unknown := sorted(name for name in environment if name.startswith("HEADWAY_") and name not in known):
        raise SettingsError(f"{unknown[0]}: there is no such setting")
    return Settings(**values)


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError


def variable(field: str) -> str:
    """The environment variable of a field."""
    return _UNPREFIXED.get(field, f"HEADWAY_{field.upper()}")


# Read by the `headway` command, not by the services.
_NOT_OURS = frozenset({"HEADWAY_HOME", "HEADWAY_TOKEN", "HEADWAY_URL"})
