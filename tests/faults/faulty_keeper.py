"""Runs the keeper of a tampered server, with the same mistake made or fault installed first."""

from __future__ import annotations

from tests.faults.faulty_server import tamper

if __name__ == "__main__":
    from service.keeper import main

    tamper()
    main()
