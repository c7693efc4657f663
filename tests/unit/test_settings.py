"""A wrong setting stops the start with a sentence that names it."""

from pathlib import Path

import pytest

from shared.settings import Settings, SettingsError, load_settings, read_origins

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


def test_empty_means_unset() -> None:
    assert load_settings(GOOD | {"HEADWAY_PORT": ""}).port == 8000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"HEADWAY_SECRET": "short"}, "HEADWAY_SECRET: Expected `str` of length >= 32"),
        ({"HEADWAY_PORT": "80a"}, "HEADWAY_PORT: Expected `int`"),
        ({"HEADWAY_PORT": "0"}, "HEADWAY_PORT: Expected `int` >= 1"),
        ({"HEADWAY_LEASE": "-1"}, "HEADWAY_LEASE: Expected `float` >= 1"),
        ({"HEADWAY_REHEARSAL": "perhaps"}, "HEADWAY_REHEARSAL: Invalid enum value 'perhaps'"),
        ({"HEADWAY_THREDS": "4"}, "HEADWAY_THREDS: there is no such setting"),
        ({"HEADWAY_VIEWERS": "0"}, "HEADWAY_VIEWERS: Expected `int` >= 1"),
        ({"HEADWAY_PROXIES": "10.0.0.0/8, balancer"}, "HEADWAY_PROXIES: expected addresses and networks like"),
        ({"HEADWAY_PROXIES": "10.0.0.1/8"}, "HEADWAY_PROXIES: expected addresses and networks like"),
        ({"HEADWAY_SECRET": ""}, "HEADWAY_SECRET is not set, nor is HEADWAY_JWKS_URL"),
        ({"HEADWAY_JWKS_URL": KEYS_URL}, "HEADWAY_SECRET and HEADWAY_JWKS_URL are both set"),
        ({"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": "file:///etc/passwd"}, "HEADWAY_JWKS_URL: expected an address"),
        ({"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": "login.example.org"}, "HEADWAY_JWKS_URL: expected an address"),
        ({"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": "http://a:99999/"}, "HEADWAY_JWKS_URL: expected an address"),
        ({"HEADWAY_SECRET": "", "HEADWAY_JWKS_URL": "http://u:short@a/"}, "HEADWAY_JWKS_URL: expected an address"),
        ({"HEADWAY_JWKS_ALGORITHM": "HS256"}, "HEADWAY_JWKS_ALGORITHM: Invalid enum value 'HS256'"),
        ({"HEADWAY_TICKET_KEY_OLD": "short"}, "HEADWAY_TICKET_KEY_OLD: Expected `str"),
        ({"HEADWAY_ORIGINS": "*"}, "HEADWAY_ORIGINS: * is not an origin"),
        ({"HEADWAY_OWNER_VIEWERS": "0"}, "HEADWAY_OWNER_VIEWERS: Expected `int` >= 1"),
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


def test_secrets_do_not_show_in_the_settings_repr() -> None:
    assert "ssss" not in repr(load_settings(GOOD))
    assert len(Settings.__struct_fields__) < 45, "settings fit on one screen"
