"""Four servers of the same events to as many viewers: the C loop, Headway, Litestar's ServerSentEvent and Nchan."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
from msgspec import Struct

from tests.bench.children import child, program
from tests.bench.delivery import JOBS
from tests.bench.servers import Servers, engine
from tests.bench.stream import nchan
from tests.bench.stream.programs import LONGEST, compiled
from tests.bench.stream.readers import Readers, readers
from tests.bench.stream.watched import Service, many_viewers, stream_service
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.streams import status
from tests.support.writer import Writer

FLOOR, OURS, LITESTAR, NCHAN = "a bare C loop of `send`", "Headway", "Litestar's `ServerSentEvent`", "nginx with Nchan"
EVERYBODY = (FLOOR, OURS, LITESTAR, NCHAN)

_GET = b"GET /events HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"


class Side(Struct):
    name: str
    pid: int
    readers: Readers
    request: bytes
    """What a viewer of it asks for."""
    publish: Callable[[], int]
    """Sends one event to every viewer; its version."""


class Sample:
    """An event as our viewers get it, to be sent by others with other versions."""

    def __init__(self, service: Service, writer: Writer) -> None:
        data, self.id = service.first_event(writer.batch_id)
        self._before, version, self._after = re.split(r"(?<=\"version\":)(\d+)", data)
        self._version = int(version)

    def next(self) -> tuple[int, bytes]:
        self._version += 1
        return self._version, f"{self._before}{self._version}{self._after}".encode()


@contextmanager
def sides(servers: Servers, wanted: Sequence[str] = EVERYBODY, *, pings: bool = False) -> Iterator[list[Side]]:
    """Without viewers. Nchan only where it is installed."""
    with ExitStack() as stack:
        settings = many_viewers(servers.settings(), pings=pings)
        database = stack.enter_context(engine(settings))
        service = stack.enter_context(stream_service(settings))
        writer = Writer(database, settings, JOBS)
        stack.callback(writer.close)
        writer.start(*range(JOBS))
        sample = Sample(service, writer)
        makers: dict[str, Callable[[], AbstractContextManager[Side]]] = {
            FLOOR: lambda: _floor(servers.directory, sample),
            OURS: lambda: _ours(servers.directory, service, writer),
            LITESTAR: lambda: _litestar(servers, sample),
            NCHAN: lambda: _nchan(servers.directory, sample),
        }
        yield [stack.enter_context(makers[name]()) for name in wanted if name != NCHAN or nchan.find()]


@contextmanager
def _floor(directory: Path, sample: Sample) -> Iterator[Side]:
    port = own_port()
    with (
        program([compiled(directory, "floor"), str(port), str(LONGEST)]) as process,
        readers(directory, port) as viewers,
    ):
        assert process.hear() == "ready"

        def publish() -> int:
            version, data = sample.next()
            event = f"event: progress\nid: {sample.id}\ndata: {data.decode()}\n\n"
            process.say(f"{len(event)}\n{event}")
            return version

        yield Side(FLOOR, process.process.pid, viewers, _GET, publish)


@contextmanager
def _ours(directory: Path, service: Service, writer: Writer) -> Iterator[Side]:
    steps = iter(range(99 * JOBS))

    def publish() -> int:
        step = next(steps)
        return writer.progress(step % JOBS, 1 + step // JOBS)

    with readers(directory, service.port) as viewers:
        yield Side(OURS, service.pid, viewers, service.request(writer.batch_id), publish)


@contextmanager
def _litestar(servers: Servers, sample: Sample) -> Iterator[Side]:
    port = own_port()
    address = f"http://127.0.0.1:{port}"
    with (
        child("tests.bench.stream.sse_app", str(port), settings=servers.settings()) as process,
        readers(servers.directory, port) as viewers,
        httpx.Client(trust_env=False) as client,
    ):
        wait_for(lambda: status(address, "/") == 404, "Litestar to answer")
        parameters = {"event": "progress", "id": sample.id}
        yield Side(
            LITESTAR,
            process.process.pid,
            viewers,
            _GET,
            lambda: _post(client, f"{address}/events", sample, params=parameters),
        )
        process.process.kill()  # a server does not end with its input


@contextmanager
def _nchan(directory: Path, sample: Sample) -> Iterator[Side]:
    found = nchan.find()
    assert found
    with (
        nchan.nchan(*found, directory / "nchan") as (port, worker),
        readers(directory, port) as viewers,
        httpx.Client(trust_env=False) as client,
    ):
        address = f"http://127.0.0.1:{port}/publish"
        named = {"X-EventSource-Event": "progress"}
        yield Side(NCHAN, worker, viewers, _GET, lambda: _post(client, address, sample, headers=named))


def _post(client: httpx.Client, url: str, sample: Sample, **options: dict[str, str]) -> int:
    version, data = sample.next()
    client.post(url, content=data, **options).raise_for_status()  # type: ignore[arg-type]
    return version
