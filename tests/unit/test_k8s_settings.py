"""infra/k8s: settings of its pods, against the code, both ways."""

import re

import pytest

from shared.settings import COMMAND_ONLY, REQUIRED, load_settings, variables
from tests.support.manifests import FOLDER, OVERLAYS, Object, component, given, name_of, ours, overlay, secrets

by_overlay = pytest.mark.parametrize("name", OVERLAYS)

SECRET = {
    "DATABASE_URL": "postgresql://headway:x@headway-postgres/headway",
    "REDIS_URL": "redis://:x@headway-redis",
    "HEADWAY_SECRET": "s" * 32,
    "HEADWAY_TICKET_KEY": "t" * 32,
    "HEADWAY_TICKET_KEY_OLD": "o" * 32,
    "BROKER_URL": "redis://:x@headway-redis/1",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
}
"""Something for each key of a Secret."""

KEYS = ("HEADWAY_SECRET", "HEADWAY_TICKET_KEY", "HEADWAY_TICKET_KEY_OLD")

DEFAULT = frozenset(
    re.findall(r"HEADWAY_[A-Z_]+", (FOLDER / "base" / "settings.env").read_text().partition("Left at")[2])
)
"""Settings that the base leaves alone."""


def environment(name: str, controller: Object, *, optional: bool) -> dict[str, str]:
    """What its container gets, with or without what a Secret may leave out."""
    left_out = set() if optional else {key for _, key, may in secrets(controller) if may}
    found = given(overlay(name), controller)
    return {key: SECRET[key] if value is None else value for key, value in found.items() if key not in left_out}


@by_overlay
def test_every_service_starts_with_them(name: str) -> None:
    for each in ours(overlay(name)):
        everything = environment(name, each, optional=True)
        keys = component(each) != "worker"
        settings = load_settings(everything, keys=keys)
        given_keys = (settings.secret, settings.ticket_key, settings.ticket_key_old)
        all_keys = tuple(SECRET[key] for key in KEYS)
        assert given_keys == (all_keys if keys else (None, "", None)), name_of(each)
        least = environment(name, each, optional=False)
        load_settings(least | {"HEADWAY_JWKS_URL": "https://login.example.org/keys"}, keys=keys)


@by_overlay
def test_variables_are_settings_or_known_to_a_library(name: str) -> None:
    for each in ours(overlay(name)):
        for variable in given(overlay(name), each):
            assert variable in variables() - COMMAND_ONLY or variable.startswith(("AWS_", "OTEL_")), variable


@by_overlay
def test_every_setting_is_set_or_left_on_purpose(name: str) -> None:
    found = {variable for each in ours(overlay(name)) for variable in given(overlay(name), each)}

    assert variables() - COMMAND_ONLY - found == DEFAULT - found
    for alternatives in REQUIRED:
        assert found & set(alternatives)


@by_overlay
def test_what_has_to_be_equal_is(name: str) -> None:
    """All services share the settings but for those of their own."""
    own = {"worker": {"HEADWAY_WORKER_PORT", "HEADWAY_DRAIN_GRACE"}}
    shared: dict[str, str | None] = {}
    for each in ours(overlay(name)):
        for variable, value in given(overlay(name), each).items():
            if variable not in own.get(component(each), set()):
                assert shared.setdefault(variable, value) == value, f"{variable} of {name_of(each)}"
