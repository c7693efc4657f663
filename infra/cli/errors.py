class CliError(Exception):
    """A sentence for whoever typed the command; the exit status is 2."""
