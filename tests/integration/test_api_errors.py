"""Everything that is wrong with a request, over HTTP: the status, the code, and every wrong field."""

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from services.api.app import create_app
from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.web import assert_problem, client, decoded, rehearsal, served, submit, wrong_paths

JSON = {"Content-Type": "application/json"}
ID = str(uuid4())


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


GOOD = rehearsal(2)
JOB = {"name": "a", "params": {}}

WRONG_FIELDS: list[tuple[Any, list[str]]] = [
    ({}, ["kind", "title", "jobs"]),
    ([], [""]),
    (None, [""]),
    (GOOD | {"kind": "nonsense"}, ["kind"]),
    (GOOD | {"kind": 7, "jobs": []}, ["kind", "jobs"]),
    (GOOD | {"jobs": [JOB] * 10_001}, ["jobs"]),
    (GOOD | {"title": "x" * 201}, ["title"]),
    (GOOD | {"title": "a\0b"}, ["title"]),
    (GOOD | {"priority": 101, "concurrency": 0}, ["priority", "concurrency"]),
    (GOOD | {"priority": -101, "concurrency": 2**31}, ["priority", "concurrency"]),
    (GOOD | {"priority": "0", "concurrency": 1.5}, ["priority", "concurrency"]),
    (GOOD | {"priority": 10**100, "concurrency": True}, ["priority", "concurrency"]),
    (GOOD | {"metadata": None, "owner": "x", "Kind": "x"}, ["metadata", "owner", "Kind"]),
    (GOOD | {"metadata": {"a": {"b": ["\0"]}}}, ["metadata.a.b[0]"]),
    (GOOD | {"metadata": {"\0": 1}}, ["metadata"]),
    (GOOD | {"metadata": {"a": nested(100)}}, ["metadata.a" + "[0]" * 63]),
    (GOOD | {"metadata": {"a": "x" * 16 * 1024}}, ["metadata"]),
    (GOOD | {"jobs": [{}, {"name": "a"}, JOB, {"params": {}}]}, [
        "jobs[0].name", "jobs[0].params", "jobs[1].params", "jobs[3].name",
    ]),
    (GOOD | {"jobs": [{"name": "x" * 201, "params": {}}, {"name": "\0", "params": []}]}, [
        "jobs[0].name", "jobs[1].params",
    ]),
    (GOOD | {"jobs": [{"name": "\0", "params": {}}, JOB | {"id": 1}]}, ["jobs[1].id", "jobs[0].name"]),
    (GOOD | {"jobs": [{"name": "a", "params": {"steps": 0, "stepMs": "1", "speed": 3}}, JOB, 7]}, [
        "jobs[2]", "jobs[0].params.steps", "jobs[0].params.stepMs", "jobs[0].params.speed",
    ]),
    (GOOD | {"jobs": [JOB, {"name": "a", "params": {"failure": "boom", "failAtStep": 0}}]}, [
        "jobs[1].params.failAtStep", "jobs[1].params.failure",
    ]),
    (GOOD | {"jobs": [{"name": "a", "params": {"a": "x" * 64 * 1024}}]}, ["jobs[0].params"]),
    (GOOD | {"jobs": [{"name": "a", "params": {"failure": "fatal\0"}}]}, ["jobs[0].params.failure"]),
    (GOOD | {"kind": "photos.inventory", "jobs": [{"name": "a", "params": {"uploadId": "x"}}, JOB]}, [
        "jobs[0].params.uploadId", "jobs[1].params.uploadId",
    ]),
]  # fmt: skip


def test_every_wrong_field_is_named(anna: httpx.Client) -> None:
    for body, paths in WRONG_FIELDS:
        found = wrong_paths(anna.post("/api/batches", content=json.dumps(body), headers=JSON))
        assert (str(body)[:200], found) == (str(body)[:200], paths)
    assert decoded(anna.get("/api/batches"))["items"] == []


def test_the_one_character_that_cannot_be_stored_is_named(anna: httpx.Client) -> None:
    body = GOOD | {"title": "a\0b", "jobs": [JOB, JOB | {"name": "\0"}, JOB | {"name": "c\r\n\u2028"}]}
    said = assert_problem(anna.post("/api/batches", json=body), 422, "invalid")
    told = "must not contain the character NUL"
    wrong = [{"path": "title", "message": told}, {"path": "jobs[1].name", "message": told}]
    assert sorted(said["errors"], key=lambda error: error["path"]) == sorted(wrong, key=lambda error: error["path"])


def body_with(value: str) -> bytes:
    return b'{"kind": "rehearsal", "title": "t", "metadata": {"a": %b}, "jobs": [{"name": "a", "params": {}}]}' % (
        value.encode("utf-8", "surrogatepass")
    )


UNREADABLE = [
    b"",
    b"{",
    b"nothing",
    b"{}{}",
    b"\xff\xfe{}",
    b"[" * 100_000,
    body_with("NaN"),
    body_with("1e999"),
    body_with("-1e999"),
    body_with("1" * 5000),
    body_with('"\\ud800"'),
    body_with('"\\udc00x"'),
    body_with('"\ud800"'),
    body_with('"\0"'),
    body_with("'a'"),
]


def test_what_is_nested_too_deeply_is_refused(anna: httpx.Client) -> None:
    # whether it can be read at all is up to the interpreter's stack, which has grown with Python 3.12
    reply = anna.post("/api/batches", content=b"[" * 5000 + b"]" * 5000, headers=JSON)
    assert reply.status_code in (400, 422)
    assert_problem(reply, reply.status_code, "malformed" if reply.status_code == 400 else "invalid")


def test_what_is_no_json_is_malformed(anna: httpx.Client) -> None:
    for body in UNREADABLE:
        reply = anna.post("/api/batches", content=body, headers=JSON)
        assert (body[:200], reply.status_code) == (body[:200], 400)
        assert_problem(reply, 400, "malformed")


def test_nesting_is_refused_at_every_depth(anna: httpx.Client) -> None:
    """Wherever the stack ends, in the reader, the checker or the writer: never a 500."""
    for depth in range(50, 1100, 25):
        reply = anna.post("/api/batches", content=body_with("[" * depth + "]" * depth), headers=JSON)
        assert reply.status_code in ({201} if depth <= 63 else {400, 422}), depth


QUERIES = [
    ("/api/batches?limit=0&cursor=&x=1", ["limit", "x"]),
    ("/api/batches?limit=1001", ["limit"]),
    ("/api/batches?limit=ten&status=queued", ["limit", "status"]),
    ("/api/batches?limit=", ["limit"]),
    ("/api/batches?limit=5&limit=6", ["limit"]),
    ("/api/batches?q=%00", ["q"]),
    (f"/api/batches?q={'x' * 201}&kind={'y' * 201}", ["kind", "q"]),
    (f"/api/batches/{ID}?full=1&ticket=x", ["full", "ticket"]),
    (f"/api/batches/{ID}/jobs?status=PAUSED&page=2", ["page", "status"]),
    (f"/api/jobs/{ID}?x", ["x"]),
    ("/api/kinds?kind=rehearsal", ["kind"]),
]


def test_every_wrong_query_parameter_is_named(anna: httpx.Client) -> None:
    for path, names in QUERIES:
        assert (path, sorted(wrong_paths(anna.get(path)))) == (path, names)
    for path in ("/api/batches", f"/api/batches/{ID}/cancel", f"/api/batches/{ID}/tickets"):
        assert wrong_paths(anna.post(f"{path}?dry=1", json={})) == ["dry"]
    assert wrong_paths(anna.post("/api/uploads?x=1", files={"file": b"x"})) == ["x"]
    assert wrong_paths(anna.post(f"/api/batches/{ID}/cancel", json={"reason": "x"})) == ["reason"]
    assert_problem(anna.post(f"/api/batches/{ID}/tickets", content=b"{"), 400, "malformed")


def test_a_cursor_that_nobody_gave_out_is_malformed(anna: httpx.Client) -> None:
    for cursor in ("x", "é", "W10", "bnVsbA", "A" * 10_000):
        for path in ("/api/batches", "/api/kinds", f"/api/batches/{submit(anna)['batchId']}/jobs"):
            assert_problem(anna.get(path, params={"cursor": cursor}), 400, "malformed")


TYPE = "unsupported_media_type"

OTHERS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("PUT", "/api/batches", {}, 405, "method_not_allowed"),
    ("DELETE", "/api/kinds", {}, 405, "method_not_allowed"),
    ("GET", "/api/uploads", {}, 405, "method_not_allowed"),
    ("GET", f"/api/batches/{ID}/cancel", {}, 405, "method_not_allowed"),
    ("POST", "/health/live", {}, 405, "method_not_allowed"),
    ("GET", "/api/nonsense", {}, 404, "not_found"),
    ("GET", "/api/batches/not-an-id", {}, 404, "not_found"),
    ("GET", "/api", {}, 404, "not_found"),
    ("GET", "/nonsense", {}, 404, "not_found"),
    ("POST", "/api/batches", {"content": b"{}"}, 415, TYPE),
    ("POST", "/api/batches", {"data": {"kind": "x"}}, 415, TYPE),
    ("POST", "/api/batches", {"json": {}, "headers": {"Content-Type": "text/json"}}, 415, TYPE),
    ("POST", "/api/batches", {"json": {}, "headers": {"Content-Encoding": "gzip"}}, 415, TYPE),
    ("POST", "/api/batches", {"json": {}, "headers": {"Content-Type": "application/json; charset=utf-16"}}, 415, TYPE),
    ("POST", "/api/uploads", {"json": {}}, 415, TYPE),
    ("GET", "/api/batches", {"headers": {"Host": "a b"}}, 400, "malformed"),
]  # fmt: skip


def test_every_refusal_is_a_problem(anna: httpx.Client) -> None:
    for method, path, arguments, status, code in OTHERS:
        reply = anna.request(method, path, **arguments)
        assert (path, reply.status_code) == (path, status), reply.text
        assert_problem(reply, status, code)
        assert ("allow" in reply.headers) == (status == 405)


EVERYTHING = [
    ("GET", "/api/batches"),
    ("GET", "/api/batches?nonsense=1"),
    ("POST", "/api/batches"),
    ("DELETE", "/api/batches"),
    ("GET", f"/api/batches/{ID}"),
    ("GET", "/api/batches/not-an-id"),
    ("GET", f"/api/batches/{ID}/jobs"),
    ("POST", f"/api/batches/{ID}/cancel"),
    ("POST", f"/api/batches/{ID}/tickets"),
    ("GET", f"/api/jobs/{ID}"),
    ("GET", "/api/kinds"),
    ("POST", "/api/uploads"),
    ("GET", "/api/nonsense"),
]


def test_a_stranger_gets_401_before_anything_else(address: str, settings: Settings) -> None:
    claims = {"sub": OWNER, "iss": "headway", "aud": "headway", "exp": time.time() + 60}
    key = settings.secret
    credentials = [
        None,
        "",
        "Bearer",
        f"Basic {issue_token(settings, OWNER)}",
        "Bearer x.y.z",
        "Bearer " + "x" * 9000,
        f"Bearer {issue_token(settings, OWNER, ttl=-1)}",
        f"Bearer {jwt.encode(claims, 'another secret, of 32 bytes or more', algorithm='HS256')}",
        f"Bearer {jwt.encode(claims, key * 2, algorithm='HS512')}",
        f"Bearer {jwt.encode(claims, None, algorithm='none')}",
        f"Bearer {jwt.encode(claims | {'aud': 'another'}, key, algorithm='HS256')}",
        f"Bearer {jwt.encode(claims | {'iss': 'another'}, key, algorithm='HS256')}",
        f"Bearer {jwt.encode(claims | {'sub': 'x' * 256}, key, algorithm='HS256')}",
        f"Bearer {jwt.encode(claims | {'sub': ''}, key, algorithm='HS256')}",
        f"Bearer {jwt.encode(claims | {'sub': 'a' + chr(0)}, key, algorithm='HS256')}",
        f"Bearer {jwt.encode(claims | {'sub': chr(0xD800)}, key, algorithm='HS256')}",
        f"Bearer {jwt.encode({k: v for k, v in claims.items() if k != 'exp'}, key, algorithm='HS256')}",
    ]
    with httpx.Client(base_url=address, trust_env=False) as stranger:
        for credential in credentials:
            headers = {} if credential is None else {"Authorization": credential}
            for method, path in EVERYTHING:
                reply = stranger.request(method, path, headers=headers, content=b"{" if method == "POST" else None)
                assert (method, path, credential, reply.status_code) == (method, path, credential, 401)
                assert_problem(reply, 401, "unauthenticated")
                assert reply.headers["www-authenticate"] == "Bearer"
        assert stranger.get("/health/live").status_code == 200


def test_scopes(address: str, settings: Settings) -> None:
    with client(address, settings) as anna:
        batch_id = submit(anna)["batchId"]
    reading = [("GET", "/api/batches"), ("GET", f"/api/batches/{batch_id}"), ("GET", "/api/kinds")]
    writing = [("POST", "/api/batches"), ("POST", "/api/uploads"), ("POST", f"/api/batches/{batch_id}/cancel")]
    allowed = {"read": reading, "write": writing, "read write": reading + writing, "admin": reading + writing}
    for scope in ("", "report", "read", "write", "read write", "admin"):
        with client(address, settings, scope=scope) as holder:
            for method, path in reading + writing:
                reply = holder.request(method, path)
                if (method, path) in allowed.get(scope, []):
                    assert reply.status_code in {200, 202, 415}, (scope, path, reply.text)
                else:
                    assert_problem(reply, 403, "forbidden")


def test_a_body_is_refused_as_soon_as_it_is_too_long(address: str, anna: httpx.Client, settings: Settings) -> None:
    """With a length that is announced; and without one, before all of it was sent."""
    reply = anna.post("/api/batches", content=b"x" * (settings.max_request + 1), headers=JSON)
    assert_problem(reply, 413, "too_large")
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 2**20
            yield b" " * 2**20

    reply = anna.post("/api/batches", content=endless(), headers=JSON)
    assert_problem(reply, 413, "too_large")
    # what is as long as it may be is read
    body = json.dumps(rehearsal()).encode()
    reply = anna.post("/api/batches", content=body + b" " * (settings.max_request - len(body)), headers=JSON)
    assert reply.status_code == 201
