"""ingress-nginx without a cluster: nginx with what the controller makes of our Ingress objects and its ConfigMap.

Only what becomes of a request whose answer is an error, and of what is logged: the locations, the one to which errors
go, and where which log is on. There is no Lua here, which finds pods, and no TLS.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.batches import wait_for
from tests.support.manifests import FOLDER, Object, of_kind, overlay
from tests.support.needs import program
from tests.support.ports import own_port
from tests.support.processes import end

CONTROLLER = FOLDER / "components" / "ingress-nginx" / "controller.yaml"
_PREFIX = "nginx.ingress.kubernetes.io/"


def options_of(ingress: Object) -> dict[str, str]:
    """Its annotations for ingress-nginx."""
    annotations: dict[str, str] = ingress["metadata"]["annotations"]
    return {key.removeprefix(_PREFIX): value for key, value in annotations.items() if key.startswith(_PREFIX)}


def controller_options() -> dict[str, str]:
    """What its ConfigMap says."""
    found: dict[str, str] = yaml.safe_load(CONTROLLER.read_text())["data"]
    return found


@contextmanager
def ingress_nginx(
    folder: Path, services: Mapping[str, str], options: Mapping[str, str], overlay_name: str = "production"
) -> Iterator[str]:
    """Where it answers; it writes access.log and error.log. `services`: where those of Kubernetes are, by name."""
    port = own_port()
    locations, errors = [], []
    paths = [
        (path["path"], path["backend"]["service"]["name"], number, options_of(ingress))
        for number, ingress in enumerate(of_kind(overlay(overlay_name), "Ingress"))
        for path in ingress["spec"]["rules"][0]["http"]["paths"]
    ]
    zones = {number: told["limit-rps"] for _, _, number, told in paths}
    for path, service, number, told in sorted(paths, key=lambda each: len(each[0]), reverse=True):
        codes = [code for code in told.get("custom-http-errors", "").split(",") if code]
        backend = services[told["default-backend"]] if codes else ""
        named = [f"@custom_{number}_{code}" for code in codes]
        errors += [_error(name, code, backend) for name, code in zip(named, codes, strict=True)]
        pages = [f"error_page {code} = {name};" for name, code in zip(named, codes, strict=True)]
        locations.append(
            f'location ~* "^{path}" {{\n'
            f'set $ingress_name "{number}";\n'
            f"{'access_log off;' if told.get('enable-access-log') == 'false' else ''}\n"
            f"{'proxy_intercept_errors on;' if codes else ''} {' '.join(pages)}\n"
            f"limit_req zone=z{number} burst={int(told['limit-rps']) * int(told['limit-burst-multiplier'])} nodelay;\n"
            f"proxy_connect_timeout {told['proxy-connect-timeout']}s;\n"
            f"client_max_body_size {told['proxy-body-size']};\n"
            f"proxy_pass {services[service]};\n}}"
        )
    rates = [f"limit_req_zone $binary_remote_addr zone=z{number}:1m rate={rate}r/s;" for number, rate in zones.items()]
    escape = "escape=json " if options.get("log-format-escape-json") == "true" else ""
    text = f"""
pid {folder}/nginx.pid;
daemon off;
error_log {folder}/error.log {options.get("error-log-level", "notice")};
events {{ worker_connections 512; }}
http {{
{_temporary(folder)}
log_format upstreaminfo {escape}'{options["log-format-upstream"]}';
access_log {folder}/access.log upstreaminfo;
limit_req_status {options.get("limit-req-status-code", "503")};
{" ".join(rates)}
server {{
listen 127.0.0.1:{port};
{" ".join(dict.fromkeys(errors))}
{" ".join(locations)}
}}
}}
"""
    with _nginx(folder, text, f"http://127.0.0.1:{port}") as address:
        yield address


def _error(name: str, code: str, backend: str) -> str:
    return f"""location {name} {{
internal;
proxy_intercept_errors off;
proxy_set_header X-Code {code};
proxy_set_header X-Format $http_accept;
proxy_set_header X-Original-URI $request_uri;
rewrite (.*) / break;
proxy_pass {backend};
}}"""


@contextmanager
def answers_for_others(folder: Path) -> Iterator[str]:
    """Where `headway-away` is, as its container has it but for the port and /tmp."""
    port = own_port()
    text = (FOLDER / "components" / "away" / "nginx.conf").read_text()
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{port};").replace("/tmp/", f"{folder}/")  # noqa: S108
    with _nginx(folder, text, f"http://127.0.0.1:{port}") as address:
        yield address


def _temporary(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


@contextmanager
def _nginx(folder: Path, text: str, address: str) -> Iterator[str]:
    folder.mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(text)
    said = folder / "said.log"
    with said.open("wb") as log:
        process: subprocess.Popen[Any] = subprocess.Popen(
            [program("nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=log
        )
    try:
        wait_for(lambda: process.poll() is not None or _answers(address), "nginx")
        assert process.poll() is None, said.read_text()
        yield address
    finally:
        end(process)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/live", trust_env=False).status_code > 0
    except httpx.TransportError:
        return False
