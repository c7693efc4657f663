"""What the connection itself shows: the certificate, and which HTTP is offered."""

import ssl
import time

from infra.cli.checkup.advice import HTTP2, Finding, advice
from infra.cli.checkup.wire import Place, connected
from infra.cli.smoketest.checks import Checks

_SOON = 14 * 86400.0
"""Seconds; who renews by themselves does it a month before."""

_NAME_MISMATCH, _EXPIRED, _NOT_YET = 62, 10, 9
_IP_MISMATCH = 64
"""OpenSSL's numbers for why a certificate is not taken."""


def check_certificate(checks: Checks, place: Place, trust: ssl.SSLContext) -> bool:
    """Whether it may be trusted, and so told a token. Raises OSError if nobody answers."""
    trusted = False
    with checks.check("the certificate is valid, for this name, and for two weeks at least"):
        try:
            with connected(place, trust) as connection:
                assert isinstance(connection, ssl.SSLSocket)  # noqa: S101  # it is by TLS
                found = connection.getpeercert() or {}
        except ssl.SSLCertVerificationError as error:
            raise _refused(error, place) from None
        trusted = True
        left = ssl.cert_time_to_seconds(str(found["notAfter"])) - time.time()
        if left < _SOON:
            raise Finding(
                f"it expires in {max(0, left) / 86400:.0f} days",
                seen=f"notAfter {found['notAfter']}",
                change="renew it, and see why that did not happen by itself (certbot, cert-manager, Caddy's log)",
            )
    return trusted


def check_http2(checks: Checks, place: Place, trust: ssl.SSLContext, server: str) -> None:
    """`trust` offers it."""
    with checks.check("browsers are offered HTTP/2, so that many tabs share one connection"):
        with connected(place, trust) as connection:
            assert isinstance(connection, ssl.SSLSocket)  # noqa: S101
            chosen = connection.selected_alpn_protocol()
        if chosen != "h2":
            raise Finding(
                "only HTTP/1.1 is: a browser opens six connections to one address, and the seventh tab waits for ever",
                seen=f"by ALPN {chosen or 'nothing'} was chosen, with h2 offered",
                change=advice(HTTP2, server),
            )


def _refused(error: ssl.SSLCertVerificationError, place: Place) -> Finding:
    change = "install one of an authority that browsers know; for one of your own set SSL_CERT_FILE to it, here as well"
    if error.verify_code in {_EXPIRED, _NOT_YET}:
        change = "renew it; if it is fresh, set this machine's clock"
    elif error.verify_code in {_NAME_MISMATCH, _IP_MISMATCH}:
        change = f"install one that names {place.host}, or use the name that it has"
    return Finding("it is not", seen=error.verify_message or str(error), change=change)
