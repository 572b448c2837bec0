"""The operating system's walls around a worker process: what each is made of, and which of them stand.

`around.py` raises them in the right order; the other modules know one mechanism each. Nothing here knows DuckDB.
"""
