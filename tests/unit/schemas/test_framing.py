"""Frames: how a value names its schema."""

import pytest

from schemas.framing import confluent, describe, split
from schemas.headers import VALUE_SCHEMA

GUID = b"\x01" + bytes(range(16))


@pytest.mark.parametrize("frame", [b"\x00\x00\x00\x00\x07", GUID, b"\xc3\x01abcdefgh"])
def test_the_frame_is_split_off(frame):
    """Each kind of frame is as long as it should be, whatever follows."""
    assert split(frame + b"\x00\x01", ()) == (frame, len(frame))
    assert split(frame, ()) == (frame, len(frame))


@pytest.mark.parametrize("frame", [b"\x00\x00\x00\x00\x07", GUID])
def test_a_header_leaves_the_value_whole(frame):
    """Where a header names the schema the value is bare, even if it looks as if it had a frame."""
    assert split(b"\x00\x00\x00\x00\x01", [(VALUE_SCHEMA, frame)]) == (frame, 0)
    assert split(b"", [(VALUE_SCHEMA, frame)]) == (frame, 0)


def test_other_headers_and_a_null_one_name_nothing():
    """Only a schema header with a value counts; the key's schema is not the value's."""
    headers = [("__key_schema_id", GUID), (VALUE_SCHEMA, None)]
    assert split(b"\x00\x00\x00\x00\x07", headers) == (b"\x00\x00\x00\x00\x07", 5)


def test_frames_are_described_for_people():
    """A message says which schema a value named, as people would look it up."""
    assert describe(confluent(0xFFFF_FFFF)) == "schema id 4294967295"
    assert describe(GUID) == "schema GUID 00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert describe(b"\xc3\x01" + bytes(8)) == "schema fingerprint 0000000000000000"
