"""Where RabbitMQ is, as BROKER_URL says it; and wrong ones, of which nothing is repeated."""

import pytest

from shared.amqp_urls import Amqp, is_amqp, read_amqp_url
from shared.settings import SettingsError, load_settings
from tests.unit.test_settings import GOOD

LOCAL = (("localhost", 5672),)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://localhost", Amqp(LOCAL, False, "guest", "guest", "/")),
        ("amqp://localhost/", Amqp(LOCAL, False, "guest", "guest", "/")),
        ("amqp://localhost/%2F", Amqp(LOCAL, False, "guest", "guest", "/")),
        ("AMQP://localhost:5673/jobs", Amqp((("localhost", 5673),), False, "guest", "guest", "jobs")),
        ("amqp://anna:a%2Fb%40c%3A@localhost/%2Fa%20b", Amqp(LOCAL, False, "anna", "a/b@c:", "/a b")),
        (
            "amqps://anna:secret@a,b:5673,[::1]:5674/jobs",
            Amqp((("a", 5671), ("b", 5673), ("::1", 5674)), True, "anna", "secret", "jobs"),
        ),
        (
            "amqps://localhost?cacertfile=/etc/ca.pem",
            Amqp((("localhost", 5671),), True, "guest", "guest", "/", (("cacertfile", "/etc/ca.pem"),)),
        ),
    ],
)
def test_a_url_is_read(url: str, expected: Amqp) -> None:
    assert is_amqp(url)
    assert read_amqp_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "amqp://",
        "amqp:///jobs",
        "amqp://anna:short@",
        "amqp://anna:short@a,,b",
        "amqp://anna:short@host:0",
        "amqp://anna:short@host:66000",
        "amqp://anna:sh/ort@host",
        "amqp://anna:sh@ort@host@",
        "amqp://anna:short@host/a/b",
        "amqp://anna:short@host/a#b",
        "amqp://anna:short@host/a?heartbeat=3",
        "amqp://anna:short@host?cacertfile=/etc/ca.pem",
        "amqps://anna:short@host?cacertfile=a&cacertfile=b",
        "amqp+ssl://anna:short@host",
        "kafka://anna:short@host",
        "http://anna:short@host",
        "short",
        "redis://anna:sh[ort@host",
        "redis+cluster://anna:short@host",
    ],
)
def test_a_wrong_one_stops_the_start_and_is_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(GOOD | {"BROKER_URL": url})
    assert str(raised.value).startswith("BROKER_URL: ")
    assert "short" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_tickets_go_to_redis_unless_it_is_said_where() -> None:
    assert load_settings(GOOD).tickets_url == GOOD["REDIS_URL"]
    for url in ("amqp://localhost", "amqps://a,b/jobs", "rediss://elsewhere/1", "unix:///run/redis.sock"):
        assert load_settings(GOOD | {"BROKER_URL": url}).tickets_url == url


def test_a_redis_cluster_gets_no_tickets() -> None:
    cluster = {"REDIS_URL": "redis+cluster://a,b"}
    with pytest.raises(SettingsError, match=r"^BROKER_URL: a Redis Cluster cannot"):
        load_settings(GOOD | cluster)
    assert load_settings(GOOD | cluster | {"BROKER_URL": "amqp://localhost"}).tickets_url == "amqp://localhost"


def test_a_password_does_not_show() -> None:
    assert "secret" not in repr(read_amqp_url("amqp://anna:secret@host"))
