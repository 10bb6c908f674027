"""API keys: made once, kept as hashes, found again."""

import re
from pathlib import Path

import pytest

from agents.bridge.api_keys import ApiKeys, make, parse
from agents.bridge.refusal import Refusal
from streams.settings import Settings, SettingsError


def keys_in(path: Path) -> ApiKeys:
    return ApiKeys.from_settings(Settings(api_keys_file=path))


def test_a_key_is_found_by_its_line(tmp_path: Path) -> None:
    """Whoever has the key is the name in its line, with the roles there; comments and blank lines mean nothing."""
    key, line = make("billing", ["reader", "operator"])
    path = tmp_path / "keys"
    path.write_text(f"# our callers\n\n{line}  # until May\n")
    assert keys_in(path).identify(key) == ("key:billing", ("reader", "operator"))


def test_a_line_does_not_tell_the_key() -> None:
    """Neither the line, nor how an entry shows itself, has the secret; two keys never look alike."""
    key, line = make("billing", ["reader"])
    other, other_line = make("billing", ["reader"])
    secret = key.split("_", 2)[2]
    assert len(secret) == 43  # 256 bits
    assert secret not in str(line)
    assert repr(line.digest) not in repr(line)
    assert key != other
    assert line.salt != other_line.salt


@pytest.mark.parametrize(
    "wrong",
    [
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key.replace("billing", "on-call"),
        lambda key: key.replace("billing", "nobody"),
        lambda key: "ss_billing_",
        lambda key: "ss_billing",
        lambda key: "ss_",
    ],
    ids=["shorter", "longer", "another's name", "nobody's name", "no secret", "no separator", "nothing"],
)
def test_any_other_key_is_refused(wrong: object, tmp_path: Path) -> None:
    """Only the whole key of the name in it is good."""
    key, line = make("billing", ["reader"])
    path = tmp_path / "keys"
    path.write_text(f"{line}\n{make('on-call', ['admin'])[1]}\n")
    assert callable(wrong)
    with pytest.raises(Refusal) as caught:
        keys_in(path).identify(wrong(key))
    assert caught.value.reason == "unknown-api-key"


def test_a_key_is_replaced_without_an_interruption(tmp_path: Path) -> None:
    """Old and new are good while both have a line; the old one ends with its line, and no restart is needed."""
    old, old_line = make("billing", ["reader"])
    new, new_line = make("billing", ["reader"])
    path = tmp_path / "keys"
    path.write_text(f"{old_line}\n{new_line}\n")
    keys = keys_in(path)
    assert keys.identify(old) == keys.identify(new)
    path.write_text(f"{new_line}\n")
    assert keys.identify(new)
    with pytest.raises(Refusal):
        keys.identify(old)


def test_a_wrong_line_is_named_and_not_shown(tmp_path: Path) -> None:
    """The bridge does not start with it, and the message has its number, since the line may hold a key by mistake."""
    key, line = make("billing", ["reader"])
    path = tmp_path / "keys"
    path.write_text(f"{line}\nbilling reader {key}\n")
    with pytest.raises(SettingsError, match=re.escape(f"STREAMS_API_KEYS_FILE: cannot use {path}: line 2: ")) as caught:
        keys_in(path)
    assert key not in str(caught.value)


@pytest.mark.parametrize("name", ["", "-billing", "Billing", "bill ing", "b_c", "b" * 64, "bü"])
def test_an_impossible_name_is_refused(name: str) -> None:
    """Names are part of keys, lines, logs and limits, so they are plain."""
    with pytest.raises(ValueError, match="expected a name"):
        make(name, ["reader"])


def test_an_empty_file_lets_nobody_in() -> None:
    """It is a file without callers, not an error."""
    assert parse(b"") == {}


def test_a_file_is_needed(tmp_path: Path) -> None:
    """Without one, or with one that is not there, the bridge does not start."""
    with pytest.raises(SettingsError, match="STREAMS_API_KEYS_FILE: expected a file"):
        ApiKeys.from_settings(Settings())
    with pytest.raises(SettingsError, match="STREAMS_API_KEYS_FILE: cannot use"):
        keys_in(tmp_path / "none")
