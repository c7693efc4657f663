"""infra/gateway/traefik: what can be seen without running it, which docs/deployment.md says was done by hand."""

from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "infra" / "gateway" / "traefik"
HTTP: dict[str, Any] = yaml.safe_load((FOLDER / "headway.yml").read_text())["http"]
LIMITS = {"headway-open", "headway-often"}


@pytest.mark.parametrize("name", HTTP["routers"])
def test_refers_to_what_is_there(name: str) -> None:
    router = HTTP["routers"][name]
    assert set(router["middlewares"]) <= HTTP["middlewares"].keys()
    assert router["service"] in HTTP["services"]


def test_a_limit_that_is_reached_does_not_end_an_eventsource() -> None:
    """Middlewares see the replies of those after them."""
    order = HTTP["routers"]["headway-events"]["middlewares"]
    turned = order.index("headway-as-events")
    assert set(order[turned:]) >= LIMITS
    assert "429" in HTTP["middlewares"]["headway-as-events"]["errors"]["status"]


def test_limits_are_by_address() -> None:
    assert HTTP["middlewares"]["headway-open"]["inFlightReq"]["sourceCriterion"] == {"ipStrategy": {"depth": 0}}
    # whose own default is the address
    assert "sourceCriterion" not in HTTP["middlewares"]["headway-often"]["rateLimit"]
