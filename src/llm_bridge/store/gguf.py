"""Our own bounded reader of a GGUF header. Downloaded and imported files are hostile until they have passed it.

Layout (little-endian): ``"GGUF"``, u32 version, u64 tensor count, u64 key count; the keys (string, u32 type, value);
the tensor infos (string, u32 dimensions, u64 each, u32 type, u64 offset); padding and the tensors' data. Every
count and length is checked against a limit and against what the file can still hold before it is used, nothing is
allocated from a declared size, and the whole check is bounded by a number of steps and by a deadline. The file is read,
not mapped: a file cut short by someone else raises an error here and no SIGBUS.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from dataclasses import dataclass
from typing import BinaryIO

MAX_KEYS = 4096
MAX_TENSORS = 32_768
MAX_KEY_LENGTH = 512
MAX_TENSOR_NAME = 256
MAX_STRING = 16 << 20
MAX_STRINGS = 1_000_000
MAX_HEADER = 256 << 20
MAX_DIMENSIONS = 4
SECONDS = 0.8
KEPT_STRING = 4096
_WINDOW = 1 << 20

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_SIZES = {kind: struct.calcsize(form) for kind, form in _SCALARS.items()}

Value = str | int | float | bool | None


class GgufError(Exception):
    """The file is not a GGUF that can be used; `str()` says why, in English, without quoting the file's bytes."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the bridge wants to know of a model file."""

    architecture: str
    context_length: int | None
    file_size: int
    file_type: int | None
    """llama.cpp's number of the quantisation, or None."""
    size_label: str


def read_header(file: BinaryIO) -> Header:
    """Check an open file from its start.

    Raises:
        GgufError: for every file that cannot be used; nothing else is raised, whatever the bytes.
    """
    try:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise GgufError("not a regular file")
        file.seek(0)
        return _Reader(file, state.st_size).header()
    except (OSError, ValueError, struct.error, MemoryError) as cause:
        raise GgufError(f"the header cannot be read ({type(cause).__name__})") from None


class _Reader:
    """A cursor over the file with a window of one MiB."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._window = b""
        self._at = 0
        self._base = 0  # the file offset of the window's first byte
        self._strings = 0
        self._deadline = time.monotonic() + SECONDS

    def header(self) -> Header:
        if self._size < 24 or self._take(4) != b"GGUF":
            raise GgufError("not a GGUF file")
        if self._u32() not in (2, 3):
            raise GgufError("not GGUF version 2 or 3")
        tensors = self._count(self._u64(), MAX_TENSORS, 24, "tensors")
        if not tensors:
            raise GgufError("it holds no tensors")
        keys = self._count(self._u64(), MAX_KEYS, 13, "keys")
        found = self._keys(keys)
        self._tensors(tensors, found)
        architecture = found.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise GgufError("the architecture is not named")
        context, file_type = found.get(f"{architecture}.context_length"), found.get("general.file_type")
        return Header(
            architecture=architecture[:64],
            context_length=context if isinstance(context, int) and not isinstance(context, bool) else None,
            file_size=self._size,
            file_type=file_type if isinstance(file_type, int) else None,
            size_label=str(found.get("general.size_label") or "")[:64],
        )

    def _keys(self, count: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(count):
            key = self._string(MAX_KEY_LENGTH, keep=MAX_KEY_LENGTH)
            if key in found:
                raise GgufError("a key appears twice")
            found[key] = self._value(self._u32())
        return found

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string(MAX_STRING, keep=KEPT_STRING)
        if kind == _ARRAY:
            self._array()
            return None
        if kind not in _SCALARS:
            raise GgufError("a value has an unknown type")
        value: Value = struct.unpack(_SCALARS[kind], self._take(_SIZES[kind]))[0]
        return value

    def _array(self) -> None:
        kind, count = self._u32(), self._u64()
        if kind == _STRING:
            self._skip_strings(self._count(count, MAX_STRINGS, 8, "strings"))
        elif kind in _SIZES:
            self._skip(self._count(count, MAX_HEADER, _SIZES[kind], "array elements") * _SIZES[kind])
        else:
            raise GgufError("an array has an unknown element type")

    def _skip_strings(self, count: int) -> None:
        """The hot loop: vocabularies hold hundreds of thousands of strings."""
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise GgufError("too many strings")
        unpack = _U64.unpack_from
        window, at = self._window, self._at
        end = len(window) - 8
        for index in range(count):
            if at > end:
                self._at = at
                self._fill(8)
                window, at = self._window, self._at
                end = len(window) - 8
            length = unpack(window, at)[0]
            at += 8 + length
            if at > end:
                if length > MAX_STRING:
                    raise GgufError("a string is too long")
                self._at = at - length
                self._skip(length)
                window, at = self._window, self._at
                end = len(window) - 8
            if not index & 0xFFF:
                self._in_time()
        self._at = at

    def _tensors(self, count: int, found: dict[str, Value]) -> None:
        alignment = found.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 65_536:
            raise GgufError("the alignment cannot be used")
        furthest = 0
        for index in range(count):
            self._string(MAX_TENSOR_NAME, keep=0)
            dimensions = self._u32()
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                raise GgufError("a tensor has too many dimensions")
            self._take(8 * dimensions + 4)
            furthest = max(furthest, self._u64())
            if not index & 0xFF:
                self._in_time()
        start = -(-self._position // alignment) * alignment
        if count and start + furthest >= self._size:
            raise GgufError("the file is cut short: its tensors lie beyond its end")

    def _count(self, count: int, limit: int, least: int, what: str) -> int:
        """A declared count, if it is below its limit and the rest of the file could hold that many."""
        if count > limit or count * least > self._size - self._position:
            raise GgufError(f"too many {what} for this file")
        return count

    def _string(self, limit: int, *, keep: int) -> str:
        length = self._u64()
        if length > limit or length > self._size - self._position:
            raise GgufError("a string is too long")
        kept = self._take(min(length, keep))
        self._skip(length - len(kept))
        return kept.decode("utf-8", "replace")

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _u64(self) -> int:
        return int(_U64.unpack(self._take(8))[0])

    @property
    def _position(self) -> int:
        return self._base + self._at

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._window):
            self._fill(count)
        taken = self._window[self._at : self._at + count]
        self._at += count
        return taken

    def _skip(self, count: int) -> None:
        if self._position + count > min(self._size, MAX_HEADER):
            raise GgufError("the file is cut short")
        self._at += count
        if self._at > len(self._window):
            self._base, self._at, self._window = self._position, 0, b""
            self._file.seek(self._base)

    def _fill(self, count: int) -> None:
        """Make at least `count` bytes available at the cursor."""
        self._in_time()
        if self._position + count > min(self._size, MAX_HEADER):
            raise GgufError("the file is cut short")
        rest = self._window[self._at :]
        self._base, self._at = self._position, 0
        self._window = rest + self._file.read(max(_WINDOW, count))
        if len(self._window) < count:
            raise GgufError("the file is cut short")

    def _in_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise GgufError("the header takes too long to check")
