"""Stands in the way of pandas, which the service does not need, and which pyarrow imports wherever it finds it.

The tests start dozens of processes; without this, each spends a third of its start on a library that only other tests
use and that an installed service does not have.
"""

raise ImportError("pandas is not for the processes of the fault tests")
