"""The list of all settings."""

from agents.reference import env, is_secret, markdown
from streams.settings import names


def test_every_setting_is_listed_with_its_default() -> None:
    """Each setting stands in the text once, commented out, under its description."""
    lines = env().splitlines()
    for name, field in names().items():
        (at,) = [n for n, line in enumerate(lines) if line.startswith(f"# {name}=")]
        block = lines[: at + 1][lines[:at][::-1].index("") * -1 - 1 :]
        assert block[0] == f"# {field.description}"
    assert "# STREAMS_LANES=bulk,interactive" in lines
    assert "# STREAMS_PUBLISH_TEXT=true" in lines
    assert "# STREAMS_SESSION_TIMEOUT=10" in lines
    assert all(line == "" or line.startswith("# ") for line in lines)


def test_secrets_tell_of_their_file() -> None:
    """A secret, and nothing else, can come from a file, and the list says so."""
    secrets = {name for name, field in names().items() if is_secret(field)}
    assert "STREAMS_KAFKA_SASL_PASSWORD" in secrets
    assert {name for name in names() if f"{name}_FILE" in env()} == secrets


def test_markdown_has_a_row_for_each() -> None:
    """The table has as many rows as there are settings."""
    assert len(markdown().splitlines()) == len(names()) + 2
