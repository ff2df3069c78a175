"""A package, so that tests import what several of them need: `from tests.tiny import ...`."""
