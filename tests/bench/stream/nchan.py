"""nginx with its Nchan module, where it is installed, with one worker process."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.streams import status

MISSING = "Nchan is left out: nginx with its Nchan module (Debian: `libnginx-mod-nchan`) is not installed here."

_MODULE = "ngx_nchan_module.so"
_PLACES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules", "/etc/nginx/modules")

_CONFIGURATION = Template("""
load_module $module;
daemon off;
pid $directory/nginx.pid;
error_log $directory/error.log;
worker_processes 1;
worker_rlimit_nofile 20000;
events { worker_connections 20000; }
http {
    access_log off;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    server {
        listen 127.0.0.1:$port backlog=2048;
        location = /alive { return 204; }
        location = /publish { nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 1; }
        location = /events {
            nchan_subscriber eventsource; nchan_channel_id bench; nchan_subscriber_first_message newest;
        }
    }
}
""")


def find() -> tuple[str, Path] | None:
    """Nginx and the module."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    modules = [Path(place, _MODULE) for place in _PLACES if Path(place, _MODULE).exists()]
    return (nginx, modules[0]) if nginx and modules else None


@contextmanager
def nchan(nginx: str, module: Path, directory: Path) -> Iterator[tuple[int, int]]:
    """Its port, and the process that serves."""
    directory.mkdir(exist_ok=True)
    port = own_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(_CONFIGURATION.substitute(module=module, directory=directory, port=port))
    process = subprocess.Popen([nginx, "-p", directory, "-c", configuration, "-e", directory / "error.log"])
    try:
        wait_for(lambda: status(f"http://127.0.0.1:{port}", "/alive") == 204, "nginx to answer")
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield port, int(worker)
    finally:
        process.terminate()
        process.wait(10)
