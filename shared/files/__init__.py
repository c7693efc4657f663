"""Where files are, uploads and artifacts alike: in a directory or in a bucket of an S3 store, with the same behaviour.

Each is named by an id of its own, is complete as soon as it is there, and never changes. What it is to people (whose,
its name, its type) stands in PostgreSQL, before the file is there and until after it has gone: so whatever is killed in
between, the row tells what is left.
"""

import os

from shared.files.directory import DirectoryFiles
from shared.files.store import PIECE, STALE, Files, Incoming, pieces
from shared.settings import Bucket, Settings, SettingsError

__all__ = ["PIECE", "STALE", "Files", "Incoming", "check_place", "make_files", "pieces"]


def make_files(settings: Settings) -> Files:
    """Where `settings.uploads` says. Touches and reaches nothing yet."""
    if isinstance(settings.uploads, Bucket):
        from shared.files.bucket import BucketFiles  # noqa: PLC0415  # 0.2 s and 20 MB that a directory does not need

        return BucketFiles(settings.uploads, longest=max(settings.max_upload, settings.max_artifact))
    return DirectoryFiles(settings.uploads)


def check_place(settings: Settings, *, writing: bool = False) -> None:
    """To be called before anything is begun. Raises SettingsError for a directory that cannot be used at all; whether
    a store can is seen later, when it is there. `writing`: who cannot write there is of no use; a worker whose handlers
    only read is.
    """
    if isinstance(settings.uploads, Bucket):
        return
    try:
        settings.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SettingsError(f"HEADWAY_UPLOADS: {settings.uploads} cannot be made: {error.strerror}") from None
    if not os.access(settings.uploads, os.R_OK | os.X_OK):
        raise SettingsError(f"HEADWAY_UPLOADS: {settings.uploads} may not be read by this user")
    if writing and not os.access(settings.uploads, os.W_OK):
        raise SettingsError(f"HEADWAY_UPLOADS: {settings.uploads} may not be written to by this user")
