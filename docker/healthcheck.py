"""Exit code 0 where a health page says yes: `python healthcheck.py [URL]`, by default whether a worker is alive."""

import os
import sys
import urllib.error
import urllib.request

DEFAULT = f"http://127.0.0.1:{os.environ.get('STREAMS_HEALTH_PORT', '9100')}/health/live"


def main() -> int:
    """Asks once."""
    try:
        with urllib.request.urlopen(sys.argv[1] if len(sys.argv) > 1 else DEFAULT, timeout=4) as answer:
            return int(answer.status != 200)
    except OSError as error:  # refused, no answer in time, or a page that says no
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
