"""TLS that ends in the server: a certificate of the test's own, and connections that take any."""

import datetime as dt
import ssl
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET, socket
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = ip_address("127.0.0.1")


def certificate(*names: str, left: dt.timedelta = dt.timedelta(hours=1)) -> bytes:
    """A key that nobody else has and its certificate, in PEM: for HOST and `names`, good for as long as is `left`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(HOST))])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=400))
        .not_valid_after(now + left)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(HOST), *map(x509.DNSName, names)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed.public_bytes(serialization.Encoding.PEM) + private


@cache
def server_context() -> ssl.SSLContext:
    """For HOST."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:
        file = Path(folder, "both.pem")
        file.write_bytes(certificate())
        context.load_cert_chain(file)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(address: str, receive_buffer: int | None = None, seconds: float = 10) -> socket:
    """A connection to where `address` points, through TLS if it says https. `receive_buffer`: bytes in the kernel."""
    place = urlsplit(address)
    connection = socket()
    try:
        if receive_buffer is not None:
            connection.setsockopt(SOL_SOCKET, SO_RCVBUF, receive_buffer)
        connection.settimeout(seconds)
        connection.connect((place.hostname, place.port))
        return client_context().wrap_socket(connection) if place.scheme == "https" else connection
    except OSError:
        connection.close()
        raise
