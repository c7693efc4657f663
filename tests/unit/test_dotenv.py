"""`make env`: .env and a certificate, made once and never changed again."""

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from infra import certificate
from infra.dotenv import USER, read

ROOT = Path(__file__).parents[2]
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "HEADWAY_SECRET", "HEADWAY_TICKET_KEY", "GRAFANA_PASSWORD")


def make(directory: Path, *arguments: str, status: int = 0, path: str | None = None) -> str:
    """What it says, run by a Python that finds the standard library only."""
    command = [sys.executable, "-S", "-m", "infra.dotenv", "--file", str(directory / ".env")]
    command += ["--certificates", str(directory / "certificates"), *arguments]
    environment = {"PATH": os.environ["PATH"] if path is None else path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_makes_secrets_that_are_for_their_owner_only(tmp_path: Path) -> None:
    said = make(tmp_path)
    file = tmp_path / ".env"
    there = read(file.read_text())
    assert file.stat().st_mode & 0o777 == 0o600
    values = [there[name] for name in SECRETS]
    assert len(set(values)) == len(SECRETS)
    for value in values:
        assert len(value) >= 40
        assert value not in said
        assert all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in value), "safe in addresses"
    assert there["HEADWAY_PUBLIC_URL"] == "https://localhost"
    assert "docker compose up" in said


def test_adds_what_lacks_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    mine = "# mine\nexport POSTGRES_PASSWORD='old one'\nGATEWAY_HTTPS_PORT=8443\nHEADWAY_LEASE=20"
    file.write_text(mine)
    file.chmod(0o644)
    assert "POSTGRES_PASSWORD" not in make(tmp_path)
    first = file.read_text()
    assert first.startswith(mine + "\n")
    assert first.count("POSTGRES_PASSWORD") == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert read(first)["HEADWAY_PUBLIC_URL"] == "https://localhost:8443"
    certificates = {path.name: path.read_bytes() for path in (tmp_path / "certificates").iterdir()}
    assert "nothing was missing" in make(tmp_path)
    assert file.read_text() == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "certificates").iterdir()} == certificates


def test_an_empty_value_is_filled_by_a_line_of_its_own(tmp_path: Path) -> None:
    """Also the last line before another name, which is not its value."""
    file = tmp_path / ".env"
    mine = "POSTGRES_PASSWORD=\nREDIS_PASSWORD=mine\nHEADWAY_SECRET = ''\n\n  export TAG=mine \n"
    file.write_text(mine)
    make(tmp_path)
    first = file.read_text()
    assert first.startswith(mine)
    there = read(first)
    assert (there["REDIS_PASSWORD"], there["TAG"]) == ("mine", "mine")
    assert min(len(there[name]) for name in ("POSTGRES_PASSWORD", "HEADWAY_SECRET")) >= 40
    assert (first.count("REDIS_PASSWORD"), first.count("TAG"), first.count("POSTGRES_PASSWORD")) == (1, 1, 2)
    assert "nothing was missing" in make(tmp_path)
    assert file.read_text() == first


def test_makes_no_secret_where_somebody_else_issues_tokens(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HEADWAY_JWKS_URL=https://login.example.org/keys\n")
    make(tmp_path)
    assert "HEADWAY_SECRET" not in read((tmp_path / ".env").read_text())


def test_takes_the_name_of_a_host_and_keeps_it(tmp_path: Path) -> None:
    make(tmp_path, "--domain", "Progress.example.org")
    there = read((tmp_path / ".env").read_text())
    assert (there["DOMAIN"], there["HEADWAY_PUBLIC_URL"]) == ("progress.example.org", "https://progress.example.org")
    assert "stays" in make(tmp_path, "--domain", "other.example.org")
    assert read((tmp_path / ".env").read_text()) == there


def test_who_began_with_localhost_is_not_given_half_of_a_name(tmp_path: Path) -> None:
    make(tmp_path)
    there = read((tmp_path / ".env").read_text())
    assert "stays" in make(tmp_path, "--domain", "progress.example.org")
    assert read((tmp_path / ".env").read_text()) == there


@pytest.mark.parametrize(
    "domain", ["-x.example", "a b.example", "example", "x.example/y", "$(x).example", "x..example"]
)
def test_refuses_what_is_no_name_of_a_host(domain: str, tmp_path: Path) -> None:
    assert "is not the name of a host" in make(tmp_path, f"--domain={domain}", status=1)
    assert not (tmp_path / ".env").exists()


@pytest.mark.parametrize(
    ("domain", "advice"),
    [("localhost", "leave DOMAIN out for localhost"), ("192.0.2.7", "write HEADWAY_PUBLIC_URL=https://192.0.2.7")],
)
def test_says_what_to_do_without_a_name(domain: str, advice: str, tmp_path: Path) -> None:
    assert advice in make(tmp_path, f"--domain={domain}", status=1)
    assert not (tmp_path / ".env").exists()


@pytest.mark.parametrize("way", ["program", "library"])
def test_makes_a_certificate_that_a_client_who_trusts_it_takes(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "library":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    certificate.make_certificate(tmp_path, "progress.example.org")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(certificate.FILES)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    for name in ("progress.example.org", "localhost", "gateway", "127.0.0.1", "::1"):
        shake_hands(tmp_path, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, "other.example.org")


def test_says_what_to_do_where_nothing_can_make_a_certificate(tmp_path: Path) -> None:
    said = make(tmp_path, status=1, path=str(tmp_path))
    assert "put certificate.pem and key.pem there yourself" in said
    assert (tmp_path / ".env").exists()


def test_half_a_pair_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "key.pem").write_text("mine")
    assert "lacks the other" in make(tmp_path, status=1)
    assert (tmp_path / "certificates" / "key.pem").read_text() == "mine"


def test_the_gateway_can_read_the_key(tmp_path: Path) -> None:
    """Which is 10001's for root, and otherwise that of whoever runs it."""
    make(tmp_path)
    owner = (tmp_path / "certificates" / "key.pem").stat().st_uid
    user = read((tmp_path / ".env").read_text()).get("GATEWAY_USER", f"{USER}:{USER}")
    assert user.partition(":")[0] == str(owner)


def shake_hands(folder: Path, name: str) -> None:
    """In memory. Raises SSLCertVerificationError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    client = ssl.create_default_context(cafile=folder / "certificate.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # as newer Pythons have it
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].version() in {"TLSv1.2", "TLSv1.3"}
