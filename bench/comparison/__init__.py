"""The same questions to the same actions, asked of Actionlake and of others, in one run."""
