"""A name server of the test's own: a name has the addresses that the test says, at each moment."""

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread

_A = 1
_OK, _NO_SUCH_NAME = 0x8580, 0x8583
"""An authoritative answer, with and without the name."""


class Names:
    """`addresses` may be set at any time: those of each name."""

    def __init__(self, addresses: Mapping[str, Sequence[str]]) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    def serve(self) -> None:
        """Until something comes that is no question."""
        while True:
            question, asker = self._socket.recvfrom(512)
            if len(question) < 12:  # the head of a message (RFC 1035, 4.1.1)
                return
            self._socket.sendto(self._answer(question), asker)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))

    def shut(self) -> None:
        self._socket.close()

    def _answer(self, question: bytes) -> bytes:
        labels, place = [], 12
        while size := question[place]:
            labels.append(question[place + 1 : place + 1 + size].decode())
            place += 1 + size
        asked = question[12 : place + 5]
        (kind,) = struct.unpack_from("!H", question, place + 1)
        found = self.addresses.get(".".join(labels).lower())
        addresses = (found or ()) if kind == _A else ()
        head = question[:2] + struct.pack(
            "!HHHHH", _OK if found is not None else _NO_SUCH_NAME, 1, len(addresses), 0, 0
        )
        # each names the question's name by its place, and is good for no time at all
        records = [struct.pack("!HHHIH", 0xC00C, _A, 1, 0, 4) + socket.inet_aton(address) for address in addresses]
        return head + asked + b"".join(records)


@contextmanager
def named(**addresses: Sequence[str]) -> Iterator[Names]:
    names = Names(addresses)
    thread = Thread(target=names.serve, name="names")
    thread.start()
    try:
        yield names
    finally:
        names.close()
        thread.join(10)
        names.shut()
