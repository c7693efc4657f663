"""`make env`: what `docker compose` needs before its first start. A bare Python runs it, without our packages.

`.env` gets the names that it lacks, with secrets of chance, for its owner's eyes only; what stands there stays. A name
without a value is one that lacks: its line stays as well, and the one that is added, being the last, counts. Where
there is no certificate one is made that nobody but we ourselves vouch for, until you have another.
"""

import argparse
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from infra.certificate import FILES, CertificateError, make_certificate

USER = 10001
"""Of the gateway, unless GATEWAY_USER says otherwise: it has to read the certificate's key."""

CERTIFICATES = Path("infra/gateway/certificates")

_NAME = re.compile(r"^[ \t]*(?:export[ \t]+)?([A-Za-z_]\w*)[ \t]*=[ \t]*(.*?)[ \t]*$", re.ASCII | re.MULTILINE)
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+", re.ASCII)
_ADDRESS = re.compile(r"[0-9.]+", re.ASCII)
_SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "HEADWAY_SECRET", "HEADWAY_TICKET_KEY", "GRAFANA_PASSWORD")
_SECRET_BYTES = 36
"""48 characters, of which none has a meaning in an address."""
_HTTPS = "443"
_OWNERS = 0o600


def wanted(there: Mapping[str, str], domain: str) -> dict[str, str]:
    """What is to stand in .env beside what is there."""
    host, port = there.get("DOMAIN") or domain or "localhost", there.get("GATEWAY_HTTPS_PORT") or _HTTPS
    names = {
        **{name: secrets.token_urlsafe(_SECRET_BYTES) for name in _SECRETS},
        "HEADWAY_PUBLIC_URL": f"https://{host}" + (f":{port}" if port != _HTTPS else ""),
        "TAG": "latest",
    }
    if domain and urlsplit(there.get("HEADWAY_PUBLIC_URL") or names["HEADWAY_PUBLIC_URL"]).hostname == domain:
        names["DOMAIN"] = domain
    if os.getuid() != 0:
        names["GATEWAY_USER"] = f"{os.getuid()}:{os.getgid()}"
    if there.get("HEADWAY_JWKS_URL"):
        del names["HEADWAY_SECRET"]  # somebody else issues the tokens
    return {name: value for name, value in names.items() if not there.get(name)}


def complete(file: Path, domain: str) -> dict[str, str]:
    """Adds what lacks; returns what was added. The file is never half written. Raises OSError."""
    file = file.resolve()  # what it points to, if it is a link
    text = file.read_text() if file.exists() else ""
    added = wanted(read(text), domain)
    if not text:
        text = "# Made by `make env`, for compose.yaml. Secrets: let nobody read it, and keep a copy elsewhere.\n"
    elif not text.endswith("\n"):
        text += "\n"
    text += "".join(f"{name}={value}\n" for name, value in added.items())
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNERS), "w") as new:  # noqa: PTH123
        new.write(text)
    beside.replace(file)
    return added


def read(text: str) -> dict[str, str]:
    """The names that stand in a .env file, and what they are: of several lines the last."""
    return {name: value.strip("'\"") for name, value in _NAME.findall(text)}


def certify(folder: Path, domain: str) -> bool:
    """Whether a certificate had to be made. Raises CertificateError and OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in FILES]
    if all(file.exists() for file in files):
        return False
    if any(file.exists() for file in files):
        raise CertificateError(f"{folder} holds one of {' and '.join(FILES)}, and lacks the other.")
    make_certificate(folder, domain or "localhost")
    if os.getuid() == 0:
        for file in files:
            os.chown(file, USER, USER)
    return True


def objection(domain: str) -> str:
    """Why there can be no gateway by this name; empty if there can."""
    if domain == "localhost":
        return "leave DOMAIN out for localhost: `make env` alone is for that."
    if _ADDRESS.fullmatch(domain):
        return (
            f"{domain} is an address, and DOMAIN takes a name, like progress.example.org. Without one leave DOMAIN out"
            f" and write HEADWAY_PUBLIC_URL=https://{domain} into .env."
        )
    if domain and not _DOMAIN.fullmatch(domain):
        return f"{domain} is not the name of a host, like progress.example.org"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.dotenv", description="Make .env and a certificate.")
    parser.add_argument("--domain", default="", help="the name by which people reach this host")
    parser.add_argument("--file", type=Path, default=Path(".env"))
    parser.add_argument("--certificates", type=Path, default=CERTIFICATES)
    arguments = parser.parse_args()
    domain = arguments.domain.lower()
    if trouble := objection(domain):
        sys.exit(f"headway: {trouble}")
    try:
        added = complete(arguments.file, domain)
        there = read(arguments.file.read_text())
        made = certify(arguments.certificates, there.get("DOMAIN", ""))
    except (CertificateError, OSError) as error:
        sys.exit(f"headway: {error}")
    print(f"{arguments.file}: " + (f"added {', '.join(added)}" if added else "nothing was missing"))
    if domain and there.get("DOMAIN") != domain:
        print(
            f"It is for {there.get('DOMAIN') or there.get('HEADWAY_PUBLIC_URL')}, and stays so. To change that take"
            f" DOMAIN and HEADWAY_PUBLIC_URL out of it, the certificate out of {arguments.certificates}, and repeat."
        )
    if made:
        print(
            f"{arguments.certificates}: a certificate that browsers warn of. Put yours there instead when you have one."
        )
    print(
        "Next:  docker compose up -d --build     (or docker-compose)\n"
        "       docker compose run --rm cli smoke\n"
        f"       {there.get('HEADWAY_PUBLIC_URL')}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
