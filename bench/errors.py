"""The one exception that the runner reports as a sentence instead of a traceback."""


class BenchError(Exception):
    """Nothing could be measured; the message says why and what to do."""
