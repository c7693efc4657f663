"""Every setting, read once from the environment. A wrong value stops the start with a sentence."""

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from shared.amqp_urls import FORMS as AMQP_FORMS
from shared.amqp_urls import is_amqp, read_amqp_url
from shared.redis_urls import FORMS, is_cluster, read_redis_url

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Key = Annotated[str, Meta(min_length=32)]

Network = IPv4Network | IPv6Network

# A host, which is in lower case and no international one as written, and perhaps a port.
_ORIGIN = re.compile(r"https?://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::[1-9]\d{0,4})?")
_DEFAULT_PORT = re.compile(r"^http:.*:80$|^https:.*:443$")
_PUBLIC = re.compile(_ORIGIN.pattern + "/?", re.IGNORECASE)
# No user and password, which would end up in logs.
_KEYS_ADDRESS = re.compile(
    r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?(?:/[!-~]*)?", re.IGNORECASE
)

_LIMIT = re.compile(r"(?P<kind>[^\s=@,]+)=(?=.)(?P<concurrency>[1-9]\d{0,5})?(?:@(?P<rate>\d{1,6}(?:\.\d{1,6})?))?")

_BUCKET = re.compile(r"s3://(?P<name>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[\w!.*'()/-]{0,900}))?", re.ASCII)

_ESCAPED = "with what is special in the password as %XX"

_UNPREFIXED = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL", "broker_url": "BROKER_URL"}


class SettingsError(Exception):
    """One sentence that names the variable and what was expected."""


class Bucket(Struct, frozen=True):
    """A place in an S3 store; names in it begin with `prefix` and a slash, if there is one."""

    name: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.name}/{self.prefix}".removesuffix("/")


class Settings(Struct, frozen=True, kw_only=True):
    """Each field is the variable HEADWAY_<FIELD>, but DATABASE_URL, REDIS_URL and BROKER_URL. Times are seconds, sizes
    bytes.
    """

    database_url: str
    pooler: Literal["none", "transaction"] = "none"
    """What stands between here and PostgreSQL: PgBouncer in transaction mode, or nothing."""
    redis_url: str
    broker_url: str = ""
    """Where work tickets go, of Redis or RabbitMQ; empty: where `redis_url` says."""
    namespace: str = ""
    """Put before every name in Redis and RabbitMQ, for several installations on one server."""

    secret: Key | None = None
    """Signs and checks users' tokens (HS256), unless `jwks_url` is set: exactly one of the two."""
    jwks_url: str = ""
    """Where the public keys are by which users' tokens are checked; somebody else issues them."""
    jwks_algorithm: Literal["RS256", "ES256", "EdDSA"] = "RS256"
    """The only one that a token and its key may have."""
    ticket_key: Key = ""
    """Signs and checks tickets; empty only where nothing is signed or checked: see `load_settings`."""
    ticket_key_old: Key | None = None
    """Still checks tickets, while the last that it signed are about."""
    issuer: str = "headway"
    audience: str = "headway"

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    worker_port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    """Where workers answer `/metrics` and `/health`; nowhere unless set."""
    public_url: str = ""
    """What `streamUrl` and `webUrl` begin with; empty: they begin with a slash."""
    origins: str = ""
    """Other sites whose pages may use this one, with commas between: https://app.example.org,https://example.org"""
    log_format: Literal["text", "json"] = "text"

    uploads: Path | Bucket = Path("uploads")
    """Where files are, uploads and artifacts: a directory, or s3://bucket/prefix."""
    max_request: Count = 16 * 2**20
    max_upload: Count = 25 * 2**20
    max_artifact: Count = 25 * 2**20
    max_artifacts: Annotated[int, Meta(ge=0, le=100)] = 20
    """Files that one attempt of a job may give its users."""
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
    """How long a worker that is not heard of keeps its jobs, and a stream process its viewers' places."""
    owner_concurrency: Count | None = None
    """Jobs of one owner that run at once, in all queues together; as many as there is room for unless set."""
    limits: str = ""
    """Kinds of which only so many run at once or start in a second, instead of what the kinds say themselves:
    photos.inventory=4,mail.send=2@10,report=@0.5"""
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
    owner_viewers: Count = 10_000
    """Streams that one owner may have open at once, in all processes together."""
    viewers: Count = 15_000
    """Viewers that one process takes; each needs an open file."""
    buffer: Count = 256 * 2**20
    """What one stream process may hold for slow readers, about; beyond it they take turns."""
    address_viewers: Count | None = None
    """Streams from one address that one process takes; as many as it takes at all unless set: behind a gateway that is
    not in `proxies`, or a company's, everybody comes from one address.
    """
    proxies: str = ""
    """Addresses and networks, with commas between, whose X-Forwarded-For says where a connection comes from."""

    @property
    def tickets_url(self) -> str:
        """Where work tickets go."""
        return self.broker_url or self.redis_url

    def __repr__(self) -> str:
        """Says nothing: half of the values are secrets, and this ends up in tracebacks."""
        return "Settings(…)"


def load_settings(environment: Mapping[str, str] | None = None, *, keys: bool = True) -> Settings:
    """The settings in `environment` (default: the process's). Raises SettingsError; an empty value counts as unset.

    Without `keys` those that sign and check tokens and tickets may be missing: workers, who run what others wrote, have
    no use for them.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(Settings):
        name = variable(field.name)
        if text := environment.get(name):
            try:
                if field.name == "uploads":
                    values[field.name] = read_uploads(text)
                else:
                    values[field.name] = msgspec.convert(text, field.type, strict=False, dec_hook=_path)
            except msgspec.ValidationError as error:
                raise SettingsError(f"{name}: {error}") from None
        elif field.required:
            raise SettingsError(f"{name} is not set")
    known = variables()
    if unknown := sorted(name for name in environment if name.startswith("HEADWAY_") and name not in known):
        raise SettingsError(f"{unknown[0]}: there is no such setting")
    settings = Settings(**values)
    _check_servers(settings)
    _check_keys(settings, needed=keys)
    if settings.public_url and not _PUBLIC.fullmatch(settings.public_url):
        raise SettingsError("HEADWAY_PUBLIC_URL: expected an address like https://progress.example.org, without a path")
    read_origins(settings)
    read_proxies(settings)
    read_limits(settings)
    return settings


def _check_servers(settings: Settings) -> None:
    """Here, in our own words: what a library says of an address that it cannot read repeats a part of it, and in its
    middle stands a password.
    """
    try:
        parts = urlsplit(settings.database_url)
        good = parts.scheme.partition("+")[0] in {"postgresql", "postgres"} and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise SettingsError(f"DATABASE_URL: expected postgresql://user:password@host:port/name, {_ESCAPED}")
    try:
        read_redis_url(settings.redis_url)
    except ValueError:
        raise SettingsError(f"REDIS_URL: expected {FORMS}, {_ESCAPED}") from None
    try:
        if is_amqp(settings.tickets_url):
            read_amqp_url(settings.tickets_url)
            return
        cluster = is_cluster(settings.tickets_url)
    except ValueError:
        raise SettingsError(f"BROKER_URL: expected a form of REDIS_URL, or {AMQP_FORMS}, {_ESCAPED}") from None
    if cluster:  # Dramatiq's scripts use keys of several nodes at once
        raise SettingsError("BROKER_URL: a Redis Cluster cannot have the tickets; expected another Redis, or RabbitMQ")


def read_uploads(text: str) -> Path | Bucket:
    """The place that `uploads` names. Raises SettingsError."""
    if "://" not in text:
        return Path(text)
    found = _BUCKET.fullmatch(text)
    prefix = (found["prefix"] or "").removesuffix("/") if found else ""
    if found is None or any(part in {"", ".", ".."} for part in prefix.split("/") if prefix):
        raise SettingsError(
            "HEADWAY_UPLOADS: expected a directory or s3://bucket/prefix; where the store is and its keys are said by "
            "AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return Bucket(found["name"], prefix)


def read_origins(settings: Settings) -> frozenset[bytes]:
    """`origins`, each as browsers send it. Raises SettingsError."""
    origins = [origin.strip() for origin in settings.origins.split(",") if origin.strip()]
    for origin in origins:
        if not _ORIGIN.fullmatch(origin) or _DEFAULT_PORT.search(origin):
            raise SettingsError(
                f"HEADWAY_ORIGINS: {origin} is not an origin as browsers send it: https://app.example.org or "
                "http://localhost:3000, in lower case, without a path, and without the port that goes without saying"
            )
    return frozenset(origin.encode() for origin in origins)


def read_proxies(settings: Settings) -> tuple[Network, ...]:
    """`proxies`. Raises SettingsError."""
    proxies = [proxy.strip() for proxy in settings.proxies.split(",") if proxy.strip()]
    try:
        return tuple(map(ip_network, proxies))
    except ValueError as error:
        raise SettingsError(
            f"HEADWAY_PROXIES: expected addresses and networks like 10.0.0.0/8,2001:db8::1; {error}"
        ) from None


class Limit(Struct, frozen=True):
    """Of a kind of job. None: there is none."""

    concurrency: int | None = None
    """Jobs that run at once."""
    rate: float | None = None
    """Starts a second; a second's worth of them, or one, may come at once."""


def read_limits(settings: Settings) -> dict[str, Limit]:
    """`limits`, by kind. Raises SettingsError."""
    limits: dict[str, Limit] = {}
    for text in filter(None, map(str.strip, settings.limits.split(","))):
        found = _LIMIT.fullmatch(text)
        if found is None or (found["rate"] is not None and float(found["rate"]) == 0):
            raise SettingsError(
                f"HEADWAY_LIMITS: {text} is not a kind with how many run at once, how many start in a second, or both: "
                "photos.inventory=4, mail.send=@10 or mail.send=2@10"
            )
        if found["kind"] in limits:
            raise SettingsError(f"HEADWAY_LIMITS: {found['kind']} is there twice")
        limits[found["kind"]] = Limit(
            None if found["concurrency"] is None else int(found["concurrency"]),
            None if found["rate"] is None else float(found["rate"]),
        )
    return limits


def _check_keys(settings: Settings, *, needed: bool) -> None:
    if needed and not settings.ticket_key:
        raise SettingsError("HEADWAY_TICKET_KEY is not set")
    if not settings.jwks_url:
        if needed and settings.secret is None:
            raise SettingsError("HEADWAY_SECRET is not set, nor is HEADWAY_JWKS_URL: one of them is needed")
        return
    if settings.secret is not None:
        raise SettingsError("HEADWAY_SECRET and HEADWAY_JWKS_URL are both set: tokens are checked by one of them")
    address = _KEYS_ADDRESS.fullmatch(settings.jwks_url)
    if address is None or not 0 < int(address["port"] or 443) < 2**16:
        raise SettingsError("HEADWAY_JWKS_URL: expected an address like https://login.example.org/keys")


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError


def variable(field: str) -> str:
    """The environment variable of a field."""
    return _UNPREFIXED.get(field, f"HEADWAY_{field.upper()}")


COMMAND_ONLY = frozenset({"HEADWAY_HOME", "HEADWAY_TOKEN", "HEADWAY_URL"})
"""Read by the `headway` command, not by the services."""

REQUIRED = (("DATABASE_URL",), ("REDIS_URL",), ("HEADWAY_TICKET_KEY",), ("HEADWAY_SECRET", "HEADWAY_JWKS_URL"))
"""Without one of each no service starts; workers start without the last two."""


def variables() -> frozenset[str]:
    """All that there are."""
    return COMMAND_ONLY | {variable(field) for field in Settings.__struct_fields__}
