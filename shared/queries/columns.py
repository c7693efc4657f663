"""What is read of a batch (`b`), a job (`j`) and a log line (`l`), wherever one is read."""

BATCH_COLUMNS = """
    b.id, b.owner, b.kind, b.title, b.status, b.version, b.priority, b.concurrency, b.metadata, b.summary,
    b.queued, b.processing, b.completed, b.failed, b.cancelled, b.total, b.progress_sum, b.failed_items, b.line_count,
    b.delayed, b.next_due, b.paused, b.cancel_requested, b.open, b.run_after, b.after_batch, b.after_any, b.held,
    b.expires_at, b.cancel_reason, b.pace, b.created_at, b.started_at, b.finished_at
"""

JOB_COLUMNS = """
    j.id, j.position, j.name, j.status, j.progress, j.step, j.message, j.items_done, j.items_failed, j.items_total,
    j.attempt, j.cancel_requested, j.run_after, j.error_code, j.error_message, j.metadata, j.started_at, j.finished_at,
    j.artifacts, j.version
"""

LINE_COLUMNS = "l.job_id, l.attempt, l.n, l.at, l.level, l.text, l.version"


def _json_text(column: str) -> str:
    """As msgspec writes it: both escape what a string must not hold, and nothing else."""
    return f"coalesce(CAST(to_json({column}) AS text), 'null')"


def _json_time(column: str) -> str:
    """As `events.stamp` has it."""
    form = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
    return f"""coalesce('"' || to_char({column} AT TIME ZONE 'UTC', '{form}') || '"', 'null')"""


# What rows.py makes of a row and msgspec of that, byte for byte.
JOB_JSON = f"""
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
    || ',"metadata":' || coalesce(CAST(j.metadata AS text), '{{}}')
    || coalesce(',"artifacts":' || CAST(j.artifacts AS text), '') || '}}'
"""

LINE_JSON = f"""
    '{{"jobId":"' || l.job_id || '","attempt":' || l.attempt || ',"n":' || l.n || ',"at":' || {_json_time("l.at")}
    || ',"level":' || {_json_text("l.level")} || ',"text":' || {_json_text("l.text")} || '}}'
"""
