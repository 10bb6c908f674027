"""How a value says which schema wrote it.

The frame is what names the schema, one of:
- Confluent's wire format: a byte 0 and the schema's id in the registry, uint32 big-endian;
- its newer form: a byte 1 and the schema's GUID, usually in a header with the bare Avro bytes as the value;
- Avro's single-object encoding: C3 01 and the schema's fingerprint, which needs no registry.
"""

from typing import Final
from uuid import UUID

from schemas.errors import BadBytes
from schemas.headers import VALUE_SCHEMA, Headers

BY_ID: Final = 0x00
BY_GUID: Final = 0x01
BY_FINGERPRINT: Final = 0xC3

_FRAME_SIZES: Final = {BY_ID: 5, BY_GUID: 17, BY_FINGERPRINT: 10}


def split(value: bytes, headers: Headers) -> tuple[bytes, int]:
    """The frame of a value, and where in the value the Avro bytes start."""
    frame = None
    for name, content in headers:
        if name == VALUE_SCHEMA:
            frame = content
    if frame is not None:
        return _checked_header(frame), 0
    if not value:
        raise BadBytes("value: expected a record, it is empty")
    size = _FRAME_SIZES.get(value[0])
    if size is None or (value[0] == BY_FINGERPRINT and value[1:2] != b"\x01"):
        raise BadBytes("value: expected to start with 00 or 01 (Confluent) or C3 01 (Avro single object)")
    if len(value) < size:
        raise BadBytes(f"value: expected {size} bytes that name its schema, it has {len(value)}")
    return value[:size], size


def confluent(schema_id: int) -> bytes:
    """The frame that names a schema by its id."""
    return bytes((BY_ID,)) + schema_id.to_bytes(4, "big")


def describe(frame: bytes) -> str:
    """What a frame names, for a message."""
    if frame[0] == BY_ID:
        return f"schema id {int.from_bytes(frame[1:], 'big')}"
    if frame[0] == BY_GUID:
        return f"schema GUID {UUID(bytes=frame[1:])}"
    return f"schema fingerprint {frame[2:].hex()}"


def _checked_header(frame: bytes) -> bytes:
    if frame[:1] in (b"\x00", b"\x01") and len(frame) == _FRAME_SIZES[frame[0]]:
        return frame
    raise BadBytes(f"header {VALUE_SCHEMA}: expected a byte 0 and an id, or a byte 1 and a GUID")
