"""Trino's functions, a module a family. Importing this package registers them all."""

from queries.athena.functions import aggregates, arrays, conditions, json, maps, numbers, strings, times, urls

__all__ = ["aggregates", "arrays", "conditions", "json", "maps", "numbers", "strings", "times", "urls"]
