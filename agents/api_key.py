"""`sentence-streams api-key`: makes a key for a caller of the bridge."""

from agents.bridge.api_keys import make
from agents.bridge.identity import Roles
from agents.console import print_json, remark
from streams.settings import Settings


def run(settings: Settings, name: str, roles: str, *, as_json: bool) -> int:
    """Prints a new key, which is kept nowhere, and the line that lets the bridge know it.

    Raises ValueError where the name or a role is impossible.
    """
    wanted, known = [role.strip() for role in roles.split(",")], Roles(settings.roles)
    if unknown := [role for role in wanted if role not in known]:
        raise ValueError(f"expected roles of STREAMS_ROLES, separated by commas, got {', '.join(unknown)!r}")
    key, line = make(name, wanted)
    if as_json:
        print_json({"key": key, "line": str(line)})
        return 0
    remark("The key, for the caller; it is shown this once:")
    print(key)
    remark("\nThe line for the bridge's STREAMS_API_KEYS_FILE; a running bridge reads it at once:")
    print(line)
    return 0
