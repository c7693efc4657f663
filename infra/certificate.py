"""A certificate that vouches for itself: TLS from the first start on, until there is one of an authority.

Made by the program `openssl`, or by the library `cryptography` where that is installed instead.
"""

import datetime as dt
import shutil
import subprocess
import tempfile
from ipaddress import ip_address
from pathlib import Path

FILES = ("certificate.pem", "key.pem")
"""As the gateway's configuration names them; the first holds the chain."""

ADDRESSES = ("127.0.0.1", "::1")
ALWAYS = ("localhost", "gateway")
"""Names beside the one that was asked for; by the last other containers reach the gateway."""

_DAYS = 820
"""Some browsers take none that is good for longer."""
_MODES = (0o644, 0o600)


class CertificateError(Exception):
    """A sentence for whoever typed the command."""


def make_certificate(folder: Path, name: str) -> None:
    """Puts FILES there, for `name` and this machine. Raises CertificateError and OSError."""
    names = list(dict.fromkeys((name, *ALWAYS)))
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        made = [Path(beside, file) for file in FILES]
        if program := shutil.which("openssl"):
            _by_program(program, names, *made)
        else:
            _by_library(names, *made)
        for file, mode in zip(made, _MODES, strict=True):
            file.chmod(mode)
            file.replace(folder / file.name)


def _by_program(openssl: str, names: list[str], certificate: Path, key: Path) -> None:
    where = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in ADDRESSES)])
    command = [
        openssl,
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-sha256",
    ]
    command += ["-days", str(_DAYS), "-subj", f"/CN={names[0]}", "-keyout", str(key), "-out", str(certificate)]
    command += ["-addext", f"subjectAltName={where}", "-addext", "extendedKeyUsage=serverAuth"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # no shell, our words
    if done.returncode != 0:
        raise CertificateError(f"openssl made no certificate: {done.stderr.strip()[-300:]}")


def _by_library(names: list[str], certificate: Path, key: Path) -> None:
    try:
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415
    except ImportError:
        raise CertificateError(
            f"There is no certificate, and neither openssl nor Python's cryptography to make one: put "
            f"{certificate.name} and {key.name} there yourself."
        ) from None
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    where = [*map(x509.DNSName, names), *(x509.IPAddress(ip_address(address)) for address in ADDRESSES)]
    now = dt.datetime.now(dt.timezone.utc)  # noqa: UP017  # a host's Python may be an older one
    identifier = x509.SubjectKeyIdentifier.from_public_key(secret.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(where), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    certificate.write_bytes(builder.sign(secret, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
