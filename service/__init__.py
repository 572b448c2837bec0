"""The outside: HTTP, the command line and settings. HTTP types stay in here."""

import os
import sys

from storage.free_memory import share_arenas

if sys.platform == "linux":
    # Read when Arrow is first imported, also by the processes that are started. Its usual allocator keeps what
    # was freed for each thread: 60 MB stayed behind a stream of 500 MB.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")

# As early, since an arena that a thread has made is there for ever.
share_arenas()
