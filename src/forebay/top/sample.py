"""What a gateway's /metrics said at one moment: the value of every metric by its name and labels."""

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Sample:
    """All values at `at`, monotonic seconds."""

    at: float
    values: Mapping[str, Mapping[Labels, float]]

    @classmethod
    def of(cls, text: str, at: float) -> "Sample":
        """Read Prometheus's text format. Raises ValueError."""
        values: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                values.setdefault(one.name, {})[frozenset(one.labels.items())] = one.value
        return cls(at, values)
