"""TensorFlow's files of records, each a ``tf.train.Example``, read without TensorFlow.

A record is its length (8 bytes), a checksum of that (4), the content, and a checksum of the content (4). The first
checksum tells whether a file is one of records and is whole; the second is not computed, as in Python it would take
longer than all else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from flowkit.errors import UserError

_HEAD, _TAIL = 12, 4
#: Kinds of fields in protocol buffers: a number, 8 bytes, so many bytes, 4 bytes.
_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def record_spans(path: Path) -> list[tuple[int, int]]:
    """Offset and length of the content of each record; reads the lengths alone.

    Raises:
        UserError: the file is missing, cut short, or none of records.
    """
    spans: list[tuple[int, int]] = []
    try:
        end = path.stat().st_size
        with path.open("rb") as file:
            at = 0
            while at < end:
                file.seek(at)
                head = file.read(_HEAD)
                length, checksum = struct.unpack("<QI", head) if len(head) == _HEAD else (0, 0)
                if len(head) < _HEAD or checksum != _masked_crc32c(head[:8]):
                    raise UserError(f"{str(path)!r} is damaged or no file of TensorFlow's records (at byte {at})")
                if at + _HEAD + length + _TAIL > end:
                    raise UserError(f"{str(path)!r} is cut short: record {len(spans)} is not whole, copy it again")
                spans.append((at + _HEAD, length))
                at += _HEAD + length + _TAIL
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    return spans


def read_example(path: Path, offset: int, length: int) -> Mapping[str, bytes | np.ndarray]:
    """The features of the record at ``offset`` by name: bytes, or float32 (n,). Integers are left out.

    Raises:
        UserError: it is no Example.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = memoryview(file.read(length))
        found: dict[str, bytes | np.ndarray] = {}
        for entry in _all(_one(data, 1), 1):
            value = _feature(_one(entry, 2))
            if value is not None:
                found[bytes(_one(entry, 1)).decode()] = value
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (ValueError, IndexError, struct.error) as error:
        raise UserError(f"{str(path)!r} is damaged: what begins at byte {offset} is no Example ({error})") from error
    return found


def _feature(data: memoryview) -> bytes | np.ndarray | None:
    for kind, content in _fields(data):
        if kind == 1:
            return bytes(_one(content, 1))
        if kind == 2:
            return np.frombuffer(b"".join(_all(content, 1)), "<f4")  # packed or one by one
    return None


def _one(data: memoryview, number: int) -> memoryview:
    return next(_all(data, number))


def _all(data: memoryview, number: int) -> Iterator[memoryview]:
    found = False
    for key, content in _fields(data):
        if key == number:
            found = True
            yield content
    if not found:
        raise ValueError(f"field {number} is missing")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Numbers and contents of the fields of a message, numbers left out."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _NUMBER:
            _, at = _varint(data, at)
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at + size > len(data):
            raise ValueError("a field reaches beyond the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _table() -> list[int]:
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        entries.append(entry)
    return entries


_CRC = _table()


def _masked_crc32c(data: bytes) -> int:
    """CRC-32C, turned by 15 bits with a constant added, as these files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
