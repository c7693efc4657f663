"""Which listeners are installed."""

from importlib.metadata import EntryPoint

import pytest

from services.worker.listeners import load_listeners
from shared.kinds.plugin import PluginError
from tests.support.batches import make_batch


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_module:f", "cannot be loaded: ModuleNotFoundError"),
        ("tests.support.batches:NOT_THERE", "cannot be loaded: AttributeError"),
        ("tests.support.batches:OWNER", "cannot be called"),
    ],
)
def test_a_listener_that_is_none_ends_the_start(value: str, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        load_listeners([EntryPoint("shop", value, "headway.listeners")])


def test_names_of_listeners_are_unique_and_short() -> None:
    point = EntryPoint("shop", "tests.support.batches:make_batch", "headway.listeners")
    assert load_listeners([point]) == {"shop": make_batch}
    with pytest.raises(PluginError, match="already"):
        load_listeners([point, point])
    with pytest.raises(PluginError, match="200"):
        load_listeners([EntryPoint("x" * 201, point.value, point.group)])
