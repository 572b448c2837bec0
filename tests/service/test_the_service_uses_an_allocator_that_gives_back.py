"""Arrow's allocator is chosen before Arrow is imported, by whatever part of the service comes first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLE = "ARROW_DEFAULT_MEMORY_POOL"


@pytest.mark.skipif(sys.platform != "linux", reason="the allocators are those of Linux")
@pytest.mark.parametrize(("given", "used"), [(None, "jemalloc"), ("system", "system")])
def test_it_is_jemalloc_unless_somebody_says_otherwise(given: str | None, used: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if given is not None:
        environment[VARIABLE] = given
    script = "import service.cli, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == used
