"""Python imports this at the start of each process that finds it: tests/support/leaky.py says what for."""

from tests.support.leaky import install

install()
