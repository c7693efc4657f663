"""A wrong setting stops the start with a sentence that names it."""

from pathlib import Path

import pytest

from shared.settings import Settings, SettingsError, load_settings

GOOD = {
    "DATABASE_URL": "postgresql://localhost/headway",
    "REDIS_URL": "redis://localhost",
    "HEADWAY_SECRET": "s" * 32,
    "HEADWAY_TICKET_KEY": "t" * 32,
}


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
    ],
)
def test_a_wrong_value_is_named(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(GOOD | change)
    assert sentence in str(raised.value)
    assert "short" not in str(raised.value)


def test_secrets_do_not_show_in_the_settings_repr() -> None:
    assert "ssss" not in repr(load_settings(GOOD))
    assert len(Settings.__struct_fields__) < 45, "settings fit on one screen"
