"""The outside: HTTP, the command line and settings. HTTP types stay in here."""
