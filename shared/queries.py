"""All SQL of the system, each statement named and described. Values come in as parameters only.

`j` is always a job, `b` a batch. Statements that change jobs run under their batch's lock (LOCK_BATCH), but for CLAIM,
RENEW and RELEASE with its like, which touch nothing but leases, wait for no lock, and therefore need none.
"""

from sqlalchemy import TextClause, text

_BATCH = """
    b.id, b.owner, b.kind, b.title, b.status, b.version, b.priority, b.concurrency, b.metadata, b.summary,
    b.queued, b.processing, b.completed, b.failed, b.cancelled, b.total, b.progress_sum, b.failed_items, b.line_count,
    b.delayed, b.next_due, b.paused, b.cancel_requested, b.open, b.run_after, b.after_batch, b.after_any, b.expires_at,
    b.pace, b.created_at, b.started_at, b.finished_at
"""

_JOB = """
    j.id, j.position, j.name, j.status, j.progress, j.step, j.message, j.items_done, j.items_failed, j.items_total,
    j.attempt, j.cancel_requested, j.run_after, j.error_code, j.error_message, j.metadata, j.started_at, j.finished_at,
    j.version
"""

_LINE = "l.job_id, l.attempt, l.n, l.at, l.level, l.text, l.version"


def _json_text(column: str) -> str:
    """As msgspec writes it: both escape what a string must not hold, and nothing else."""
    return f"coalesce(CAST(to_json({column}) AS text), 'null')"


def _json_time(column: str) -> str:
    """As `events.stamp` has it."""
    form = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
    return f"""coalesce('"' || to_char({column} AT TIME ZONE 'UTC', '{form}') || '"', 'null')"""


# What rows.py makes of a row and msgspec of that, byte for byte.
_JOB_JSON = f"""
    '{{"id":"' || j.id || '","position":' || j.position || ',"name":' || {_json_text("j.name")}
    || ',"status":"' || j.status || '","progress":' || j.progress || ',"step":' || {_json_text("j.step")}
    || ',"message":' || {_json_text("j.message")}
    || ',"items":' || CASE WHEN j.items_total IS NULL THEN 'null' ELSE
        '{{"done":' || j.items_done || ',"failed":' || j.items_failed || ',"total":' || j.items_total || '}}' END
    || ',"attempt":' || j.attempt || ',"cancelRequested":' || j.cancel_requested
    || ',"runAfter":' || {_json_time("j.run_after")}
    || ',"error":' || CASE WHEN j.error_code IS NULL THEN 'null' ELSE
        '{{"code":' || {_json_text("j.error_code")} || ',"message":' || {_json_text("j.error_message")} || '}}' END
    || ',"startedAt":' || {_json_time("j.started_at")} || ',"finishedAt":' || {_json_time("j.finished_at")}
    || ',"metadata":' || coalesce(CAST(j.metadata AS text), '{{}}') || '}}'
"""

_LINE_JSON = f"""
    '{{"jobId":"' || l.job_id || '","attempt":' || l.attempt || ',"n":' || l.n || ',"at":' || {_json_time("l.at")}
    || ',"level":' || {_json_text("l.level")} || ',"text":' || {_json_text("l.text")} || '}}'
"""


def _query(sql: str) -> TextClause:
    return text(sql)


# -- changing a batch ---------------------------------------------------------------------------------------------

# The first statement of every change: commit order becomes version order.
LOCK_BATCH = _query(f"""
    SELECT {_BATCH}, headway_epoch() AS epoch FROM batches b WHERE b.id = :id FOR NO KEY UPDATE
""")

# Reserved jobs begin to run, if they are still queued under their token. `delayed`: it had rested until a given time.
START_JOBS = _query(f"""
    UPDATE jobs j
    SET status = 'PROCESSING', attempt = j.attempt + 1, step = NULL, message = NULL,
        error_code = NULL, error_message = NULL, run_after = NULL, started_at = clock_timestamp(), version = :version,
        lease_until = clock_timestamp() + CAST(:lease AS float8) * interval '1 second'
    FROM jobs old
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = :token AND j.status = 'QUEUED' AND old.id = j.id
    RETURNING {_JOB}, j.params, j.failures, j.last_line, old.run_after IS NOT NULL AS delayed
""")

# After a commit whose outcome is unknown: those that it did start.
STARTED_JOBS = _query(f"""
    SELECT {_JOB}, j.params, j.failures, j.last_line FROM jobs j
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = :token AND j.status = 'PROCESSING'
""")

# Running jobs get on, or end. Fenced: only while the job runs under the given token (and, for the sweeper, only if the
# lease is over). After a cancel nothing goes back to the queue or fails: it is cancelled. The ids are given twice more:
# a plan that was made without knowing how many they are would rather read everything that runs anywhere.
UPDATE_JOBS = _query(f"""
    WITH wanted AS (
        SELECT u.*, j.progress AS old_progress, coalesce(j.items_failed, 0) AS old_items_failed,
            CASE WHEN j.cancel_requested AND u.status IN ('QUEUED', 'FAILED') THEN 'CANCELLED' ELSE u.status END AS ends
        FROM unnest(
            CAST(:ids AS uuid[]), CAST(:tokens AS uuid[]), CAST(:statuses AS text[]), CAST(:progress AS int[]),
            CAST(:steps AS text[]), CAST(:messages AS text[]),
            CAST(:items_done AS int[]), CAST(:items_failed AS int[]), CAST(:items_total AS int[]),
            CAST(:last_lines AS bigint[]), CAST(:error_codes AS text[]), CAST(:error_messages AS text[]),
            CAST(:results AS text[]), CAST(:delays AS float8[]), CAST(:counts AS boolean[])
        ) AS u (id, token, status, progress, step, message, items_done, items_failed, items_total,
                last_line, error_code, error_message, result, delay, counts)
        JOIN jobs j ON j.id = u.id AND j.id = ANY(CAST(:ids AS uuid[]))
    )
    UPDATE jobs j
    SET status = w.ends,
        progress = CASE WHEN w.ends = 'COMPLETED' THEN 100 ELSE LEAST(99, GREATEST(j.progress, w.progress)) END,
        step = coalesce(w.step, j.step), message = coalesce(w.message, j.message),
        items_done = CASE WHEN w.ends <> 'QUEUED' THEN coalesce(w.items_done, j.items_done) END,
        items_failed = CASE WHEN w.ends <> 'QUEUED' THEN coalesce(w.items_failed, j.items_failed) END,
        items_total = CASE WHEN w.ends <> 'QUEUED' THEN coalesce(w.items_total, j.items_total) END,
        last_line = GREATEST(j.last_line, w.last_line),
        failures = j.failures + CAST(w.counts AS int),
        error_code = CASE WHEN w.ends IN ('FAILED', 'QUEUED') THEN w.error_code END,
        error_message = CASE WHEN w.ends IN ('FAILED', 'QUEUED') THEN w.error_message END,
        result = CASE WHEN w.ends = 'COMPLETED' THEN CAST(w.result AS jsonb) END,
        run_after = CASE WHEN w.ends = 'QUEUED' THEN clock_timestamp() + w.delay * interval '1 second' END,
        finished_at = CASE WHEN w.ends IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN clock_timestamp() END,
        lease_token = CASE WHEN w.ends = 'PROCESSING' THEN j.lease_token END,
        lease_until = CASE WHEN w.ends = 'PROCESSING' THEN j.lease_until END,
        version = :version
    FROM wanted w
    WHERE j.id = w.id AND j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = w.token AND j.status = 'PROCESSING'
        AND (NOT CAST(:only_expired AS boolean) OR j.lease_until < clock_timestamp())
    RETURNING {_JOB}, w.old_progress, w.old_items_failed
""")

# Log lines; one that is there already (a repeated commit) is left as it is.
ADD_LINES = _query("""
    INSERT INTO log_lines (job_id, n, batch_id, attempt, at, level, text, version)
    SELECT u.job_id, u.n, :batch_id, u.attempt, u.at, u.level, u.text, :version
    FROM unnest(
        CAST(:job_ids AS uuid[]), CAST(:numbers AS bigint[]), CAST(:attempts AS int[]), CAST(:times AS timestamptz[]),
        CAST(:levels AS text[]), CAST(:texts AS text[])
    ) AS u (job_id, n, attempt, at, level, text)
    ON CONFLICT DO NOTHING
""")

ADD_TRANSITIONS = _query("""
    INSERT INTO transitions (batch_id, job_id, old_status, new_status, attempt, at, reason, message)
    SELECT :batch_id, u.job_id, u.old_status, u.new_status, u.attempt, clock_timestamp(), u.reason, u.message
    FROM unnest(
        CAST(:job_ids AS uuid[]), CAST(:old_statuses AS text[]), CAST(:new_statuses AS text[]),
        CAST(:attempts AS int[]), CAST(:reasons AS text[]), CAST(:messages AS text[])
    ) AS u (job_id, old_status, new_status, attempt, reason, message)
""")

# All queued jobs of a batch end as cancelled; their number and what that adds to the
# progress sum. Reserved ones too: their claimer finds them no longer queued.
CANCEL_QUEUED = _query("""
    WITH gone AS (
        UPDATE jobs j
        SET status = 'CANCELLED', finished_at = clock_timestamp(), run_after = NULL, lease_token = NULL,
            lease_until = NULL, error_code = NULL, error_message = NULL, version = :version
        WHERE j.batch_id = :batch_id AND j.status = 'QUEUED'
        RETURNING j.id, j.attempt, j.progress
    ), noted AS (
        INSERT INTO transitions (batch_id, job_id, old_status, new_status, attempt, at, reason)
        SELECT :batch_id, gone.id, 'QUEUED', 'CANCELLED', gone.attempt, clock_timestamp(), 'cancelled' FROM gone
    )
    SELECT count(*) AS jobs, coalesce(sum(100 - progress), 0) AS progress FROM gone
""")

# One queued job ends as cancelled.
CANCEL_QUEUED_JOB = _query(f"""
    UPDATE jobs j
    SET status = 'CANCELLED', finished_at = clock_timestamp(), run_after = NULL, lease_token = NULL,
        lease_until = NULL, error_code = NULL, error_message = NULL, version = :version
    FROM jobs old
    WHERE j.id = :id AND j.status = 'QUEUED' AND old.id = j.id
    RETURNING {_JOB}, old.progress AS old_progress, old.run_after IS NOT NULL AS delayed
""")

# One running job is asked to end.
REQUEST_CANCEL_JOB = _query(f"""
    UPDATE jobs j SET cancel_requested = true, version = :version
    WHERE j.id = :id AND j.status = 'PROCESSING' AND NOT j.cancel_requested
    RETURNING {_JOB}
""")

# Failed jobs of a batch are queued again, with their kind's attempts anew; how many, and what of their batch's progress
# sum and failed items goes with their ends. What they reached stays: a job's progress does not fall.
RETRY_FAILED = _query("""
    WITH again AS (
        UPDATE jobs j
        SET status = 'QUEUED', failures = 0, step = NULL, message = NULL, items_done = NULL, items_failed = NULL,
            items_total = NULL, error_code = NULL, error_message = NULL, result = NULL, run_after = NULL,
            cancel_requested = false, finished_at = NULL, version = :version
        FROM jobs old
        WHERE j.batch_id = :batch_id AND j.status = 'FAILED' AND old.id = j.id AND old.batch_id = j.batch_id
        RETURNING j.id, j.attempt, j.progress, coalesce(old.items_failed, 0) AS items_failed
    ), noted AS (
        INSERT INTO transitions (batch_id, job_id, old_status, new_status, attempt, at, reason)
        SELECT :batch_id, again.id, 'FAILED', 'QUEUED', again.attempt, clock_timestamp(), 'retried' FROM again
    )
    SELECT count(*) AS jobs, coalesce(sum(100 - progress), 0) AS progress,
        coalesce(sum(items_failed), 0) AS items_failed
    FROM again
""")

# The same for one job, which may also be cancelled.
RETRY_JOB = _query(f"""
    UPDATE jobs j
    SET status = 'QUEUED', failures = 0, step = NULL, message = NULL, items_done = NULL, items_failed = NULL,
        items_total = NULL, error_code = NULL, error_message = NULL, result = NULL, run_after = NULL,
        cancel_requested = false, finished_at = NULL, version = :version
    FROM jobs old
    WHERE j.id = :id AND j.status IN ('FAILED', 'CANCELLED') AND old.id = j.id
    RETURNING {_JOB}, old.status AS old_status, coalesce(old.items_failed, 0) AS old_items_failed
""")

# The earliest time at which one of a batch's resting jobs may run again, or null. (Of a min() all may be read.)
NEXT_DUE = _query("""
    SELECT (
        SELECT j.run_after FROM jobs j
        WHERE j.batch_id = :batch_id AND j.status = 'QUEUED' AND j.lease_token IS NULL AND j.run_after IS NOT NULL
        ORDER BY j.run_after LIMIT 1
    )
""")

# Running jobs of a batch are asked to end. (Whatever runs has a token; with that said, nothing else is read.)
REQUEST_CANCEL = _query("""
    UPDATE jobs j SET cancel_requested = true, version = :version
    WHERE j.batch_id = :batch_id AND j.status = 'PROCESSING' AND j.lease_token IS NOT NULL AND NOT j.cancel_requested
""")

# The last statement of every change.
UPDATE_BATCH = _query(f"""
    UPDATE batches b
    SET version = :version, status = :status, queued = :queued, processing = :processing, completed = :completed,
        failed = :failed, cancelled = :cancelled, progress_sum = :progress_sum, failed_items = :failed_items,
        line_count = :line_count, delayed = :delayed, next_due = :next_due, paused = :paused,
        cancel_requested = :cancel_requested,
        summary = CAST(:summary AS jsonb),
        started_at = CASE WHEN :started THEN coalesce(b.started_at, clock_timestamp()) ELSE b.started_at END,
        finished_at = CASE WHEN :finished THEN clock_timestamp() END
    WHERE b.id = :id
    RETURNING {_BATCH}
""")

CLOSE_LANE = _query("DELETE FROM lanes WHERE batch_id = :batch_id")

PAUSE_LANE = _query("UPDATE lanes SET paused = :paused WHERE batch_id = :batch_id")

# Adding up 10,000 results may take longer than a change is usually allowed to be idle (see database.py).
ALLOW_SUMMARY = _query("SET LOCAL idle_in_transaction_session_timeout = '60s'")

# What a summary is made of, in job order.
RESULTS = _query("""
    SELECT CAST(j.result AS text) AS result FROM jobs j
    WHERE j.batch_id = :batch_id AND j.status = 'COMPLETED' ORDER BY j.position
""")

# -- creating -----------------------------------------------------------------------------------------------------

ADD_BATCH = _query(f"""
    INSERT INTO batches AS b (id, owner, kind, title, status, version, priority, concurrency, metadata, queued,
        processing, completed, failed, cancelled, total, progress_sum, failed_items, line_count,
        delayed, paused, cancel_requested, created_at)
    VALUES (:id, :owner, :kind, :title, 'QUEUED', 1, :priority, :concurrency, CAST(:metadata AS jsonb), :total,
        0, 0, 0, 0, :total, 0, 0, 0, 0, false, false, clock_timestamp())
    RETURNING {_BATCH}, headway_epoch() AS epoch
""")

# In the form that COPY takes; columns as in creation.py.
COPY_JOBS = """
    COPY jobs (id, batch_id, position, name, params, status, progress, attempt, failures, cancel_requested,
        last_line, version) FROM STDIN (FORMAT binary)
"""

# For a new batch, or one that is reopened.
ADD_LANE = _query("""
    INSERT INTO lanes (batch_id, queue, owner, kind, priority, concurrency, paused, ready, turn)
    VALUES (:batch_id, :queue, :owner, :kind, :priority, :concurrency, :paused, true, 0)
""")

# Which batch the same request made before. Held by whoever inserts first: a twin waits here until that one is committed
# or gone. An old key counts as new. No row: it is taken.
TAKE_KEY = _query("""
    INSERT INTO idempotency_keys AS k (owner, key, body, batch_id, created_at)
    VALUES (:owner, :key, :body, :batch_id, clock_timestamp())
    ON CONFLICT (owner, key) DO UPDATE
    SET body = excluded.body, batch_id = excluded.batch_id, created_at = excluded.created_at
    WHERE k.created_at < clock_timestamp() - CAST(:ttl AS float8) * interval '1 second'
    RETURNING k.batch_id
""")

FIND_KEY = _query("""
    SELECT k.body, k.batch_id FROM idempotency_keys k
    WHERE k.owner = :owner AND k.key = :key
        AND k.created_at >= clock_timestamp() - CAST(:ttl AS float8) * interval '1 second'
""")

EXPIRE_KEYS = _query("""
    DELETE FROM idempotency_keys k
    WHERE k.created_at < statement_timestamp() - CAST(:ttl AS float8) * interval '1 second'
""")

# -- claiming -----------------------------------------------------------------------------------------------------

# What a lane offers: first what has rested long enough, then the rest by position; each from an index of its own, so
# that neither jobs that still rest nor those that run cost anything. (An index cannot be asked for clock_timestamp().)
_OFFERED = """
    SELECT u.id FROM (
        SELECT d.id FROM (
            SELECT c.id FROM jobs c
            WHERE c.batch_id = l.batch_id AND c.status = 'QUEUED' AND c.lease_token IS NULL
                AND c.run_after <= statement_timestamp()
            ORDER BY c.run_after {lock}
        ) d
        UNION ALL
        SELECT r.id FROM (
            SELECT c.id FROM jobs c
            WHERE c.batch_id = l.batch_id AND c.status = 'QUEUED' AND c.lease_token IS NULL AND c.run_after IS NULL
            ORDER BY c.position {lock}
        ) r
    ) u
    LIMIT CASE WHEN l.concurrency IS NULL THEN CAST(:jobs AS bigint) ELSE GREATEST(0, LEAST(:jobs,
        l.concurrency - (SELECT count(*) FROM jobs r WHERE r.batch_id = l.batch_id AND r.lease_token IS NOT NULL))) END
"""

# Reserves up to :jobs runnable jobs of a queue: by the batch's priority, then its age, then position. It takes no
# batch lock and waits for no lock. `concurrency` is respected here as well as one snapshot can, and exactly at START.
# Written so that no plan, however wrong the statistics are, locks more than it takes: the lanes are ordered first
# (an outer ORDER BY may sort, and so lock, the jobs of all lanes, and others find none), jobs are updated by key.
CLAIM = _query(f"""
    WITH picked AS (
        SELECT j.id FROM (
            SELECT x.batch_id, x.concurrency FROM lanes x WHERE x.queue = :queue AND NOT x.paused
            ORDER BY x.priority DESC, x.batch_id OFFSET 0
        ) l CROSS JOIN LATERAL ({_OFFERED.format(lock="FOR NO KEY UPDATE SKIP LOCKED")}) j
        LIMIT :jobs
    )
    UPDATE jobs j
    SET lease_token = :token, lease_until = clock_timestamp() + CAST(:lease AS float8) * interval '1 second'
    WHERE j.id = ANY(ARRAY(SELECT picked.id FROM picked))
    RETURNING j.id, j.batch_id, j.position
""")

# Up to :jobs of a queue's jobs that could be claimed now.
RUNNABLE = _query(f"""
    SELECT count(*) FROM (
        SELECT 1 FROM lanes l CROSS JOIN LATERAL ({_OFFERED.format(lock="")}) j
        WHERE l.queue = :queue AND NOT l.paused
        LIMIT :jobs
    ) runnable
""")

# Reservations that came to nothing go back; nobody has seen them, so no version.
RELEASE = _query("""
    UPDATE jobs j SET lease_token = NULL, lease_until = NULL
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = :token AND j.status = 'QUEUED'
""")

# The same for claims whose outcome is unknown: what they did reserve, nobody else would take before the lease is over.
RELEASE_CLAIMS = _query("""
    UPDATE jobs j SET lease_token = NULL, lease_until = NULL
    WHERE j.id IN (
        SELECT h.id FROM jobs h
        WHERE h.lease_token IS NOT NULL AND h.lease_token = ANY(CAST(:tokens AS uuid[])) AND h.status = 'QUEUED'
        FOR NO KEY UPDATE SKIP LOCKED
    )
""")

# -- leases -------------------------------------------------------------------------------------------------------

# Those of my jobs that are still mine, with what was asked of them. The ids twice, as in UPDATE_JOBS.
HELD = _query("""
    SELECT j.id, j.cancel_requested FROM jobs j
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS u (id, token) ON u.id = j.id
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.lease_token = u.token AND j.status = 'PROCESSING'
""")

# A row that is locked is left out, so that this never waits for a change of its batch: its turn comes again soon.
RENEW = _query("""
    UPDATE jobs j SET lease_until = clock_timestamp() + CAST(:lease AS float8) * interval '1 second'
    WHERE j.id IN (
        SELECT h.id FROM jobs h
        JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS u (id, token) ON u.id = h.id
        WHERE h.id = ANY(CAST(:ids AS uuid[])) AND h.lease_token = u.token AND h.status = 'PROCESSING'
        FOR NO KEY UPDATE OF h SKIP LOCKED
    )
""")

# Running jobs whose worker was not heard of any more at :now.
EXPIRED = _query("""
    SELECT j.id, j.batch_id, j.lease_token, j.attempt, j.failures, j.last_line, b.kind, clock_timestamp() AS now
    FROM jobs j JOIN batches b ON b.id = j.batch_id
    WHERE j.lease_token IS NOT NULL AND j.status = 'PROCESSING' AND j.lease_until < :now
    ORDER BY j.batch_id LIMIT :jobs
""")

# Reservations whose worker is not heard of any more.
RELEASE_EXPIRED = _query("""
    UPDATE jobs j SET lease_token = NULL, lease_until = NULL
    WHERE j.id IN (
        SELECT h.id FROM jobs h
        WHERE h.lease_token IS NOT NULL AND h.status = 'QUEUED' AND h.lease_until < clock_timestamp()
        FOR NO KEY UPDATE SKIP LOCKED
    )
""")

# This server's clock, by which leases go, and since when it has been up.
CLOCK = _query("SELECT clock_timestamp() AS now, pg_postmaster_start_time() AS up_since")

# One sweeper at a time, and one that deletes. Held by the transaction, not the session, so that PgBouncer may be
# between.
TRY_LOCK = _query("SELECT pg_try_advisory_xact_lock(:lock)")

# -- deleting -----------------------------------------------------------------------------------------------------

# A finished batch that was kept long enough, under its lock: an older answer might be of one that was retried since.
OUTLIVED = _query("""
    SELECT b.id FROM batches b
    WHERE b.finished_at < statement_timestamp() - CAST(:retention AS float8) * interval '1 second'
    ORDER BY b.finished_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
""")

# Locked in one order and before it is asked who else uses them: a new batch that names one has it locked as well.
LOCK_UPLOADS_OF = _query("""
    SELECT u.id FROM uploads u WHERE u.id IN (SELECT x.upload_id FROM upload_uses x WHERE x.batch_id = :batch_id)
    ORDER BY u.id FOR NO KEY UPDATE
""")

# Those that only this batch used are as good as new: they expire unless they are named again.
LET_GO_UPLOADS = _query("""
    UPDATE uploads u SET expires_at = clock_timestamp() + CAST(:ttl AS float8) * interval '1 second'
    WHERE u.id IN (SELECT x.upload_id FROM upload_uses x WHERE x.batch_id = :batch_id)
        AND NOT EXISTS (SELECT 1 FROM upload_uses o WHERE o.upload_id = u.id AND o.batch_id <> :batch_id)
""")

# What hangs on a batch, in bulk: one by one, as the foreign keys would have it, takes several times as long.
DELETE_LINES = _query("DELETE FROM log_lines l WHERE l.batch_id = :batch_id")
DELETE_TRANSITIONS = _query("DELETE FROM transitions t WHERE t.batch_id = :batch_id")
DELETE_JOBS = _query("DELETE FROM jobs j WHERE j.batch_id = :batch_id")
DELETE_BATCH = _query("DELETE FROM batches b WHERE b.id = :batch_id")

# -- reading ------------------------------------------------------------------------------------------------------

EPOCH = _query("SELECT headway_epoch()")

# Begins a new one: every event id that was given out until now is answered with a reset.
ROTATE_EPOCH = _query("UPDATE installation SET secret = CAST(gen_random_uuid() AS text)")

BATCH = _query(f"SELECT {_BATCH} FROM batches b WHERE b.id = :id AND b.owner = :owner")

# Newest first; ids rise with time. :before is the last id of the page before, null for the first.
BATCHES = _query(f"""
    SELECT {_BATCH} FROM batches b
    WHERE b.owner = :owner
        AND b.id < coalesce(CAST(:before AS uuid), CAST('ffffffff-ffff-ffff-ffff-ffffffffffff' AS uuid))
        AND (CAST(:status AS text) IS NULL OR b.status = CAST(:status AS text))
        AND (CAST(:kind AS text) IS NULL OR b.kind = CAST(:kind AS text))
        AND (CAST(:q AS text) IS NULL OR strpos(lower(b.title), lower(CAST(:q AS text))) > 0)
    ORDER BY b.id DESC LIMIT :limit
""")

# By position; :after is the last position of the page before.
JOBS = _query(f"""
    SELECT {_JOB} FROM jobs j
    WHERE j.batch_id = :batch_id AND j.position > :after
        AND (CAST(:status AS text) IS NULL OR j.status = CAST(:status AS text))
    ORDER BY j.position LIMIT :limit
""")

JOB = _query(f"""
    SELECT {_JOB}, j.batch_id, j.params, j.result, b.kind FROM jobs j JOIN batches b ON b.id = j.batch_id
    WHERE j.id = :id AND b.owner = :owner
""")

# Whose log and progress a job's are part of.
BATCH_OF_JOB = _query("""
    SELECT j.batch_id FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE j.id = :id AND b.owner = :owner
""")

# What happened to one job, oldest first: its attempts follow from it.
JOB_TRANSITIONS = _query("""
    SELECT t.old_status, t.new_status, t.attempt, t.at, t.reason, t.message FROM transitions t
    WHERE t.job_id = :job_id ORDER BY t.id
""")

# The stream's one question, what changed since version v?, is these three in one snapshot. Jobs and lines come as the
# JSON that viewers get: a stream process has other things to do than to make it of 10,000 rows.
WATCHED_BATCH = _query(f"SELECT {_BATCH}, headway_epoch() AS epoch FROM batches b WHERE b.id = :id")
CHANGED_JOBS = _query(f"""
    SELECT j.version, j.position, {_JOB_JSON} AS json FROM jobs j
    WHERE j.batch_id = :batch_id AND j.version > :since ORDER BY j.version, j.position
""")
# The newest :limit of the lines after :since, newest first. Ordered by the batch as well, which counts only if that is
# not given by `=`: it makes PostgreSQL follow the index from its end, however few lines it believes that there are.
CHANGED_LINES = _query(f"""
    SELECT l.version, l.n, {_LINE_JSON} AS json FROM log_lines l
    WHERE (l.batch_id, l.version) > (:batch_id, :since) AND l.batch_id <= :batch_id
    ORDER BY l.batch_id DESC, l.version DESC, l.at DESC, l.job_id DESC, l.n DESC LIMIT :limit
""")
# How many lines are newer than each of some versions, which are given in order: those between the first and the second
# are number 1, and so on.
COUNT_LINES = _query("""
    SELECT width_bucket(l.version - 1, CAST(:versions AS bigint[])) AS number, count(*) AS lines FROM log_lines l
    WHERE l.batch_id = :batch_id AND l.version > :since GROUP BY 1
""")

# A page of log lines: of those after a given one, and no newer than version :until, up to :limit that are wanted. It
# looks at :window lines at most, however few of them are: then the last of these (`number` is :window) comes along, to
# go on from, wanted or not.
_SEARCH = """
    SELECT m.* FROM (
        SELECT {line}, row_number() OVER (ORDER BY {order}) AS number,
            (CAST(:levels AS text[]) IS NULL OR l.level = ANY(CAST(:levels AS text[])))
            AND (CAST(:q AS text) IS NULL OR strpos(lower(l.text), lower(CAST(:q AS text))) > 0) AS wanted
        FROM log_lines l
        WHERE {those} AND l.version <= :until
        ORDER BY {order} LIMIT :window
    ) m
    WHERE m.wanted OR m.number = :window
    ORDER BY {again} LIMIT :limit
"""
# Before them, for this transaction: as long as there are no statistics all that follows would be sorted for each page.
NO_SORT = _query("SET LOCAL enable_sort = off")
SEARCH_LINES = _query(
    _SEARCH.format(
        line=_LINE,
        those="l.batch_id = :batch_id AND (l.version, l.at, l.job_id, l.n) > (:version, :at, :job_id, :n)",
        order="l.version, l.at, l.job_id, l.n",
        again="m.version, m.at, m.job_id, m.n",
    )
)
SEARCH_JOB_LINES = _query(_SEARCH.format(line=_LINE, those="l.job_id = :job_id AND l.n > :n", order="l.n", again="m.n"))

# What some jobs are called.
JOB_NAMES = _query("""
    SELECT j.id, j.batch_id, j.position, j.name FROM jobs j WHERE j.id = ANY(CAST(:ids AS uuid[]))
""")

# What happened to a batch and its jobs, oldest first; :after is the last id of the page before. Ordered as one index
# is, and as the primary key is not, which would lead past everybody else's.
TIMELINE = _query("""
    SELECT t.id, t.at, t.job_id, t.old_status, t.new_status, t.attempt, t.reason FROM transitions t
    WHERE (t.batch_id, t.id) > (:batch_id, :after) AND t.batch_id <= :batch_id ORDER BY t.batch_id, t.id LIMIT :limit
""")

# For polling: where all watched batches are.
VERSIONS = _query("""
    SELECT b.id, b.version, headway_epoch() AS epoch FROM batches b WHERE b.id = ANY(CAST(:ids AS uuid[]))
""")

_SHOWN = """
    (SELECT {l} FROM batches l WHERE l.owner = {owner} ORDER BY l.id DESC LIMIT :latest)
    UNION
    (SELECT {a} FROM batches a WHERE a.owner = {owner} AND a.finished_at IS NULL ORDER BY a.id DESC LIMIT :active)
"""

# What an owner's feed begins with: the latest, and all that are not finished, up to a bound. And what it knows of.
FEED = _query(f"""
    SELECT {_BATCH} FROM batches b WHERE b.id = ANY(ARRAY(
        {_SHOWN.format(l="l.id", a="a.id", owner=":owner")}
        UNION SELECT k.id FROM unnest(CAST(:known AS uuid[])) AS k (id)
    ))
""")

# The same for many owners, only to see whether anything is new.
FEED_VERSIONS = _query(f"""
    SELECT o.owner, shown.id, shown.version FROM unnest(CAST(:owners AS text[])) AS o (owner)
    CROSS JOIN LATERAL ({_SHOWN.format(l="l.id, l.version", a="a.id, a.version", owner="o.owner")}) AS shown
    UNION ALL SELECT b.owner, b.id, b.version FROM batches b WHERE b.id = ANY(CAST(:known AS uuid[]))
""")

# -- uploads ------------------------------------------------------------------------------------------------------

ADD_UPLOAD = _query("""
    INSERT INTO uploads (id, owner, name, size, content_type, created_at, expires_at)
    VALUES (:id, :owner, :name, :size, :content_type, clock_timestamp(),
        clock_timestamp() + CAST(:ttl AS float8) * interval '1 second')
    RETURNING expires_at
""")

# A batch begins to use them: they no longer expire. Returns those that exist and are the owner's. Locked in one order:
# two batches made of the same uploads at the same time would otherwise stop each other. Of an expired one the file may
# be gone already.
USE_UPLOADS = _query("""
    WITH mine AS (
        SELECT x.id FROM uploads x WHERE x.id = ANY(CAST(:ids AS uuid[])) AND x.owner = :owner
            AND coalesce(x.expires_at >= statement_timestamp(), true)
        ORDER BY x.id FOR NO KEY UPDATE
    )
    UPDATE uploads u SET expires_at = NULL FROM mine WHERE u.id = mine.id RETURNING u.id
""")

USE_UPLOADS_FOR = _query("""
    INSERT INTO upload_uses (batch_id, upload_id) SELECT :batch_id, u.id FROM unnest(CAST(:ids AS uuid[])) AS u (id)
""")

# Those that no batch names, and that were kept long enough, under their locks.
EXPIRED_UPLOADS = _query("""
    SELECT u.id FROM uploads u WHERE u.expires_at < statement_timestamp()
    ORDER BY u.expires_at LIMIT :uploads FOR UPDATE SKIP LOCKED
""")
DELETE_UPLOADS = _query("DELETE FROM uploads u WHERE u.id = ANY(CAST(:ids AS uuid[]))")
