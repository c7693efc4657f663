class EmbeddedError(Exception):
    """An embedded server did not start; the message is a sentence for whoever typed the command."""
