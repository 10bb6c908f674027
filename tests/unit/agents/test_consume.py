"""Where `consume` starts."""

import pytest
from confluent_kafka.admin import OffsetSpec

from agents.consume import start_at


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1700000000123", 1_700_000_000_123),
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-15T00:13:20.5+02:00", 1_700_000_000_500),
        ("2023-11-14", 1_699_920_000_000),
    ],
)
def test_times(text: str, milliseconds: int) -> None:
    """A time is ISO 8601, in UTC where it names no zone, or epoch milliseconds."""
    assert start_at(text)._value == OffsetSpec.for_timestamp(milliseconds)._value


def test_ends() -> None:
    """Beginning and latest are the ends of a partition."""
    assert start_at("beginning")._value == OffsetSpec.earliest()._value
    assert start_at("latest")._value == OffsetSpec.latest()._value


@pytest.mark.parametrize("text", ["", "yesterday", "-5", "2023-13-01"])
def test_nonsense_is_refused(text: str) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError, match=r".+"):
        start_at(text)
