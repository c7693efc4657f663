"""Spans for a collector of traces, by OpenTelemetry's own environment variables. See docs/tracing.md.

Off, which is the default, nothing of OpenTelemetry is even imported, and a span is an object that hands on what it was
given: whatever follows still carries the caller's place in a trace.
"""

import os
from collections.abc import Mapping
from contextvars import Token
from importlib.util import find_spec
from typing import Literal, Protocol, Self

from shared.settings import SettingsError
from shared.trace import CURRENT, Trace

Kind = Literal["server", "consumer", "producer"]
Attributes = Mapping[str, str | int | float | bool]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Either one turns tracing on."""

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"


class Span(Protocol):
    """Something that takes a while, for a `with`: what is done in it belongs to it."""

    @property
    def trace(self) -> Trace | None:
        """Where what follows from it belongs; None: to nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

    def rename(self, name: str) -> None: ...

    def note(self, attributes: Attributes) -> None: ...

    def fail(self, code: str, message: str = "") -> None:
        """It did not come about. `message` must hold no secret."""


class Recorder(Protocol):
    """What makes spans that are recorded."""

    def span(self, name: str, kind: Kind, parent: Trace | None, attributes: Attributes) -> Span: ...

    def begin(self, name: str, parent: Trace, others: tuple[Trace, ...], attributes: Attributes) -> "Recorded":
        """One that ends in another call, and is nobody's place meanwhile."""

    def stop(self) -> None:
        """Sends what waits, within a bound."""


class Recorded(Protocol):
    def end(self, attributes: Attributes) -> None: ...


class Unrecorded:
    """Hands on what it was given."""

    __slots__ = ("_token", "trace")

    def __init__(self, parent: Trace | None) -> None:
        self.trace = parent

    def __enter__(self) -> Self:
        self._token: Token[Trace | None] = CURRENT.set(self.trace)
        return self

    def __exit__(self, *_: object) -> None:
        CURRENT.reset(self._token)

    def rename(self, name: str) -> None:
        pass

    def note(self, attributes: Attributes) -> None:
        pass

    def fail(self, code: str, message: str = "") -> None:
        pass


_recorder: Recorder | None = None


def recorder() -> Recorder | None:
    """None: tracing is off."""
    return _recorder


def tracing_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for it. Raises SettingsError for what cannot be had."""
    endpoint = next((name for name in ENDPOINTS if environment.get(name)), None)
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if endpoint is None or disabled or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return False
    protocol = next((name for name in _PROTOCOLS if environment.get(name)), None)
    if protocol is not None and environment[protocol] != _SPOKEN:
        raise SettingsError(f"{protocol}: expected {_SPOKEN}, the only one that is spoken here")
    if find_spec("opentelemetry") is None:
        raise SettingsError(
            f"{endpoint} is set, but OpenTelemetry is not installed: the dependency group `tracing` has it"
        )
    return True


def start_tracing(service: str, environment: Mapping[str, str] = os.environ) -> None:
    """If the environment asks for it; `service` is its name there unless OTEL_SERVICE_NAME is set.

    To be called once in the process. Raises SettingsError.
    """
    global _recorder  # noqa: PLW0603  # of the process, as OpenTelemetry's own
    if tracing_wanted(environment):
        from shared.otlp import Otlp  # noqa: PLC0415  # not installed everywhere, and heavy

        _recorder = Otlp(service, environment)


def stop_tracing() -> None:
    """Before the process ends; takes a moment at most, whatever the collector does."""
    global _recorder
    if _recorder is not None:
        ended, _recorder = _recorder, None
        ended.stop()
