"""The forms of a Redis URL."""

import pytest
from msgspec import structs

from shared.redis_urls import is_cluster, read_redis_url

SENTINELS = (("a.example.org", 26380), ("10.0.0.2", 26379), ("::1", 3))


@pytest.mark.parametrize(
    "url", ["redis://localhost", "rediss://u:p@h:6380/3?ssl_ca_certs=/ca", "unix:///run/redis.sock"]
)
def test_one_server_is_left_to_redis_py(url: str) -> None:
    assert read_redis_url(url) is None
    assert not is_cluster(url)


def test_sentinels_name_a_service_and_may_have_a_password_of_their_own() -> None:
    url = "redis+sentinel://me:p%40%2C%3A@a.example.org:26380,10.0.0.2,[::1]:3/hints/2?sentinel_password=o%26"
    assert said(url) == ("sentinel", SENTINELS, False, "me", "p@,:", "hints", 2, None, "o&", ())
    assert not is_cluster(url)


def test_nodes_of_a_cluster_may_speak_tls() -> None:
    url = "rediss+cluster://:secret@a:7000,b?ssl_ca_certs=/ca.pem&ssl_check_hostname=false"
    options = (("ssl_ca_certs", "/ca.pem"), ("ssl_check_hostname", "false"))
    assert said(url) == ("cluster", (("a", 7000), ("b", 6379)), True, None, "secret", "", 0, None, None, options)
    assert is_cluster(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis+other://u:secret@a",
        "redis://u:secret@a:0",
        "redis://u:secret@a:b",
        "redis://u:secret[@a",
        "redis+sentinel://u:secret@a:1",
        "redis+sentinel://u:secret@a:1/",
        "redis+sentinel://u:secret@a:1/hints/x",
        "redis+sentinel://u:secret@a:1/hints/0/1",
        "redis+sentinel://u:secret@a:1,/hints",
        "redis+sentinel://u:secret@a:1,b:99999/hints",
        "redis+sentinel://u:secret@a:1,b:x/hints",
        "redis+sentinel://u:secret@/hints",
        "redis+sentinel://a:1/hints?sentinel_pasword=secret",
        "redis+sentinel://a:1/hints?ssl_ca_certs=/secret",
        "redis+sentinel://a:1/hints?sentinel_password=secret&sentinel_password=secret",
        "unix+sentinel://secret@a/hints",
        "redis+cluster://u:secret@a:1/1",
        "redis+cluster://a:1?sentinel_password=secret",
        "redis+cluster://u:secret@a:1#b",
        "redis+cluster://u:secret/x@a:1",
    ],
)
def test_anything_else_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="expected redis://") as raised:
        read_redis_url(url)
    assert "secret" not in str(raised.value)


def test_passwords_do_not_show() -> None:
    assert "secret" not in repr(read_redis_url("redis+cluster://u:secret@a:1"))


def said(url: str) -> tuple[object, ...]:
    several = read_redis_url(url)
    assert several is not None
    return structs.astuple(several)
