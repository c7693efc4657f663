"""The `headway` command, where it needs no server."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from infra.cli.errors import CliError
from infra.cli.stack import DEFAULT_PORT, choose_port
from infra.cli.submit import _named, _parameters
from infra.cli.target import find_api, own_tokens
from infra.cli.token import seconds
from infra.cli.watch import batch_id_of
from infra.embedded.errors import EmbeddedError
from infra.home import Home, HomeError, Running
from tests.support.running import headway

SECRET = "a secret for tests, of 32 bytes or more"  # noqa: S105  # it protects nothing


@pytest.fixture(autouse=True)
def _nothing_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HEADWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))


def test_every_command_has_help_without_loading_a_service() -> None:
    commands = ("run", "api", "worker", "stream", "migrate", "token", "submit", "watch", "smoke", "logs", "timeline")
    commands += ("add", "pause", "resume", "close", "cancel", "retry", "delete", "workers")
    program = (
        "import sys; from typer.testing import CliRunner; from infra.cli.main import app\n"
        f"for name in {commands}: assert CliRunner().invoke(app, [name, '--help']).exit_code == 0, name\n"
        "print(sorted({'litestar', 'sqlalchemy', 'dramatiq', 'alembic', 'jwt', 'redis', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


def test_token_prints_a_token_and_nothing_else(tmp_path: Path) -> None:
    done = headway(tmp_path, "token", "anna", "--scope", "read write", "--ttl", "2h", HEADWAY_SECRET=SECRET)
    (line,) = done.stdout.splitlines()
    claims = jwt.decode(line, SECRET, algorithms=["HS256"], audience="headway", issuer="headway")
    assert (claims["sub"], claims["scope"]) == ("anna", "read write")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("anna",), "There is no secret"),
        (("",), "must not be empty"),
        (("anna", "--scope", "everything"), "no scope everything"),
        (("anna", "--ttl", "soon"), "not a duration"),
    ],
)
def test_token_says_what_is_wrong(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = headway(tmp_path, "token", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_nobody_makes_tokens_where_they_are_issued_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://login.example.org/keys"
    home = Home(tmp_path)
    home.enter()
    assert list(home.make_keys({"HEADWAY_JWKS_URL": url})) == ["HEADWAY_TICKET_KEY"]
    home.make_keys({})  # of an earlier start, with a secret of its own
    home.leave()
    done = headway(tmp_path, "token", "anna", HEADWAY_JWKS_URL=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "tokens are issued elsewhere" in done.stderr
    monkeypatch.setenv("HEADWAY_JWKS_URL", url)
    with pytest.raises(CliError, match="issued elsewhere"):
        own_tokens(home, "anna")


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0s", "-1h", "1", "h", "1w", "1h ", "1.5h", "9999999999s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(CliError, match="not a duration"):
        seconds(text)


def test_without_a_headway_it_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CliError, match=r"does not run in .*headway run"):
        find_api(None, None)
    with pytest.raises(CliError, match=r"A token for https://example\.test is needed"):
        find_api("https://example.test", None)
    with pytest.raises(CliError, match="not an address"):
        find_api("example", "token")
    monkeypatch.setenv("HEADWAY_URL", "https://example.test/")
    monkeypatch.setenv("HEADWAY_TOKEN", "a token")
    with find_api(None, None) as api:
        assert (api.address, api.headers()) == ("https://example.test", {"Authorization": "Bearer a token"})


def test_a_token_made_here_goes_nowhere_else(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.enter()
    home.make_keys({})
    home.write_run(Running("http://127.0.0.1:8000", "postgresql:///", "redis:///", {}))
    with find_api(None, None) as api:
        assert api.address == "http://127.0.0.1:8000"
        assert api.headers()["Authorization"].startswith("Bearer ey")
    with pytest.raises(CliError, match="A token for"):
        find_api("https://example.test", None)
    home.leave()
    with pytest.raises(CliError, match="does not run"):
        find_api(None, None)


def test_home_belongs_to_one_and_keeps_its_keys(tmp_path: Path) -> None:
    first, second = Home(tmp_path / "home"), Home(tmp_path / "home")
    first.enter()
    with pytest.raises(HomeError, match="already"):
        second.enter()
    keys = first.make_keys({})
    assert all(len(key) >= 32 for key in keys.values())
    assert len(set(keys.values())) == 2
    assert first.make_keys({}) == keys
    assert first.make_keys({"HEADWAY_SECRET": SECRET})["HEADWAY_SECRET"] == SECRET
    first.leave()
    second.enter()
    assert second.make_keys({}) == keys
    second.leave()


def test_what_a_killed_run_left_does_not_count(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.enter()
    home.write_run(Running("http://127.0.0.1:8000", "", "", {"web": [1]}))
    assert home.running() is not None
    os.link(tmp_path / "home" / "run.json", tmp_path / "copy")
    home.leave()
    os.rename(tmp_path / "copy", tmp_path / "home" / "run.json")  # noqa: PTH104
    assert home.running() is None
    home.enter()
    assert not (tmp_path / "home" / "run.json").exists()
    home.leave()


def test_run_json_is_as_the_protocol_has_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.enter()
    home.write_run(Running("http://127.0.0.1:1", "postgresql://x", "redis://x", {"web": [1], "worker": [2, 3]}))
    assert json.loads((tmp_path / "home" / "run.json").read_text()) == {
        "address": "http://127.0.0.1:1",
        "databaseUrl": "postgresql://x",
        "redisUrl": "redis://x",
        "pids": {"web": [1], "worker": [2, 3]},
    }
    home.leave()


def test_the_usual_port_is_taken_if_it_is_free_and_another_if_not() -> None:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", DEFAULT_PORT)):
        assert choose_port({}) != DEFAULT_PORT
    assert choose_port({"HEADWAY_PORT": ""}) in (DEFAULT_PORT, *range(20_000, 32_768))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"Port {port} "):
            choose_port({"HEADWAY_PORT": str(port)})


def test_parameters_are_an_object_or_a_list_of_them() -> None:
    assert _parameters(None, has_files=True) == [{}]
    assert _parameters('{"steps": 1}', has_files=False) == [{"steps": 1}]
    assert _parameters("[{}, {}]", has_files=False) == [{}, {}]
    for text in ("{", "1", "[]", "[1]"):
        with pytest.raises(CliError):
            _parameters(text, has_files=False)
    with pytest.raises(CliError, match="one object"):
        _parameters("[{}, {}]", has_files=True)


def test_jobs_get_names_that_tell_them_apart() -> None:
    assert [job["name"] for job in _named([{"name": "", "params": {}}], 2)] == ["job 1", "job 2"]
    two = [{"name": "a.jpg", "params": {}}, {"name": "b.jpg", "params": {}}]
    assert [job["name"] for job in _named(two, 1)] == ["a.jpg", "b.jpg"]
    assert [job["name"] for job in _named(two, 2)] == ["a.jpg (1)", "b.jpg (1)", "a.jpg (2)", "b.jpg (2)"]


def test_a_batch_is_named_by_its_id_or_by_its_page() -> None:
    batch_id = "01a1fc82-01a4-7517-9b80-cd8d30c00e94"
    assert batch_id_of(batch_id) == batch_id_of(f"http://127.0.0.1:8000/batches/{batch_id}#ticket=ey.x/y.z") == batch_id
    with pytest.raises(CliError, match="not a batch's id"):
        batch_id_of("salon")


def test_a_file_that_is_not_there_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = headway(tmp_path, "submit", "photos.inventory", "missing.jpg", "--url", url, "--token", "x")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert done.returncode == 2
    assert "missing.jpg cannot be read" in done.stderr


def test_what_cannot_be_meant_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    many, batch_id = json.dumps([{}] * 101), "01a1fc82-01a4-7517-9b80-cd8d30c00e94"
    for words, arguments in {
        "nope is not a worker's id; `headway workers` shows them": ("workers", "drain", "nope"),
        "nope is not a batch's id": ("add", "nope"),
        "10100 jobs are more than the 10000": ("add", batch_id, "--params", many, "--jobs", "100"),
        "--priority": ("submit", "rehearsal", "--priority", "101"),
        "--concurrency": ("submit", "rehearsal", "--concurrency", "0"),
    }.items():
        done = headway(tmp_path, *arguments, NO_COLOR="1")
        assert (done.returncode, done.stdout) == (2, ""), words
        assert words in done.stderr


def test_a_server_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = headway(tmp_path, "submit", "rehearsal", "--url", url, "--token", "x")
    assert done.returncode == 2
    assert done.stderr.startswith(f"headway: {url} does not answer")
    assert done.stderr.count("\n") == 1
