"""The commands of `actionlake`, one module each."""
