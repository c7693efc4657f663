"""A wrong setting stops the start with a sentence that names it."""

from pathlib import Path

import pytest
from msgspec import Struct

from shared.kinds.kind import Kind
from shared.kinds.limits import limits_of
from shared.settings import Bucket, Limit, Settings, SettingsError, load_settings, read_limits, read_origins

GOOD = {
    "DATABASE_URL": "postgresql://localhost/headway",
    "REDIS_URL": "redis://localhost",
    "HEADWAY_SECRET": "s" * 32,
    "HEADWAY_TICKET_KEY": "t" * 32,
}

KEYS_URL = "https://login.example.org/.well-known/jwks.json"


def test_values_are_read_and_the_rest_are_defaults() -> None:
    settings = load_settings(GOOD | {"HEADWAY_PORT": "9000", "HEADWAY_UPLOADS": "files/up", "HEADWAY_WINDOW": "0"})
    assert (settings.port, settings.uploads, settings.window, settings.lease) == (9000, Path("files/up"), 0, 15)


def test_a_cluster_needs_another_server_for_tickets() -> None:
    urls = {"REDIS_URL": "redis+cluster://a,b,c", "BROKER_URL": "redis+sentinel://d,e,f/tickets"}
    assert load_settings(GOOD | urls).tickets_url == urls["BROKER_URL"]


def test_who_checks_no_tokens_needs_no_keys() -> None:
    without = {name: value for name, value in GOOD.items() if name not in {"HEADWAY_SECRET", "HEADWAY_TICKET_KEY"}}
    settings = load_settings(without, keys=False)
    assert (settings.secret, settings.ticket_key) == (None, "")
    for wrong in ({"HEADWAY_SECRET": "short"}, {"HEADWAY_SECRET": "s" * 32, "HEADWAY_JWKS_URL": KEYS_URL}):
        with pytest.raises(SettingsError, match="HEADWAY_SECRET"):
            load_settings(without | wrong, keys=False)


def test_empty_means_unset() -> None:
    assert load_settings(GOOD | {"HEADWAY_PORT": ""}).port == 8000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"REDIS_URL": "redis+sentinel://u:short@a:26379"}, "REDIS_URL: expected redis://user:password@host:port/0,"),
        ({"REDIS_URL": "redis+cluster://u:short@a"}, "BROKER_URL: a Redis Cluster cannot have the tickets"),
        ({"BROKER_URL": "rediss+cluster://u:short@a"}, "BROKER_URL: a Redis Cluster cannot have the tickets"),
        ({"HEADWAY_POOLER": "session"}, "HEADWAY_POOLER: Invalid enum value 'session'"),
        ({"HEADWAY_SECRET": "short"}, "HEADWAY_SECRET: Expected `str` of length >= 32"),
        ({"HEADWAY_PORT": "80a"}, "HEADWAY_PORT: Expected `int`"),
        ({"HEADWAY_PORT": "0"}, "HEADWAY_PORT: Expected `int` >= 1"),
        ({"HEADWAY_LEASE": "-1"}, "HEADWAY_LEASE: Expected `float` >= 1"),
        ({"HEADWAY_REHEARSAL": "perhaps"}, "HEADWAY_REHEARSAL: Invalid enum value 'perhaps'"),
        ({"HEADWAY_THREDS": "4"}, "HEADWAY_THREDS: there is no such setting"),
        ({"HEADWAY_VIEWERS": "0"}, "HEADWAY_VIEWERS: Expected `int` >= 1"),
        ({"HEADWAY_PROXIES": "10.0.0.0/8, balancer"}, "HEADWAY_PROXIES: expected addresses and networks like"),
        ({"HEADWAY_PROXIES": "10.0.0.1/8"}, "HEADWAY_PROXIES: expected addresses and networks like"),
        ({"HEADWAY_TICKET_KEY": ""}, "HEADWAY_TICKET_KEY is not set"),
        ({"HEADWAY_SECRET": ""}, "HEADWAY_SECRET is not set, nor is HEADWAY_JWKS_URL"),
        ({"HEADWAY_JWKS_URL": KEYS_URL}, "HEADWAY_SECRET and HEADWAY_JWKS_URL are both set"),
        ({"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": "file:///etc/passwd"}, "HEADWAY_JWKS_URL: expected an address"),
        ({"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": "login.example.org"}, "HEADWAY_JWKS_URL: expected an address"),
        ({"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": "http://a:99999/"}, "HEADWAY_JWKS_URL: expected an address"),
        ({"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": "http://u:short@a/"}, "HEADWAY_JWKS_URL: expected an address"),
        ({"HEADWAY_JWKS_ALGORITHM": "HS256"}, "HEADWAY_JWKS_ALGORITHM: Invalid enum value 'HS256'"),
        ({"HEADWAY_TICKET_KEY_OLD": "short"}, "HEADWAY_TICKET_KEY_OLD: Expected `str"),
        *(
            ({"HEADWAY_PUBLIC_URL": wrong}, "HEADWAY_PUBLIC_URL: expected an address like https://progress.example.org")
            for wrong in ("progress", "javascript:x", "https://u:short@a", "https://a/b", "https://a b", "//a")
        ),
        ({"HEADWAY_ORIGINS": "*"}, "HEADWAY_ORIGINS: * is not an origin"),
        ({"HEADWAY_OWNER_VIEWERS": "0"}, "HEADWAY_OWNER_VIEWERS: Expected `int` >= 1"),
        ({"HEADWAY_OWNER_CONCURRENCY": "0"}, "HEADWAY_OWNER_CONCURRENCY: Expected `int` >= 1"),
        *(
            ({"HEADWAY_LIMITS": f"a=1,{wrong}"}, f"HEADWAY_LIMITS: {wrong} is not a kind with how many")
            for wrong in ("b", "b=", "b=@", "=1", "b=0", "b=@0", "b=@0.0", "b=-1", "b=1.5", "b=1@x", "b=1@2@3", "b c=1")
        ),
        ({"HEADWAY_LIMITS": "a=1,b=2,a=@3"}, "HEADWAY_LIMITS: a is there twice"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(GOOD | change)
    assert sentence in str(raised.value)
    assert "short" not in str(raised.value)


def test_tokens_are_checked_by_a_secret_or_by_public_keys() -> None:
    settings = load_settings(GOOD | {"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": KEYS_URL})
    assert (settings.secret, settings.jwks_url, settings.jwks_algorithm) == (None, KEYS_URL, "RS256")
    for url in ("http://127.0.0.1:8080/keys?tenant=7", "HTTPS://login.example.org", "http://[::1]:80/keys"):
        assert load_settings(GOOD | {"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": url}).jwks_url == url


def test_origins_are_read_as_browsers_send_them() -> None:
    listed = "https://app.example.org, http://localhost:3000,http://[::1]:3000,"
    expected = {b"https://app.example.org", b"http://localhost:3000", b"http://[::1]:3000"}
    assert read_origins(load_settings(GOOD | {"HEADWAY_ORIGINS": listed})) == expected
    assert read_origins(load_settings(GOOD)) == frozenset()


def test_limits_of_kinds_are_how_many_run_at_once_and_how_many_start_in_a_second() -> None:
    assert load_settings(GOOD).owner_concurrency is None
    settings = load_settings(GOOD | {"HEADWAY_LIMITS": "photos.inventory=4, mail.send=2@10,report=@0.5,"})
    assert read_limits(settings) == {
        "photos.inventory": Limit(4, None),
        "mail.send": Limit(2, 10),
        "report": Limit(None, 0.5),
    }


def test_a_limit_that_is_set_takes_the_place_of_what_the_kind_says_itself() -> None:
    def kind(name: str, concurrency: int | None = None, rate: float | None = None) -> Kind:
        return Kind(name=name, title=name, params=Struct, concurrency=concurrency, rate=rate)

    settings = load_settings(GOOD | {"HEADWAY_LIMITS": "more=@10,other=4@8,unknown=1"})
    kinds = [kind("plain"), kind("own", 1, 2), kind("more", 3), kind("other", 1, 2)]
    assert limits_of(kinds, settings) == {"own": Limit(1, 2), "more": Limit(3, 10), "other": Limit(4, 8)}


def test_secrets_do_not_show_in_the_settings_repr() -> None:
    assert "ssss" not in repr(load_settings(GOOD))
    assert len(Settings.__struct_fields__) < 50, "settings fit on one screen"


WRONG = ["", "x", "Buck/a", "buck//a", "buck/a//b", "buck/../a", "key:secret@buck/a", "buck/a b", "buck/ä", "buck?x=y"]


def test_files_are_in_a_directory_or_in_a_bucket() -> None:
    for text, place in {
        "files/up": Path("files/up"),
        "/s3/files": Path("/s3/files"),
        "s3://bucket": Bucket("bucket"),
        "s3://bucket/": Bucket("bucket"),
        "s3://my.bucket-1/a/b_c/": Bucket("my.bucket-1", "a/b_c"),
    }.items():
        assert load_settings(GOOD | {"HEADWAY_UPLOADS": text}).uploads == place
        assert load_settings(GOOD | {"HEADWAY_UPLOADS": str(place)}).uploads == place, "as it is printed"


@pytest.mark.parametrize("text", [*(f"s3://{place}" for place in WRONG), "https://b.example.org/a", "file:///var"])
def test_other_places_for_files_are_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^HEADWAY_UPLOADS: expected a directory or s3://bucket/prefix") as refusal:
        load_settings(GOOD | {"HEADWAY_UPLOADS": text})
    assert "secret@" not in str(refusal.value)
