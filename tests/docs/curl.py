"""As much of curl as the documentation uses, for machines without it: -s, -X, -H, -d and one address."""

from __future__ import annotations

import argparse
import sys

import httpx


def main() -> int:
    """Send one request and print the answer's body."""
    parser = argparse.ArgumentParser(prog="curl")
    parser.add_argument("-s", "--silent", action="store_true")
    parser.add_argument("-X", "--request")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data")
    parser.add_argument("url")
    given = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in given.header)
    method = given.request or ("GET" if given.data is None else "POST")
    answer = httpx.request(method, given.url, headers=headers, content=given.data, timeout=180)
    sys.stdout.buffer.write(answer.content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
