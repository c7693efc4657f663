"""nginx and Caddy with the files of infra/gateway: only addresses, ports and certificates are the test's own."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from tests.support.batches import wait_for
from tests.support.needs import program
from tests.support.ports import own_port
from tests.support.processes import end
from tests.support.tls import certificate

FILES = Path(__file__).parents[2] / "infra" / "gateway"

Change = Callable[[str], str]
"""Of the text of a file."""


class Gateway(Struct):
    """What runs in `folder`, where `access.log` and `said.log` are: what it writes to standard output and error."""

    address: str
    """With https."""
    plain: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def access(self) -> str:
        return (self.folder / "access.log").read_text()

    @property
    def said(self) -> str:
        return (self.folder / "said.log").read_text()

    @property
    def written(self) -> str:
        """All that it wrote, wherever."""
        return "".join(path.read_text(errors="replace") for path in self.folder.rglob("*") if path.suffix == ".log")

    @property
    def trust(self) -> Path:
        """Whose signature its certificate carries: its own."""
        return self.folder / "certificate.pem"


def exchange(text: str, places: Mapping[str, str]) -> str:
    """The text with each of these once replaced: what is not there any more is no place to put something in."""
    for old, new in places.items():
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(
    api: str,
    stream: str,
    folder: Path,
    *,
    resolver: int | None = None,
    changes: Mapping[str, Change] | None = None,
    pem: bytes | None = None,
) -> Iterator[Gateway]:
    """As in compose's container. `resolver`: the port of a name server, where the addresses are names.

    `changes`: of files, by their paths in infra/gateway/nginx. `pem`: its key and certificate.
    """
    files = folder / "nginx"
    shutil.copytree(FILES / "nginx", files)
    tls, plain = own_port(), own_port()
    _settle(folder, pem)
    (folder / "https-port").write_text(f'"" ":{tls}";\n')
    site = files / "conf.d" / "headway.conf"
    asked = "" if resolver is None else f"resolver 127.0.0.1:{resolver} valid=1s ipv6=off;"
    text = re.sub(r"(?m)^resolver 127\.0\.0\.11 .*;$", asked, site.read_text())
    site.write_text(
        exchange(
            text,
            {
                "http://api:8000": api,
                "http://stream:8000": stream,
                "listen 8080 ": f"listen 127.0.0.1:{plain} ",
                "listen 8443 ": f"listen 127.0.0.1:{tls} ",
                "/tmp/nginx-https-port*": f"{folder}/https-port*",  # noqa: S108  # several on one machine
                "/etc/headway/tls/certificate.pem": str(folder / "certificate.pem"),
                "/etc/headway/tls/key.pem": str(folder / "certificate.pem"),
                "/var/www/acme": str(folder / "acme"),
            },
        ).replace("/dev/stdout", str(folder / "access.log"))
    )
    main = files / "nginx.conf"
    main.write_text(main.read_text().replace("/tmp/nginx", f"{folder}/nginx"))  # noqa: S108  # several on one machine
    for name, change in (changes or {}).items():
        (files / name).write_text(change((files / name).read_text()))
    with _running([program("nginx"), "-c", str(main), "-g", "daemon off;"], tls, plain, folder) as gateway:
        yield gateway


@contextmanager
def caddy(
    api: str, stream: str, folder: Path, *, changes: Mapping[str, Change] | None = None, pem: bytes | None = None
) -> Iterator[Gateway]:
    """As `nginx`, in its place."""
    tls, plain = own_port(), own_port()
    _settle(folder, pem)
    where = folder / "certificate.pem"
    text = exchange(
        (FILES / "caddy" / "Caddyfile").read_text(),
        {
            "\nprogress.example.org {": f"\n127.0.0.1, localhost {{\n\ttls {where} {where}",
            "\tadmin off\n": f"\tadmin off\n\thttp_port {plain}\n\thttps_port {tls}\n",
            "dynamic a api 8000 {": _dynamic(api),
            "output stdout": f"output file {folder}/access.log",
        },
    ).replace("dynamic a stream 8000 {", _dynamic(stream))
    file = folder / "Caddyfile"
    file.write_text((changes or {}).get("Caddyfile", str)(text))
    command = [program("caddy"), "run", "--config", str(file), "--adapter", "caddyfile"]
    own = {"XDG_DATA_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder / "config")}
    with _running(command, tls, plain, folder, **own) as gateway:
        yield gateway


def _dynamic(address: str) -> str:
    place = urlsplit(address)
    return f"dynamic a {place.hostname} {place.port} {{"


@contextmanager
def _running(command: list[str], tls: int, plain: int, folder: Path, **more: str) -> Iterator[Gateway]:
    with (folder / "said.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **more})
    gateway = Gateway(f"https://127.0.0.1:{tls}", f"http://127.0.0.1:{plain}", folder, process)
    try:
        wait_for(lambda: process.poll() is not None or all(map(_open, (tls, plain))), f"{command[0]} to listen")
        assert process.poll() is None, gateway.said
        yield gateway
    finally:
        end(process)


def _settle(folder: Path, pem: bytes | None) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "access.log").touch()
    (folder / "certificate.pem").write_bytes(pem or certificate("localhost"))
    (folder / "acme" / ".well-known" / "acme-challenge").mkdir(parents=True)


def _open(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
