"""WebSockets of the service as the process that it is: what it writes into its log, how it leaves, what it can bear."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import redis
from msgspec import Raw, structs
from msgspec.structs import replace

from shared.auth import Claims, issue_ticket, issue_token
from shared.channels import Frame, batch_channel
from shared.events import Delta
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.ports import own_port
from tests.support.processes import environment
from tests.support.streams import health, status, stream_process
from tests.support.websockets import TEXT, RawSocket, Reader, frame
from tests.support.writer import Writer


@contextmanager
def logged(settings: Settings, path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A stream process that writes into a file."""
    address = f"http://127.0.0.1:{(port := own_port())}"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.stream"],
            env=environment(replace(settings, port=port)),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lambda: status(address, "/health/live") == 200, "the stream service to answer")
            yield address, process
        finally:
            process.kill()
            process.wait(10)


def test_a_process_that_leaves_says_goodbye_and_neither_tokens_nor_tickets_are_in_its_log(
    settings: Settings, writer: Writer, tmp_path: Path
) -> None:
    token = issue_token(settings, OWNER)
    ticket = issue_ticket(settings, Claims(OWNER, None, time.time() + 600), writer.batch_id)[0]
    with logged(settings, tmp_path / "log") as (address, process):
        with RawSocket(address, query={"ticket": "x" + ticket}) as refused:
            assert refused.status == 401
        with RawSocket(address, token, path=f"/{ticket}") as refused:
            assert refused.status == 404
        with RawSocket(address, token, headers={"Sec-WebSocket-Version": "7"}, query={"ticket": ticket}) as refused:
            assert refused.status == 400
        with RawSocket(address) as mistaken:
            mistaken.say(type="authenticate", token=token)
            assert mistaken.end() == 4401
        with RawSocket(address, token) as broken:
            broken.send(frame(TEXT, b"\xff" + token.encode()))
            assert broken.end(answer=False) == 1007
        with RawSocket(address, query={"ticket": ticket}) as one, RawSocket(address) as other:
            other.say(type="auth", token=token)
            readers = [Reader(one), Reader(other)]
            for reader in readers:
                reader.subscribe(f"batch:{writer.batch_id}")
                reader.delta(f"batch:{writer.batch_id}")
            process.send_signal(signal.SIGTERM)
            for reader in readers:
                assert reader.next()["code"] == "draining"
                assert reader.socket.end() == 1012
        assert process.wait(15) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert not [line for line in lines if token in line or ticket in line]
    assert not [line for line in lines if "error " in line or "Traceback" in line]
    requests = [line for line in lines if "route=/api/ws" in line or "route=unknown" in line]
    conversations = [line for line in requests if "status=101" in line]
    assert sorted(re.search(r"code=(\d+)", line)[1] for line in conversations) == ["1007", "1012", "1012", "4401"]
    assert all(re.search(r"ms=\d", line) for line in conversations)
    assert not [line for line in requests if "code=" in line and line not in conversations]
    assert len([line for line in requests if "status=401" in line]) == 1
    assert len([line for line in requests if "status=404" in line]) == 1


def hints(frame: Frame, number: int) -> Iterator[Frame]:
    """What would be heard of so many more changes of the same job, each with a line."""
    delta = msgspec.json.decode(frame.delta, type=Delta)
    (job,), (line,) = delta.jobs, delta.lines
    for step in range(1, number + 1):
        version = frame.to + step
        changed = Delta(
            structs.replace(delta.batch, version=version),
            [structs.replace(job, progress=step % 100, message=f"step {step}")],
            [structs.replace(line, n=line.n + step)],
            delta.line_count + step,
        )
        yield Frame(frame.format, frame.epoch, version - 1, version, Raw(msgspec.json.encode(changed)))


def test_a_client_that_does_not_read_while_thousands_of_updates_pass_is_no_burden(
    settings: Settings, writer: Writer
) -> None:
    """5,000 versions, of which it gets what is left of them; the process does not grow by what it does not take."""
    topics = [f"batch:{writer.batch_id}", f"logs:{writer.batch_id}", f"job:{writer.jobs[0]}"]
    token = issue_token(settings, OWNER)
    writer.start(0, 1, 2)
    first = writer.progress(0, 1, lines=1, text="x" * 500)
    with (
        # PostgreSQL knows nothing of these updates, and is not asked
        stream_process(replace(settings, window=0, version_check=3600)) as (address, process),
        RawSocket(address, token, receive_buffer=4096, patience=60) as slow,
        RawSocket(address, token, patience=60) as quick,
        redis.Redis.from_url(settings.redis_url) as client,
    ):
        wait_for(lambda: health(address)["redis"] == "ok", "the stream service to find Redis")
        readers = [Reader(slow), Reader(quick)]
        for reader in readers:
            reader.subscribe(*topics)
            while not all(record.id for record in reader.records.values()):
                reader.next()
        before = _memory(process)
        channel = batch_channel(settings.namespace, writer.batch_id)
        for frame in hints(writer.frames[-1], 5000):
            client.publish(channel, msgspec.json.encode(frame))
            if frame.to % 50 == 0:  # as fast as somebody who reads
                readers[1].to_version(frame.to, topics[:1])
        last = first + 5000
        readers[1].to_version(last)
        grown = _memory(process) - before
        readers[0].to_version(last)

        for topic in topics:
            ours, theirs = (reader.records[topic] for reader in readers)
            assert (ours.version, ours.jobs) == (theirs.version, theirs.jobs) == (last, ours.jobs)
            assert len(theirs.lines) + theirs.left_out == len(ours.lines) + ours.left_out
        log = readers[0].records[topics[1]]
        assert len(log.lines) + log.left_out == 5001, "every line was told, or counted"
        heard = [[said for said in reader.heard if said["topic"] == topics[0]] for reader in readers]
        assert len(heard[0]) < len(heard[1]) / 2, "what was not read was merged"
        assert grown < 30 * 2**20


def _memory(process: subprocess.Popen[bytes]) -> int:
    """Bytes that it has in memory."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096
