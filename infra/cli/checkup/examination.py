"""All that `headway doctor` looks at, in the order in which one thing depends on another."""

import ssl

from msgspec import Struct

from infra.cli.api import Api, parted, trusted
from infra.cli.checkup.certificate import check_certificate, check_http2
from infra.cli.checkup.inside import Inside
from infra.cli.checkup.outside import Outside, Sizes
from infra.cli.checkup.wire import Place
from infra.cli.errors import CliError
from infra.cli.smoketest.checks import Checks

_INSIDE = "a rehearsal, and how its stream comes"
_PUBLISHED = ["PostgreSQL", "Redis"]
_UNSEEN = [*_PUBLISHED, "workers", "when events come", "the clocks of api, database, stream and workers"]


class Terms(Struct):
    """`patience` in seconds, until a worker takes a job; `heartbeat` too: None, not to be waited for."""

    sizes: Sizes
    patience: float
    heartbeat: float | None
    behind_gateway: bool


class Examined(Struct):
    """`unseen`: what nobody can look at without a token, if there is none."""

    checks: Checks
    unseen: list[str]

    @property
    def verdict(self) -> str:
        if not self.unseen:
            return self.checks.verdict()
        return f"{self.checks.verdict(whole=False)} Not looked at without a token: {', '.join(self.unseen)}."


def examine(address: str, api: Api | None, terms: Terms) -> Examined:
    """`api` is None without a token.

    Raises OSError if nobody answers, CliError if that is no address, or one that leads to another.
    """
    parted(address)
    checks = Checks()
    place = Place.of(address)
    trust, safe = trusted(), True
    if place.secure and not check_certificate(checks, place, trust):
        safe = False
        trust = _anybody()
    outside = Outside(checks, place, trust)
    outside.recognise()
    if not place.secure and outside.moved:
        raise CliError(f"{address} redirects to {outside.moved}: ask that")
    if place.secure:
        check_http2(checks, place, _offering(safe=safe), outside.server)
        outside.check_strict()
    if not outside.look(terms.sizes, behind_gateway=terms.behind_gateway):
        checks.leave_out("everything else", "what answers there is not Headway")
        return Examined(checks, [])
    if api is None:
        checks.leave_out(_INSIDE, "a token is needed: --token or HEADWAY_TOKEN")
        return Examined(checks, [name for name in _UNSEEN if not outside.published or name not in _PUBLISHED])
    if not safe:
        checks.leave_out(_INSIDE, "a token is told only to whom a certificate can be trusted")
    elif not outside.api:
        checks.leave_out(_INSIDE, "api does not answer")
    else:
        inside = Inside(checks, api, outside.server, streams=outside.streams)
        if inside.look(terms.patience) and outside.streams:
            if terms.heartbeat is not None:
                inside.wait(terms.heartbeat)
            else:
                checks.leave_out("the stream service's clock, and a stream that is silent", "it takes long: --wait")
    return Examined(checks, [])


def _offering(*, safe: bool) -> ssl.SSLContext:
    """With HTTP/2, which nobody else here speaks."""
    trust = trusted() if safe else _anybody()
    trust.set_alpn_protocols(["h2", "http/1.1"])
    return trust


def _anybody() -> ssl.SSLContext:
    """Only to look: nothing secret is said to who is not known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
