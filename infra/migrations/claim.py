"""The function by which jobs are claimed, as migration 0004 makes it. A later migration that changes it has its own.

It is one function, and so one statement and one round trip, for two reasons. Each statement within it sees what was
committed until then, which makes its counts exact and a lane's `ready` true; and no client can stand still in its
middle while others wait for it. docs/decisions/0013-claims-are-one-function.md says why, docs/worker.md how it goes.
"""

_LOCK = 7_203_560
"""And the two after it: any numbers will do, as long as they are always the same."""

# What the index ix_lanes_ready holds.
_READY = "l.ready AND NOT l.paused AND l.after_batch IS NULL"

# The first owner who has a ready lane at this priority, of all or of those behind one.
_OWNER = f"""
    SELECT min(f.owner) FROM unnest(kinds) AS k (kind) CROSS JOIN LATERAL (
        SELECT l.owner FROM lanes l
        WHERE l.queue = of_queue AND l.priority = level.priority AND l.kind = k.kind AND {_READY} {{behind}}
        ORDER BY l.owner LIMIT 1
    ) f
"""  # noqa: S608  # nothing in any of these comes from outside

# The owner's next lanes at this priority.
_LANES = f"""
    SELECT f.batch_id, f.kind, f.concurrency FROM unnest(kinds) AS k (kind) CROSS JOIN LATERAL (
        SELECT l.batch_id, l.kind, l.concurrency FROM lanes l
        WHERE l.queue = of_queue AND l.priority = level.priority AND l.kind = k.kind AND l.owner = whose
            AND {_READY} AND l.batch_id {{side}} last_lane AND l.batch_id <> ALL (passed)
        ORDER BY l.batch_id LIMIT take - got
    ) f
    ORDER BY f.batch_id LIMIT take - got
"""  # noqa: S608

# How many of a lane's jobs are reserved or run.
_HELD = "SELECT count(*) FROM jobs j WHERE j.batch_id = lane_id AND j.lease_token IS NOT NULL"

# When a kind's next start is due; null where that is further ahead than its rate can have put it: then the server's
# clock has been set back, or the rate was another one, and nobody is to wait for that.
_DUE = """
    CASE WHEN t.due <= moment + (GREATEST({rate}, 1) / {rate} + 1) * interval '1 second' THEN t.due END
"""

CLAIM = f"""
CREATE FUNCTION headway_claim(
    of_queue text, wanted int, token uuid, lease float8,
    ending uuid[],  -- jobs that the caller is about to end: their slots are free, though they still have their leases
    owner_limit int, limited_kinds text[], kind_limits int[], kind_rates float8[]
) RETURNS TABLE (id uuid, batch_id uuid, "position" int) LANGUAGE plpgsql
-- one plan for all times, by the indexes, whatever was known when it was made
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    before_all CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    moment timestamptz;           -- now, once the others have had their turn
    remaining int := wanted;
    priorities int[];             -- where something may be ready: priorities, and with each a kind
    ready_kinds text[];
    several boolean;              -- owners have something ready
    slots int;
    owner_cap int;                -- of the queue's slots one may hold while others wait
    capped boolean := false;      -- somebody was kept back by that
    held_here jsonb := jsonb_build_object();   -- how many each owner holds in this queue
    held_all jsonb := jsonb_build_object();    -- and in all
    held_total int := 0;
    kind_room jsonb := jsonb_build_object();   -- how many more of a kind, where it has a limit
    passed uuid[] := ARRAY[]::uuid[];          -- lanes that have nothing for this claim, and cannot be told so
    level record;
    kinds text[];                 -- of this level, those that are not at their limit
    owner_before text;            -- who was served last at this level, before this claim and by now
    owner_turn text;
    owners text[];                -- whose turn it is, in this order
    owner_lanes uuid[];           -- the lane of each that was served last
    barren text[];                -- who has nothing for this claim at this level
    owner_share int;
    whose text;
    take int;
    got int;
    last_lane uuid;
    moved_owners text[];          -- whose last lane is another one now, and which
    moved_lanes uuid[];
    lane_ids uuid[];
    lane_kinds text[];
    lane_limits int[];
    lane_share int;
    lane_id uuid;
    most int;
    room int;                     -- below the batch's concurrency
    kind_rate float8;
    kind_left int;
    given int;
    rests boolean;
    due timestamptz;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);  -- a reservation that is lost with the server is no loss
    -- One at a time: only claims ever take these, and a claim waits for nothing else. So they cannot deadlock.
    PERFORM pg_advisory_xact_lock({_LOCK}, hashtext(of_queue));
    PERFORM pg_advisory_xact_lock({_LOCK} + 1, k.key)
    FROM (SELECT hashtext(u.kind) AS key FROM unnest(limited_kinds) AS u (kind) ORDER BY key) k;
    IF owner_limit IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock({_LOCK} + 2, 0);  -- such a limit goes over all queues
    END IF;
    moment := clock_timestamp();

    -- lanes whose time has come
    UPDATE lanes l SET ready = true, ready_at = NULL
    WHERE l.batch_id = ANY (ARRAY(
        SELECT l.batch_id FROM lanes l
        WHERE l.queue = of_queue AND NOT l.ready AND l.ready_at <= moment
        ORDER BY l.ready_at FOR NO KEY UPDATE SKIP LOCKED
    ));

    -- from one to the next of the priorities and kinds that are ready, never through the lanes of one
    WITH RECURSIVE step AS (
        SELECT f.* FROM (
            SELECT l.priority, l.kind FROM lanes l
            WHERE l.queue = of_queue AND {_READY} ORDER BY l.priority DESC, l.kind LIMIT 1
        ) f
        UNION ALL
        SELECT n.* FROM step s CROSS JOIN LATERAL (
            (
                SELECT l.priority, l.kind FROM lanes l
                WHERE l.queue = of_queue AND l.priority = s.priority AND l.kind > s.kind AND {_READY}
                ORDER BY l.kind LIMIT 1
            )
            UNION ALL
            (
                SELECT l.priority, l.kind FROM lanes l
                WHERE l.queue = of_queue AND l.priority < s.priority AND {_READY}
                ORDER BY l.priority DESC, l.kind LIMIT 1
            )
            LIMIT 1
        ) n
    )
    SELECT array_agg(s.priority), array_agg(s.kind), min(lowest.owner) < max(highest.owner)
    INTO priorities, ready_kinds, several
    FROM step s CROSS JOIN LATERAL (
        SELECT l.owner FROM lanes l
        WHERE l.queue = of_queue AND l.priority = s.priority AND l.kind = s.kind AND {_READY}
        ORDER BY l.owner LIMIT 1
    ) lowest CROSS JOIN LATERAL (
        SELECT l.owner FROM lanes l
        WHERE l.queue = of_queue AND l.priority = s.priority AND l.kind = s.kind AND {_READY}
        ORDER BY l.owner DESC LIMIT 1
    ) highest;
    IF priorities IS NULL THEN
        DELETE FROM owner_turns t WHERE t.queue = of_queue;  -- of owners who have nothing to take turns with
        RETURN;
    END IF;

    IF several OR owner_limit IS NOT NULL OR limited_kinds && ready_kinds THEN
        WITH leased AS MATERIALIZED (
            SELECT l.queue, l.owner, l.kind, b.jobs FROM (
                SELECT j.batch_id, count(*) AS jobs FROM jobs j WHERE j.lease_token IS NOT NULL GROUP BY j.batch_id
            ) b JOIN lanes l ON l.batch_id = b.batch_id
            WHERE l.queue <> ''
        ), ends AS MATERIALIZED (
            SELECT l.owner, count(*) AS jobs FROM jobs j JOIN lanes l ON l.batch_id = j.batch_id
            WHERE j.id = ANY (ending) AND j.lease_token IS NOT NULL AND l.queue = of_queue GROUP BY l.owner
        )
        SELECT
            coalesce((
                SELECT jsonb_object_agg(o.owner, o.jobs - coalesce(e.jobs, 0))
                FROM (SELECT h.owner, sum(h.jobs) AS jobs FROM leased h WHERE h.queue = of_queue GROUP BY h.owner) o
                LEFT JOIN ends e ON e.owner = o.owner
            ), held_here),
            coalesce((
                SELECT jsonb_object_agg(o.owner, o.jobs)
                FROM (SELECT h.owner, sum(h.jobs) AS jobs FROM leased h GROUP BY h.owner) o
            ), held_all),
            coalesce((SELECT sum(h.jobs) FROM leased h WHERE h.queue = of_queue), 0)
                - coalesce((SELECT sum(e.jobs) FROM ends e), 0),
            coalesce((
                SELECT jsonb_object_agg(u.kind, LEAST(
                    u.most - (SELECT coalesce(sum(h.jobs), 0) FROM leased h WHERE h.kind = u.kind),
                    -- GCRA: starts that follow one another evenly, a second's worth of which (or one) may come at once
                    floor(u.rate * extract(epoch FROM moment - GREATEST({_DUE.format(rate="u.rate")}, moment))
                        + GREATEST(u.rate, 1) + 1e-6)
                ))
                FROM unnest(limited_kinds, kind_limits, kind_rates) AS u (kind, most, rate)
                LEFT JOIN kind_turns t ON t.kind = u.kind
            ), kind_room)
        INTO held_here, held_all, held_total, kind_room;
    END IF;
    IF several THEN
        SELECT coalesce(sum(w.threads), 0) INTO slots FROM workers w
        WHERE w.queue = of_queue AND NOT w.draining AND w.seen_at > moment - lease * interval '1 second';
        IF slots = 0 OR slots < held_total THEN  -- not all of them have said yet that they are there
            slots := held_total + wanted;
        END IF;
        owner_cap := GREATEST(1, slots * 3 / 4);
    END IF;

    -- First nobody gets more than the cap. What is left then is for whoever was kept back by it: nobody else waits.
    FOR pass IN 1..2 LOOP
        EXIT WHEN remaining = 0 OR pass = 2 AND NOT capped;
        FOR level IN
            SELECT g.priority, array_agg(g.kind) AS kinds FROM unnest(priorities, ready_kinds) AS g (priority, kind)
            GROUP BY g.priority ORDER BY g.priority DESC
        LOOP
            EXIT WHEN remaining = 0;
            kinds := ARRAY(
                SELECT k.kind FROM unnest(level.kinds) AS k (kind)
                WHERE coalesce(CAST(kind_room ->> k.kind AS int), 1) > 0
            );
            barren := ARRAY[]::text[];
            owner_turn := coalesce((
                SELECT t.owner FROM queue_turns t WHERE t.queue = of_queue AND t.priority = level.priority
            ), '');
            owner_before := owner_turn;

            -- Owners in turn, by name, behind the one served last. With more jobs to give than there are owners each
            -- gets its share at once, which comes to the same as one after the other.
            WHILE remaining > 0 LOOP
                WITH RECURSIVE ahead AS (
                    SELECT ({_OWNER.format(behind="AND l.owner > owner_turn")}) AS owner
                    UNION ALL
                    SELECT ({_OWNER.format(behind="AND l.owner > a.owner")}) FROM ahead a WHERE a.owner IS NOT NULL
                ), again AS (
                    SELECT ({_OWNER.format(behind="")}) AS owner
                    UNION ALL
                    SELECT ({_OWNER.format(behind="AND l.owner > a.owner")}) FROM again a WHERE a.owner <= owner_turn
                )
                SELECT array_agg(o.owner ORDER BY o.n), array_agg(coalesce((
                    SELECT t.batch_id FROM owner_turns t
                    WHERE t.queue = of_queue AND t.priority = level.priority AND t.owner = o.owner
                ), before_all) ORDER BY o.n)
                INTO owners, owner_lanes
                FROM (
                    SELECT n.owner, row_number() OVER () AS n FROM (
                        SELECT a.owner FROM ahead a UNION ALL SELECT a.owner FROM again a WHERE a.owner <= owner_turn
                    ) n
                    WHERE n.owner IS NOT NULL AND n.owner <> ALL (barren)
                        -- of those at their limit there may be many: they are passed over together
                        AND (owner_limit IS NULL OR coalesce(CAST(held_all ->> n.owner AS int), 0) < owner_limit)
                    LIMIT remaining
                ) o;
                EXIT WHEN owners IS NULL;
                owner_share := GREATEST(1, remaining / cardinality(owners));
                moved_owners := ARRAY[]::text[];
                moved_lanes := ARRAY[]::uuid[];
                FOR turn IN 1..cardinality(owners) LOOP
                    EXIT WHEN remaining = 0;
                    whose := owners[turn];
                    last_lane := owner_lanes[turn];
                    take := LEAST(owner_share, remaining);
                    IF owner_limit IS NOT NULL THEN
                        take := LEAST(take, owner_limit - coalesce(CAST(held_all ->> whose AS int), 0));
                    END IF;
                    IF several AND pass = 1 AND take > owner_cap - coalesce(CAST(held_here ->> whose AS int), 0) THEN
                        take := owner_cap - coalesce(CAST(held_here ->> whose AS int), 0);
                        capped := true;
                    END IF;
                    got := 0;

                    -- the owner's lanes in turn, in the same manner
                    WHILE got < take LOOP
                        SELECT array_agg(n.batch_id), array_agg(n.kind), array_agg(n.concurrency)
                        INTO lane_ids, lane_kinds, lane_limits
                        FROM (
                            SELECT * FROM (
                                ({_LANES.format(side=">")}) UNION ALL ({_LANES.format(side="<=")})
                            ) u
                            LIMIT take - got
                        ) n;
                        EXIT WHEN lane_ids IS NULL;
                        lane_share := GREATEST(1, (take - got) / cardinality(lane_ids));
                        FOR i IN 1..cardinality(lane_ids) LOOP
                            EXIT WHEN got = take;
                            CONTINUE WHEN lane_kinds[i] <> ALL (kinds);
                            lane_id := lane_ids[i];
                            most := LEAST(lane_share, take - got, CAST(kind_room ->> lane_kinds[i] AS int));
                            IF lane_limits[i] IS NOT NULL THEN
                                room := lane_limits[i] - ({_HELD});
                                most := LEAST(most, room);
                            END IF;

                            -- Its jobs: first what has rested long enough, then by position; each from an index of its
                            -- own, so that neither jobs that still rest nor those that run cost anything.
                            given := 0;
                            IF most > 0 THEN
                                RETURN QUERY UPDATE jobs j
                                SET lease_token = token,
                                    lease_until = clock_timestamp() + lease * interval '1 second'
                                WHERE j.id = ANY (ARRAY(
                                    SELECT u.id FROM (
                                        SELECT d.id FROM (
                                            SELECT c.id FROM jobs c
                                            WHERE c.batch_id = lane_id AND c.status = 'QUEUED'
                                                AND c.lease_token IS NULL AND c.run_after <= moment
                                            ORDER BY c.run_after FOR NO KEY UPDATE SKIP LOCKED
                                        ) d
                                        UNION ALL
                                        SELECT r.id FROM (
                                            SELECT c.id FROM jobs c
                                            WHERE c.batch_id = lane_id AND c.status = 'QUEUED'
                                                AND c.lease_token IS NULL AND c.run_after IS NULL
                                            ORDER BY c.position FOR NO KEY UPDATE SKIP LOCKED
                                        ) r
                                    ) u
                                    LIMIT most
                                ))
                                RETURNING j.id, j.batch_id, j.position;
                                GET DIAGNOSTICS given = ROW_COUNT;
                            END IF;
                            IF given > 0 THEN
                                got := got + given;
                                last_lane := lane_id;
                                IF kind_room ? lane_kinds[i] THEN
                                    kind_left := CAST(kind_room ->> lane_kinds[i] AS int) - given;
                                    kind_room := kind_room || jsonb_build_object(lane_kinds[i], kind_left);
                                    IF kind_left <= 0 THEN
                                        kinds := array_remove(kinds, lane_kinds[i]);
                                    END IF;
                                    kind_rate := kind_rates[array_position(limited_kinds, lane_kinds[i])];
                                    INSERT INTO kind_turns AS t (kind, due)
                                    SELECT lane_kinds[i], moment + given / kind_rate * interval '1 second'
                                    WHERE kind_rate IS NOT NULL
                                    ON CONFLICT (kind) DO UPDATE
                                    SET due = GREATEST({_DUE.format(rate="kind_rate")}, moment)
                                        + (excluded.due - moment);
                                END IF;
                            END IF;
                            CONTINUE WHEN given = most AND (lane_limits[i] IS NULL OR given < room);

                            -- There is no more in it, or no room: it is not looked at again until somebody says so.
                            -- That is seen to under its lock. Whoever makes something claimable writes there last of
                            -- all: before this, and we see what they did; or after it, and what they say counts.
                            PERFORM FROM lanes l WHERE l.batch_id = lane_id FOR NO KEY UPDATE SKIP LOCKED;
                            rests := FOUND;
                            due := NULL;
                            IF rests AND given = most THEN
                                rests := lane_limits[i] <= ({_HELD});
                            ELSIF rests THEN
                                SELECT j.run_after INTO due FROM jobs j
                                WHERE j.batch_id = lane_id AND j.status = 'QUEUED' AND j.lease_token IS NULL
                                    AND j.run_after IS NOT NULL
                                ORDER BY j.run_after LIMIT 1;
                                rests := coalesce(due > moment, true) AND NOT EXISTS (
                                    SELECT FROM jobs j
                                    WHERE j.batch_id = lane_id AND j.status = 'QUEUED' AND j.lease_token IS NULL
                                        AND j.run_after IS NULL
                                );
                            END IF;
                            IF rests THEN
                                UPDATE lanes l SET ready = false, ready_at = due WHERE l.batch_id = lane_id;
                            ELSE
                                passed := passed || lane_id;
                            END IF;
                        END LOOP;
                    END LOOP;

                    IF got < LEAST(owner_share, remaining) THEN
                        barren := barren || whose;
                    END IF;
                    CONTINUE WHEN got = 0;
                    remaining := remaining - got;
                    owner_turn := whose;
                    IF several OR owner_limit IS NOT NULL THEN
                        held_here := held_here
                            || jsonb_build_object(whose, coalesce(CAST(held_here ->> whose AS int), 0) + got);
                        held_all := held_all
                            || jsonb_build_object(whose, coalesce(CAST(held_all ->> whose AS int), 0) + got);
                    END IF;
                    IF last_lane <> owner_lanes[turn] THEN
                        moved_owners := moved_owners || whose;
                        moved_lanes := moved_lanes || last_lane;
                    END IF;
                END LOOP;
                IF cardinality(moved_owners) > 0 THEN
                    INSERT INTO owner_turns AS t (queue, priority, owner, batch_id)
                    SELECT of_queue, level.priority, u.owner, u.batch_id
                    FROM unnest(moved_owners, moved_lanes) AS u (owner, batch_id)
                    ON CONFLICT (queue, priority, owner) DO UPDATE SET batch_id = excluded.batch_id;
                END IF;
            END LOOP;
            IF owner_turn <> owner_before THEN
                INSERT INTO queue_turns AS t (queue, priority, owner) VALUES (of_queue, level.priority, owner_turn)
                ON CONFLICT (queue, priority) DO UPDATE SET owner = excluded.owner;
            END IF;
        END LOOP;
    END LOOP;
END $$
"""  # noqa: S608
