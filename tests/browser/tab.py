"""A tab of Chromium with an EventSource in it, without any code of ours in between."""

import json
from collections.abc import Callable
from typing import Any

from selenium import webdriver

from tests.support.batches import wait_for

# Says what it hears as tests/conformance/node/read.mjs does; an event without id of its own shows the last there was.
_WATCH = """
const [address, withCredentials] = arguments;
window.heard = [];
const say = (what) => heard.push({...what, hidden: document.hidden});
let last = "";
window.source = new EventSource(address, {withCredentials});
source.onopen = () => say({connection: "open"});
for (const name of ["progress", "log", "complete", "ping", "reset", "timeout", "error", "message"]) {
  source.addEventListener(name, (event) => {
    if (event instanceof MessageEvent) {
      say({name, data: JSON.parse(event.data), id: event.lastEventId === last ? null : event.lastEventId});
      last = event.lastEventId;
    } else {
      say({connection: source.readyState === EventSource.CLOSED ? "closed" : "lost"});
    }
  });
}
"""


class Tab:
    """One of the browser, in which an EventSource listens."""

    def __init__(self, driver: webdriver.Chrome, page: str) -> None:
        """On a page of that address."""
        self._driver = driver
        driver.switch_to.new_window("tab")
        self._handle = driver.current_window_handle
        driver.get(page)

    def watch(self, address: str, *, with_credentials: bool = False) -> None:
        self.run(_WATCH, address, with_credentials)

    @property
    def heard(self) -> list[dict[str, Any]]:
        return [{key: value for key, value in said.items() if key != "hidden"} for said in json.loads(self._all())]

    @property
    def hidden(self) -> list[bool]:
        """Whether it was in the background, at each thing that it heard."""
        return [said["hidden"] for said in json.loads(self._all())]

    def wait(self, what: str, condition: Callable[[list[dict[str, Any]]], Any], seconds: float = 30) -> None:
        wait_for(lambda: condition(self.heard), what, seconds)

    def run(self, script: str, *arguments: Any) -> Any:
        self.show()
        return self._driver.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def show(self) -> None:
        """To the front."""
        self._driver.switch_to.window(self._handle)

    def close(self) -> None:
        if self._handle in self._driver.window_handles:
            self.show()
            self._driver.close()
            self._driver.switch_to.window(self._driver.window_handles[0])

    def _all(self) -> str:
        return str(self.run("return JSON.stringify(window.heard)"))
