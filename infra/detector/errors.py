"""Why there is no detector: one sentence for people."""


class BuildError(Exception):
    """The message says what to do, where there is something."""
