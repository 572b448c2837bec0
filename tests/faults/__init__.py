"""Faults of a whole process: killed, out of disk, out of luck with its disk, told to stop."""
