"""The one way in which a measurement ends without a figure."""

from __future__ import annotations


class BenchFailed(Exception):
    """A server did not start, did not answer as it must, or does not hold what it acknowledged."""
