"""The command line, with the transport's hooks telling in the log when Faust calls them."""

import functools
import json
import sys
from typing import Any

from agents import cli, transport

#: What a rebalance calls, in this order.
HOOKS = ("on_partitions_revoked", "stop_flow", "wait_empty", "on_partitions_assigned", "perform_seek", "resume_flow")


def observe(name: str) -> None:
    """Has every call of a method of our consumer logged, at its start."""
    original = getattr(transport.Consumer, name)

    @functools.wraps(original)
    def told(*args: Any, **more: Any) -> Any:
        print(json.dumps({"event": "hook", "name": name}), file=sys.stderr, flush=True)
        return original(*args, **more)

    setattr(transport.Consumer, name, told)


if __name__ == "__main__":
    for hook in HOOKS:
        observe(hook)
    cli.main()
