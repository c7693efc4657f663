"""The census: how many viewers each owner has, in all stream processes together.

Every process keeps its own count of an owner in Redis, with an expiry. Whoever joins needs a place that is counted
there already; one script counts and gives places, so two processes never give the same one away. All that there is to
say goes in one pipeline at a time: joins at once, departures a moment later, everything again every so often, which
heals what Redis has forgotten. While Redis is away each process keeps to the limit for itself.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from services.stream.tasks import end
from shared.channels import viewers_key
from shared.errors import TooManyRequests
from shared.outage import Outage
from shared.redis_clients import make_async_keyed
from shared.settings import Settings

_PATIENCE = 0.01
"""Seconds that a join waits for Redis. Then it is let in, and sent away if Redis says no after all."""
_AWAY = 1.0
"""Seconds without an answer after which Redis counts as away, and between two attempts to reach it."""
_MOMENT = 0.1
"""Seconds within which departures are told together."""
_AT_ONCE = 500
"""Owners in one pipeline: a large refresh does not keep joins waiting."""
_TIMES = 3
"""A count is told so many times before it would expire."""
TOO_MANY = "Too many streams of this owner are open."

# ARGV: this process, viewers that are here, viewers that would be here, the limit, milliseconds until this expires.
# Gives how many this process may have: no more than the limit leaves, but never fewer than are here already.
_COUNT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local others = 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if fields[i] ~= ARGV[1] then
    local count, ends = string.match(fields[i + 1], '^(%d+):(%d+)$')
    if count and tonumber(ends) > now then
      others = others + tonumber(count)
    else
      redis.call('HDEL', KEYS[1], fields[i])
    end
  end
end
local granted = math.max(tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), tonumber(ARGV[4]) - others))
local ttl = tonumber(ARGV[5])
if granted > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d:%.0f', granted, now + ttl))
  if redis.call('PTTL', KEYS[1]) < ttl then
    redis.call('PEXPIRE', KEYS[1], ttl)
  end
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return granted
"""

log = structlog.get_logger(__name__)


class Place:
    """One viewer's. `on_settled` is called when Redis answers after it was let in: `refused` if that was wrong."""

    __slots__ = ("answered", "counted", "left", "on_settled", "refused", "tally")

    def __init__(self, tally: "Tally") -> None:
        self.tally = tally
        self.answered: asyncio.Future[None] | None = None
        """While somebody waits for it."""
        self.counted = False
        self.refused = False
        self.left = False
        self.on_settled: Callable[[], None] = _nobody_minds


class Tally:
    """Of one owner in this process."""

    __slots__ = ("asking", "counted", "granted", "owner", "wanted")

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.wanted = 0
        """Viewers that are here, and those that ask to be."""
        self.counted = 0
        """Those of them that have a place for good."""
        self.granted = 0
        """Places that Redis counts for us: while one of them is free whoever comes need not ask."""
        self.asking: list[Place] = []


class Census:
    """Of one process. Its counts expire `lease` seconds after they were last told."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.owner_viewers
        self._namespace = settings.namespace
        self._lasts = settings.lease
        self._process = uuid4().hex
        self._client = make_async_keyed(settings.redis_url, _AWAY)
        self._tallies: dict[str, Tally] = {}
        self._changed: dict[str, Tally] = {}
        self._due = asyncio.Event()
        self._moment: asyncio.TimerHandle | None = None
        self._slow = False
        """Redis owes us an answer: nobody waits for it, but it will count."""
        self._away = False
        """Redis does not answer: each process for itself."""
        self._redis = Outage("redis", "counting viewers")
        self._asked: list[tuple[Tally, list[Place]]] = []
        """Who waits for the pipeline under way."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._tell_on())

    async def stop(self) -> None:
        """Our viewers go elsewhere, and shall not wait there until our counts expire."""
        if self._task is not None:
            await end(self._task)
        if self._moment is not None:
            self._moment.cancel()
        for tally in self._tallies.values():
            tally.counted = 0
            tally.asking.clear()
        tallies = iter(list(self._tallies.values()))
        if not self._away:
            with suppress(RedisError, OSError):  # a TimeoutError is an OSError
                async with asyncio.timeout(_AWAY):
                    while portion := list(islice(tallies, _AT_ONCE)):
                        await self._tell(portion)
        await self._client.aclose()

    async def enter(self, owner: str) -> Place:
        """A place, to be given back by `leave`. Raises TooManyRequests."""
        tally = self._tallies.get(owner)
        if tally is None:
            tally = self._tallies[owner] = Tally(owner)
        if tally.wanted >= self._limit:
            raise TooManyRequests(TOO_MANY)
        place = Place(tally)
        tally.wanted += 1
        if self._away or tally.counted < tally.granted:
            _settle(place, allowed=True)
            return place
        tally.asking.append(place)
        self._changed[owner] = tally
        self._due.set()
        if not self._slow:
            await self._answer(place)
        if place.refused:
            raise TooManyRequests(TOO_MANY)
        return place

    def leave(self, place: Place | Tally) -> None:
        """Also twice, and also of one that was refused. Of one that was counted its tally will do, but only once."""
        if isinstance(place, Tally):
            tally, counted = place, True
        elif place.left:
            return
        else:
            place.left = True
            if place.refused:
                return  # it counts for nothing already, and its owner may have another tally by now
            tally, counted = place.tally, place.counted
        if counted:
            tally.counted -= 1
        tally.wanted -= 1
        if self._away:
            self._forget_if_empty(tally)
            return
        self._changed[tally.owner] = tally
        if self._moment is None:
            self._moment = asyncio.get_running_loop().call_later(_MOMENT, self._due.set)

    async def _answer(self, place: Place) -> None:
        """What Redis says to it, if that comes soon."""
        place.answered = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([place.answered], timeout=_PATIENCE)
        except asyncio.CancelledError:
            self.leave(place)
            raise
        self._slow = self._slow or not place.answered.done()
        place.answered = None

    async def _tell_on(self) -> None:
        loop = asyncio.get_running_loop()
        period = self._lasts / _TIMES
        refresh = loop.time() + period
        while True:
            if self._away:
                await asyncio.sleep(_AWAY)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(refresh):
                        await self._due.wait()
            self._due.clear()
            if self._moment is not None:
                self._moment.cancel()
                self._moment = None
            if self._away or loop.time() >= refresh:
                refresh = loop.time() + period
                self._changed |= self._tallies
            tallies, self._changed = iter(self._changed.values()), {}
            try:
                while portion := list(islice(tallies, _AT_ONCE)):
                    await self._tell(portion)
                    self._away = False
                    self._redis.end()
                self._away = False
            except Exception as error:  # noqa: BLE001  # whatever it is, counting must not end for good
                if not isinstance(error, RedisError | OSError):
                    log.error("counting viewers failed", error=repr(error))  # noqa: TRY400  # no locals
                self._lose(error)

    async def _tell(self, tallies: list[Tally]) -> None:
        """Raises what redis-py raises; nobody is left waiting."""
        self._asked = [(tally, [place for place in tally.asking if not place.left]) for tally in tallies]
        pipeline = self._client.pipeline(transaction=False)
        for tally, places in self._asked:
            tally.asking = []
            tally.granted = 0  # until we are told, nobody comes without asking
            numbers = tally.counted, tally.counted + len(places), self._limit, round(self._lasts * 1000)
            key = viewers_key(self._namespace, tally.owner)
            pipeline.execute_command("EVAL", _COUNT, 1, key, self._process, *numbers)
        granted = await pipeline.execute()
        self._slow = False
        for (tally, places), number in zip(self._asked, granted, strict=True):
            tally.granted = number
            for place in places:
                if not place.left:
                    _settle(place, allowed=tally.counted < number)
            if tally.counted > number:  # some came while Redis was away
                self._changed[tally.owner] = tally
                self._due.set()
            self._forget_if_empty(tally)
        self._asked = []

    def _lose(self, error: Exception) -> None:
        """Nobody will say no to those who ask."""
        self._redis.begin(error)
        self._away = True
        asking = [place for _, places in self._asked for place in places]
        asking += [place for tally in self._tallies.values() for place in tally.asking]
        self._asked = []
        for place in asking:
            place.tally.asking.clear()
            if not place.left:
                _settle(place, allowed=True)
        for tally in list(self._tallies.values()):
            self._forget_if_empty(tally)

    def _forget_if_empty(self, tally: Tally) -> None:
        if not tally.wanted and (not tally.granted or self._away) and self._tallies.get(tally.owner) is tally:
            del self._tallies[tally.owner]


def _settle(place: Place, *, allowed: bool) -> None:
    if allowed:
        place.counted = True
        place.tally.counted += 1
    else:
        place.refused = True
        place.tally.wanted -= 1
    if place.answered is None:
        place.on_settled()
        place.on_settled = _nobody_minds  # it holds on to its viewer
    elif not place.answered.done():
        place.answered.set_result(None)


def _nobody_minds() -> None:
    pass
