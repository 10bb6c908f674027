"""Tells a schema registry which changes it may take: `python registry-rules.py URL LEVEL`."""

import json
import sys
import urllib.request


def main(url: str, level: str) -> None:
    """Sets the global compatibility level; raises where the registry refuses."""
    body = json.dumps({"compatibility": level}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
