"""The rules of `make check` catch what they are for, and this repository keeps them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from infra.ci import hygiene, notices, pins, rules, sizes, variables

ROOT = Path(__file__).resolve().parents[2]


def meant(line: str) -> str:
    """This file is checked too, so it writes what is refused with its dots and strokes in brackets."""
    return line.replace("[.]", ".").replace("[/]", "/")


HOME = meant("/home[/]alice")
HASH = "--hash=sha256:" + 64 * "a"


def require_git() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        if os.environ.get("CI"):
            pytest.fail("CI needs git and a clone of the repository")
        pytest.skip("no git, or not a clone")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    require_git()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)  # noqa: S607 - whichever git there is
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "index-url = https://pypi[.]org/simple",
        "see PyPI[.]org.",
        "https://files.pythonhosted[.]org/packages/x.whl",
        '"resolved": "https://registry[.]npmjs[.]org/x"',
        "https://registry[.]yarnpkg[.]com/x",
        "deb http://deb[.]debian.org/debian bookworm main",
        "GOPROXY=proxy[.]golang.org",
        "https://index.crates[.]io/",
        "https://repo1.maven[.]org/maven2",
        "cache: /home[/]alice/.cache",
        "file:///home[/]alice/x",
        "open('/root[/].ssh')",
        "/Users[/]alice/x",
        r"C:\Users[/]alice",
    ],
)
def test_addresses_of_indexes_and_paths_of_machines_are_refused(repository: Path, line: str) -> None:
    (repository / "notes.txt").write_text(f"fine\n{meant(line)}\n")

    (problem,) = hygiene.problems(repository)

    assert problem.startswith("notes.txt:2: ")


@pytest.mark.parametrize(
    "line",
    [
        "pypi and npm are words; so is maven",
        "/var/lib/postgresql/data /tmp/x /usr/bin/chromium /app /opt/headway",
        "GET /users/alice, https://example.org/home/alice, $BASE/home/alice, ~/home",
        "the root/ of the tree, /root cause, ./root/x",
        "pypi[.]organization, mypypi[.]org, pypi[.]org.example",
    ],
)
def test_ordinary_words_and_standard_paths_pass(repository: Path, line: str) -> None:
    (repository / "notes.txt").write_text(meant(line))

    assert list(hygiene.problems(repository)) == []


def test_the_path_of_the_checkout_itself_is_refused_in_text_and_as_the_target_of_a_link(repository: Path) -> None:
    (repository / "notes.txt").write_text(f"run {repository}/x\n{repository}-elsewhere\n")
    (repository / "link").symlink_to(repository / "notes.txt")

    found = list(hygiene.problems(repository))

    assert [problem.split(": ")[0] for problem in found] == ["link:1", "notes.txt:1"]


def test_ignored_deleted_and_binary_files_are_not_looked_at(repository: Path) -> None:
    (repository / ".gitignore").write_text("ignored.txt\n")
    (repository / "ignored.txt").write_text(HOME)
    (repository / "photo.bin").write_bytes(b"\0" + HOME.encode())
    (repository / "deleted.txt").write_text(HOME)
    subprocess.run(["git", "add", "deleted.txt"], cwd=repository, check=True)  # noqa: S607 - whichever git there is
    (repository / "deleted.txt").unlink()

    assert list(hygiene.problems(repository)) == []


def test_tracked_files_are_looked_at_also_when_they_are_ignored_now(repository: Path) -> None:
    (repository / "notes.txt").write_text(HOME)
    subprocess.run(["git", "add", "notes.txt"], cwd=repository, check=True)  # noqa: S607 - whichever git there is
    (repository / ".gitignore").write_text("notes.txt\n")

    assert len(list(hygiene.problems(repository))) == 1


def test_a_file_above_one_mebibyte_is_refused(repository: Path) -> None:
    (repository / "just.bin").write_bytes(bytes(sizes.LIMIT_BYTES))
    (repository / "large.bin").write_bytes(bytes(sizes.LIMIT_BYTES + 1))

    (problem,) = sizes.problems(repository)

    assert problem.startswith("large.bin: ")


@pytest.mark.parametrize(
    "line",
    [
        "redis==8.1.0",
        f"redis>=8.1 {HASH}",
        f"redis {HASH}",
        f"redis @ https://example.org/redis.whl {HASH}",
        f"https://example.org/redis.whl {HASH}",
        "--index-url https://example.org/simple",
        "-r other.txt",
        f"redis==8.1.0 {HASH[:-1]}",
    ],
)
def test_a_requirement_without_pin_or_hash_or_with_an_address_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / pins.FOLDER).mkdir()
    good = f"anyio==4.16.0 ; sys_platform != 'win32' \\\n    {HASH} \\\n    {HASH}\n    # via redis\n"
    (tmp_path / pins.FOLDER / "dev.txt").write_text(f"{good}{line}\n")

    (problem,) = pins.problems(tmp_path)

    assert problem.startswith("requirements/dev.txt:5: ")


def test_an_image_may_not_have_another_version_than_the_tests(tmp_path: Path) -> None:
    (tmp_path / pins.FOLDER).mkdir()
    (tmp_path / pins.FOLDER / "dev.txt").write_text(f"redis==8.1.0 {HASH}\n")
    (tmp_path / pins.FOLDER / "api.txt").write_text(f"redis==8.0.0 {HASH}\n")

    (problem,) = pins.problems(tmp_path)

    assert "redis 8.0.0" in problem


def test_a_package_that_the_notices_do_not_name_makes_them_stale(tmp_path: Path) -> None:
    shutil.copytree(ROOT / pins.FOLDER, tmp_path / pins.FOLDER)
    listed = (ROOT / notices.FILE).read_text()
    (tmp_path / notices.FILE).write_text(listed.replace("| redis | MIT |", "| redis | BSD-3-Clause |"))

    (problem,) = notices.problems(tmp_path)

    assert "make notices" in problem
    assert notices.renewed(tmp_path) == listed


def test_a_package_that_is_not_installed_has_to_be_named_by_hand(tmp_path: Path) -> None:
    (tmp_path / pins.FOLDER).mkdir()
    for group in (*notices.IMAGES, "run", "dev"):
        (tmp_path / pins.FOLDER / f"{group}.txt").write_text(f"no-such-package==1.0 {HASH}\n")
    (tmp_path / notices.FILE).write_text("")

    (problem,) = notices.problems(tmp_path)

    assert "no-such-package" in problem


MANIFEST = """
services:
  api:
    environment:
      - DATABASE_URL=postgresql://db/headway
      - HEADWAY_TICKET_KEY=${TICKET_KEY}
  worker:
    env:
      - name: REDIS_URL
        value: redis://redis
      - name: HEADWAY_JWKS_URL
"""


def manifest(repository: Path, text: str, name: str = "infra/compose/compose.yaml") -> list[str]:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return list(variables.problems(repository))


def test_a_setting_that_does_not_exist_is_refused_wherever_it_is_named(repository: Path) -> None:
    (repository / "README.md").write_text("Set HEADWAY_PORT, HEADWAY_HOME or\n`HEADWAY_THREDS`.\n")

    assert list(variables.problems(repository)) == ["README.md:2: there is no setting HEADWAY_THREDS"]


def test_manifests_set_what_has_no_default(repository: Path) -> None:
    assert manifest(repository, MANIFEST) == []
    for line in ("DATABASE_URL", "HEADWAY_TICKET_KEY", "REDIS_URL", "HEADWAY_JWKS_URL"):
        (problem,) = manifest(repository, MANIFEST.replace(line, "OTHER"))
        assert line in problem
    assert manifest(repository, MANIFEST.replace("HEADWAY_JWKS_URL", "HEADWAY_SECRET")) == []
    assert manifest(repository, MANIFEST.replace("HEADWAY_TICKET_KEY=", "OTHER=")) != []
    assert manifest(repository, '{\n  "HEADWAY_TICKET_KEY": "x"\n}', "infra/compose/more.json") == []
    assert manifest(repository, "HEADWAY_PORT=1", "infra/elsewhere/api.env") != []


def test_a_top_level_compose_file_is_a_manifest_too(repository: Path) -> None:
    assert manifest(repository, MANIFEST, "compose.yaml") == []
    (problem,) = manifest(repository, MANIFEST.replace("REDIS_URL", "OTHER"), "compose.yaml")
    assert "compose" in problem
    assert "REDIS_URL" in problem
    # one installation: what the other file sets counts
    assert manifest(repository, "services: {x: {environment: [\n  REDIS_URL: x\n", "compose.dev.yaml") == []


def test_alerts_that_have_changed_make_the_operators_copy_stale(tmp_path: Path) -> None:
    for name in (rules.SOURCE, rules.FILE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with (tmp_path / rules.SOURCE).open("a") as file:
        file.write("# one more\n")

    (problem,) = rules.problems(tmp_path)

    assert "python -m infra.ci.rules" in problem


@pytest.mark.parametrize(
    "rule", [hygiene, sizes, pins, notices, variables, rules], ids=lambda rule: rule.__name__.split(".")[-1]
)
def test_this_repository_keeps_the_rule(rule: object) -> None:
    require_git()

    assert list(rule.problems(ROOT)) == []  # type: ignore[attr-defined]
