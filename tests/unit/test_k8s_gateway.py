"""infra/k8s: the way in by the Gateway API, and what Envoy Gateway adds to it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from shared.errors import all_errors
from tests.support.manifests import Object, combine, name_of, of_kind, overlay
from tests.support.sse import Parser
from tests.support.ticketed import ID

BATCH = f"/api/batches/{ID}"
EVENTS = (f"{BATCH}/stream", "/api/stream")
READERS = (f"{BATCH}/changes", "/api/ws")

Rule = dict[str, Any]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Object]:
    """With Envoy Gateway, by kind and name."""
    found = combine(tmp_path_factory.mktemp("gateway") / "one", ["envoy-gateway"])
    return {name_of(each): each for each in found}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Object]:
    found = combine(tmp_path_factory.mktemp("gateway") / "one", ["gateway-api"])
    return {name_of(each): each for each in found}


def matches(objects: dict[str, Object]) -> Iterator[tuple[str, Rule, Rule]]:
    """(name of the route, match, rule) of all routes behind TLS."""
    for each in objects.values():
        if each["kind"] == "HTTPRoute" and each["spec"]["parentRefs"][0]["sectionName"] == "https":
            for rule in each["spec"]["rules"]:
                for match in rule["matches"]:
                    yield each["metadata"]["name"], match, rule


def taken(objects: dict[str, Object], path: str, method: str = "GET", accept: str = "") -> tuple[str, Rule]:
    """The route and its rule, as Envoy Gateway orders them: regular expressions before prefixes, longer ones first, of
    equal ones the one that wants more.
    """
    found = []
    for name, match, rule in matches(objects):
        kind, value = match["path"]["type"], match["path"]["value"]
        regular = kind == "RegularExpression"
        headers = [each["value"] for each in match.get("headers", [])]
        if (
            (re.fullmatch(value, path) if regular else path.startswith(value.rstrip("/")))
            and match.get("method", method) == method
            and all(accept and re.fullmatch(header, accept) for header in headers)
        ):
            found.append((regular, len(value), ("method" in match) + len(headers), name, rule))
    *_, name, rule = max(found, key=lambda each: each[:3])
    return name, rule


def to(rule: Rule) -> str:
    (backend,) = rule["backendRefs"]
    return str(backend["name"])


@pytest.mark.parametrize("slash", ["", "/"])
def test_paths_lead_where_they_do_with_the_other_gateways(plain: dict[str, Object], slash: str) -> None:
    for path in (*EVENTS, *READERS):
        _, rule = taken(plain, path + slash)
        assert to(rule) == "headway-stream"
        assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    for path in ("/metrics", "/health/ready"):
        assert to(taken(plain, path + slash)[1]) == "headway-away"
    for path in (BATCH, f"{BATCH}/logs", f"{BATCH}/streams", "/api/streams", "/api/jobs", "/health/live"):
        assert to(taken(plain, path + slash)[1]) == "headway-api"
    ports = {each["metadata"]["name"]: each["spec"]["ports"][0]["port"] for each in of_kind(overlay("dev"), "Service")}
    for _, _, rule in matches(plain):
        assert rule["backendRefs"][0]["port"] == ports[to(rule)]
    (redirect,) = plain["HTTPRoute headway-redirect"]["spec"]["rules"]
    assert redirect["filters"][0]["type"] == "RequestRedirect"


@pytest.mark.parametrize("path", [each + slash for each in EVENTS for slash in ("", "/")])
def test_errors_become_events_for_those_who_would_take_one(objects: dict[str, Object], path: str) -> None:
    for accept in (
        "",
        "*/*",
        "text/*",
        "text/event-stream",
        "text/html, */*;q=0.1",
        "application/json,text/event-stream",
    ):
        for method in ("GET", "HEAD"):
            assert taken(objects, path, method, accept)[0] == "headway-events", accept
    for accept in ("application/json", "text/html;q=0.9, Application/Problem+JSON", "image/png,text/plain"):
        assert taken(objects, path, "GET", accept)[0] == "headway-statuses", accept
    assert taken(objects, path, "POST", "text/event-stream")[0] == "headway"
    for accept in ("", "application/json"):
        _, rule = taken(objects, path, "GET", accept)
        assert to(rule) == "headway-stream"
        assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def overrides(objects: dict[str, Object], name: str) -> dict[int, Object]:
    """By the status that they are for."""
    policy = objects[f"BackendTrafficPolicy {name}"]["spec"]
    return {
        code["value"]: {"source": each.get("source", "All"), **each["response"]}
        for each in policy["responseOverride"]
        for code in each["match"]["statusCodes"]
    }


def test_an_eventsource_is_told_to_come_back(objects: dict[str, Object]) -> None:
    found = overrides(objects, "headway-events")
    assert found.keys() == {429, 502, 503, 504}
    for status, response in found.items():
        assert (response["source"], response["statusCode"], response["contentType"]) == (
            "All",
            200,
            "text/event-stream",
        )
        body = response["body"]["inline"]
        assert re.findall("%.*%", body) == ["%START_TIME(4%3f)%"]  # Envoy puts in the thousandths of a second
        parser = Parser()
        (event,) = parser.feed(body.replace("%START_TIME(4%3f)%", "4321").encode())
        assert event.name == "error"
        assert event.data["code"] == ("too_many_connections" if status == 429 else "overloaded")
        assert event.data["retryable"] is True
        assert parser.retry == [4321]
        headers = {each["name"]: each["value"] for each in response["header"]["set"]}
        assert headers["Access-Control-Allow-Origin"] == "%REQ(ORIGIN)%"
        assert headers["Access-Control-Allow-Credentials"] == "true"
        assert headers["Vary"] == "Origin"
        assert headers["Cache-Control"] == "no-cache, no-transform"


def test_others_get_a_problem_and_what_services_say_passes(objects: dict[str, Object]) -> None:
    titles = {error.code: error for error in all_errors()}
    for status, response in overrides(objects, "headway").items():
        told = json.loads(response["body"]["inline"])
        assert response["source"] == "Local"
        assert response.get("statusCode", status) == told["status"]
        error = titles[told["type"].removeprefix("/problems/")]
        assert (error.title, error.status) == (told["title"], told["status"])
        assert int({each["name"]: each["value"] for each in response["header"]["set"]}["Retry-After"]) > 0


def test_policies_are_for_routes_that_there_are(objects: dict[str, Object]) -> None:
    targets = [
        f"{target['kind']} {target['name']}"
        for each in objects.values()
        if each["kind"] == "BackendTrafficPolicy"
        for target in each["spec"]["targetRefs"]
    ]
    routes = {name for name, each in objects.items() if each["kind"] == "HTTPRoute"} - {"HTTPRoute headway-redirect"}
    assert sorted(targets) == sorted(routes)
    for each in objects.values():
        if each["kind"] == "BackendTrafficPolicy":
            (limit,) = each["spec"]["rateLimit"]["local"]["rules"]
            assert limit["clientSelectors"] == [{"sourceCIDR": {"type": "Distinct", "value": "0.0.0.0/0"}}]


def test_the_access_log_holds_no_query(objects: dict[str, Object]) -> None:
    reference = objects["Gateway headway"]["spec"]["infrastructure"]["parametersRef"]
    proxy = objects[f"{reference['kind']} {reference['name']}"]
    assert proxy["apiVersion"].startswith(f"{reference['group']}/")
    (setting,) = proxy["spec"]["telemetry"]["accessLog"]["settings"]
    operators = set(re.findall("%[^%]+%", " ".join(setting["format"]["json"].values())))
    assert "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%" in operators
    assert {each for each in operators if each.startswith("%REQ(")} == {
        "%REQ(:AUTHORITY)%",
        "%REQ(:METHOD)%",
        "%REQ(USER-AGENT)%",
    }
    assert not {each for each in operators if re.search("PATH|REFERER|QUERY", each)} - {
        "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%"
    }
