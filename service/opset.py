"""Which operator set an ONNX file is written for, read from its bytes: the runtime does not tell, and there is no onnx here."""

from collections.abc import Iterator

OPSET_IMPORT = 8  # field of ModelProto: OperatorSetIdProto, once a domain
DOMAIN, VERSION = 1, 2  # its fields; the domain of the standard operators is empty
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def is_ort_format(content: bytes) -> bool:
    """Tell whether bytes are a model in ONNX Runtime's own format: a flatbuffer, whose mark follows four bytes of an offset."""
    return content[4:8] == b"ORTM"


def read_opset(content: bytes) -> int | None:
    """Read the version of the standard operators; None when the bytes are no ONNX file."""
    try:
        for number, value in fields(memoryview(content)):
            if number == OPSET_IMPORT and isinstance(value, memoryview):
                found = dict(fields(value))
                version = found.get(VERSION)
                if bytes(found.get(DOMAIN, b"")) in (b"", b"ai.onnx") and isinstance(version, int):
                    return version
    except (IndexError, ValueError):
        pass
    return None


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of a protobuf message's fields; what has another wire type than a number is yielded as bytes.

    Raises:
        ValueError, IndexError: when it is no such message.
    """
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = varint(message, at)
            yield number, value
            continue
        if wire == BYTES:
            length, at = varint(message, at)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"got wire type {wire}")
        if at + length > len(message):
            raise ValueError("got a field beyond the end")
        yield number, message[at : at + length]
        at += length


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of variable length; returns it and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("got a number of more than ten bytes")
