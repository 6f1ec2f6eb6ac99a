"""Whose stored response is this? The Responses API lets a later request name an earlier answer by its id; only the
tenant that got the answer may, and only the replica that gave it can.
"""

from collections import OrderedDict

MAX_RESPONSES = 10_000


class Ownership:
    """Remembers tenant and replica of the newest responses; older ones are forgotten, as engines forget them too."""

    def __init__(self, limit: int = MAX_RESPONSES) -> None:
        self._limit = limit
        self._owners: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def record(self, response_id: str, tenant: str, replica: str) -> None:
        self._owners[response_id] = (tenant, replica)
        if len(self._owners) > self._limit:
            self._owners.popitem(last=False)

    def replica_of(self, response_id: str, tenant: str) -> str | None:
        """The replica that holds the response, or None where it is unknown or another tenant's."""
        owner = self._owners.get(response_id)
        return owner[1] if owner is not None and owner[0] == tenant else None
