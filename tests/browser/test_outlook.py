"""The page of a batch that does not move says why, and goes by what is so now."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from selenium import webdriver

from infra.home import Home, signing_settings
from shared import models
from shared.auth import Claims, issue_ticket
from shared.database import make_engine
from shared.kinds import KINDS
from tests.browser.page import Page
from tests.support.batches import cancel, make_batch
from tests.support.running import Run
from tests.support.workers import add_worker

pytestmark = pytest.mark.browser

QUEUE = "nowhere"
"""That no worker of the Headway that is looked at serves."""


@pytest.fixture
def database(run: Run) -> Iterator[sa.Engine]:
    engine = make_engine(run.running.database_url, pool_size=1, application="test")
    yield engine
    with engine.begin() as connection:
        connection.execute(sa.delete(models.workers).where(models.workers.c.queue == QUEUE))
    engine.dispose()


def test_says_that_no_worker_is_there_until_one_comes(
    run: Run, database: sa.Engine, chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    page = Page(chromium)
    batch_id = make_batch(database, 3, replace(KINDS["rehearsal"], queue=QUEUE), owner="demo")
    settings = signing_settings(Home(run.home), {"HEADWAY_SECRET": (run.home / "ticket-key").read_text()})
    assert settings is not None
    ticket, _ = issue_ticket(settings, Claims("demo", None, time.time() + 600), batch_id)

    page.open(f"{run.running.address}/batches/{batch_id}#ticket={ticket}")
    page.wait("the reason", status="Waiting", times="no worker is there to start its jobs")
    page.photograph(tmp_path / "alone.png")
    worker = add_worker(database, queue=QUEUE, silent=-3600)
    page.wait("it to be taken back", status="Waiting", times="")
    with database.begin() as connection:
        busy = sa.update(models.workers).where(models.workers.c.id == worker).values(running=8)
        connection.execute(busy)
    page.wait("the next reason", times=lambda said: said.startswith("all workers are busy with others"))
    assert page.complaints() == []
    cancel(database, batch_id)
    page.wait("the end", status="Cancelled", light="finished")
