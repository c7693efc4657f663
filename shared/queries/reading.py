"""Reading batches, jobs, log lines and history."""

from sqlalchemy import text

from shared.queries.columns import BATCH_COLUMNS, JOB_COLUMNS, JOB_JSON, LINE_COLUMNS, LINE_JSON

EPOCH = text("SELECT headway_epoch()")

# Whether the database was ever migrated: to ask for the revision of one that was not would be an error in its log.
MIGRATED = text("SELECT to_regclass('alembic_version') IS NOT NULL")

REVISION = text("SELECT version_num FROM alembic_version")

# Begins a new one: every event id that was given out until now is answered with a reset.
ROTATE_EPOCH = text("UPDATE installation SET secret = CAST(gen_random_uuid() AS text)")

BATCH = text(f"SELECT {BATCH_COLUMNS} FROM batches b WHERE b.id = :id AND b.owner = :owner")

# Newest first; ids rise with time. :before is the last id of the page before, null for the first.
BATCHES = text(f"""
    SELECT {BATCH_COLUMNS} FROM batches b
    WHERE b.owner = :owner
        AND b.id < coalesce(CAST(:before AS uuid), CAST('ffffffff-ffff-ffff-ffff-ffffffffffff' AS uuid))
        AND (CAST(:status AS text) IS NULL OR b.status = CAST(:status AS text))
        AND (CAST(:kind AS text) IS NULL OR b.kind = CAST(:kind AS text))
        AND (CAST(:q AS text) IS NULL OR strpos(lower(b.title), lower(CAST(:q AS text))) > 0)
    ORDER BY b.id DESC LIMIT :limit
""")

# By position; :after is the last position of the page before.
JOBS = text(f"""
    SELECT {JOB_COLUMNS} FROM jobs j
    WHERE j.batch_id = :batch_id AND j.position > :after
        AND (CAST(:status AS text) IS NULL OR j.status = CAST(:status AS text))
    ORDER BY j.position LIMIT :limit
""")

JOB = text(f"""
    SELECT {JOB_COLUMNS}, j.batch_id, j.params, j.result, b.kind FROM jobs j JOIN batches b ON b.id = j.batch_id
    WHERE j.id = :id AND b.owner = :owner
""")

# Whose log and progress a job's are part of.
BATCH_OF_JOB = text("""
    SELECT j.batch_id FROM jobs j JOIN batches b ON b.id = j.batch_id WHERE j.id = :id AND b.owner = :owner
""")

# What happened to one job, oldest first: its attempts follow from it.
JOB_TRANSITIONS = text("""
    SELECT t.old_status, t.new_status, t.attempt, t.at, t.reason, t.message FROM transitions t
    WHERE t.job_id = :job_id ORDER BY t.id
""")

# The stream's one question, what changed since version v?, is these three in one snapshot. Jobs and lines come as the
# JSON that viewers get: a stream process has other things to do than to make it of 10,000 rows.
WATCHED_BATCH = text(f"SELECT {BATCH_COLUMNS}, headway_epoch() AS epoch FROM batches b WHERE b.id = :id")
CHANGED_JOBS = text(f"""
    SELECT j.version, j.position, {JOB_JSON} AS json FROM jobs j
    WHERE j.batch_id = :batch_id AND j.version > :since ORDER BY j.version, j.position
""")
# The newest :limit of the lines after :since, newest first. Ordered by the batch as well, which counts only if that is
# not given by `=`: it makes PostgreSQL follow the index from its end, however few lines it believes that there are.
CHANGED_LINES = text(f"""
    SELECT l.version, l.n, {LINE_JSON} AS json FROM log_lines l
    WHERE (l.batch_id, l.version) > (:batch_id, :since) AND l.batch_id <= :batch_id
    ORDER BY l.batch_id DESC, l.version DESC, l.at DESC, l.job_id DESC, l.n DESC LIMIT :limit
""")
# How many lines are newer than each of some versions, which are given in order: those between the first and the second
# are number 1, and so on.
COUNT_LINES = text("""
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
NO_SORT = text("SET LOCAL enable_sort = off")
SEARCH_LINES = text(
    _SEARCH.format(
        line=LINE_COLUMNS,
        those="l.batch_id = :batch_id AND (l.version, l.at, l.job_id, l.n) > (:version, :at, :job_id, :n)",
        order="l.version, l.at, l.job_id, l.n",
        again="m.version, m.at, m.job_id, m.n",
    )
)
SEARCH_JOB_LINES = text(
    _SEARCH.format(line=LINE_COLUMNS, those="l.job_id = :job_id AND l.n > :n", order="l.n", again="m.n")
)

# What some jobs are called.
JOB_NAMES = text("""
    SELECT j.id, j.batch_id, j.position, j.name FROM jobs j WHERE j.id = ANY(CAST(:ids AS uuid[]))
""")

# What happened to a batch and its jobs, oldest first; :after is the last id of the page before. Ordered as one index
# is, and as the primary key is not, which would lead past everybody else's.
TIMELINE = text("""
    SELECT t.id, t.at, t.job_id, t.old_status, t.new_status, t.attempt, t.reason FROM transitions t
    WHERE (t.batch_id, t.id) > (:batch_id, :after) AND t.batch_id <= :batch_id ORDER BY t.batch_id, t.id LIMIT :limit
""")

# For polling: where all watched batches are.
VERSIONS = text("""
    SELECT b.id, b.version, headway_epoch() AS epoch FROM batches b WHERE b.id = ANY(CAST(:ids AS uuid[]))
""")

_SHOWN = """
    (SELECT {l} FROM batches l WHERE l.owner = {owner} ORDER BY l.id DESC LIMIT :latest)
    UNION
    (SELECT {a} FROM batches a WHERE a.owner = {owner} AND a.finished_at IS NULL ORDER BY a.id DESC LIMIT :active)
"""

# What an owner's feed begins with: the latest, and all that are not finished, up to a bound. And what it knows of.
FEED = text(f"""
    SELECT {BATCH_COLUMNS} FROM batches b WHERE b.id = ANY(ARRAY(
        {_SHOWN.format(l="l.id", a="a.id", owner=":owner")}
        UNION SELECT k.id FROM unnest(CAST(:known AS uuid[])) AS k (id)
    ))
""")

# The same for many owners, only to see whether anything is new.
FEED_VERSIONS = text(f"""
    SELECT o.owner, shown.id, shown.version FROM unnest(CAST(:owners AS text[])) AS o (owner)
    CROSS JOIN LATERAL ({_SHOWN.format(l="l.id, l.version", a="a.id, a.version", owner="o.owner")}) AS shown
    UNION ALL SELECT b.owner, b.id, b.version FROM batches b WHERE b.id = ANY(CAST(:known AS uuid[]))
""")
