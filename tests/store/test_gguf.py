"""F6: a malformed GGUF neither crashes the reader nor holds it up."""

from __future__ import annotations

import os
import random
import struct
import time
from io import BytesIO
from pathlib import Path

import pytest

from llm_bridge.store import gguf
from llm_bridge.store.gguf import GgufError, Header, read_header
from tests.support.tiny_gguf import write_not_gguf, write_tiny_gguf, write_truncated

MUTATIONS = 2000


def read(path: Path) -> Header:
    with path.open("rb") as file:
        return read_header(file)


def test_a_real_header(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", name="tiny", context=512)
    header = read(path)
    assert (header.architecture, header.context_length, header.file_type) == ("llama", 512, 0)
    assert header.file_size == path.stat().st_size


def test_files_that_are_cut_short_or_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="cut short"):
        read(write_truncated(tmp_path / "a.gguf", keep=0.3))
    with pytest.raises(GgufError, match="not a GGUF"):
        read(write_not_gguf(tmp_path / "b.gguf"))


@pytest.mark.parametrize("size", [0, 1, 4, 23, 24, 100])
def test_every_beginning_is_refused(tmp_path: Path, size: int) -> None:
    path = write_tiny_gguf(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(GgufError):
        read(path)


def test_what_is_no_regular_file_is_refused() -> None:
    with Path(os.devnull).open("rb") as file, pytest.raises(GgufError, match="not a regular file"):
        read_header(file)
    with pytest.raises(GgufError):
        read_header(BytesIO(b"GGUF"))


def test_f6_mutations(tmp_path: Path) -> None:
    good = write_tiny_gguf(tmp_path / "good.gguf").read_bytes()
    header_end = good.index(b"output_norm.weight") if b"output_norm.weight" in good else len(good) // 4
    dice, path, crashes, slow, passed, worst = random.Random(6), tmp_path / "x.gguf", 0, 0, 0, 0.0
    for _ in range(MUTATIONS):
        path.write_bytes(_mutated(good, header_end, dice))
        began = time.perf_counter()
        try:
            read(path)
            passed += 1
        except GgufError:
            pass
        except Exception as crash:  # noqa: BLE001 - anything else is what this test counts
            crashes += 1
            print(repr(crash))
        took = time.perf_counter() - began
        worst, slow = max(worst, took), slow + (took > 1)
    print(f"F6: {MUTATIONS} mutations, crashes {crashes}, checks > 1 s {slow}, slowest {worst:.3f} s, passed {passed}")
    assert (crashes, slow) == (0, 0)
    assert 0 < passed < MUTATIONS


def _mutated(good: bytes, header_end: int, dice: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(dice.choice((1, 1, 2, 8))):
        at = dice.randrange(header_end)
        match dice.randrange(5):
            case 0:
                data[at] = dice.randrange(256)
            case 1:
                data[at : at + 8] = struct.pack(
                    "<Q", dice.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1, dice.randrange(2**20)))
                )
            case 2:
                data[at : at + 4] = struct.pack("<I", dice.choice((0, 8, 9, 12, 13, 2**31, 2**32 - 1)))
            case 3:
                del data[dice.randrange(len(data)) :]
                return bytes(data)
            case _:
                data[at:at] = good[: dice.randrange(200)]
    return bytes(data)


def _document(keys: list[bytes], tensors: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(keys)) + b"".join(keys)


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def test_the_largest_vocabulary_of_today_is_read_and_a_hostile_one_ends_in_time(tmp_path: Path) -> None:
    strings = b"".join(_text(b"token%d" % index) for index in range(700_000))
    vocabulary = _text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 700_000) + strings
    name = _text(b"general.architecture") + struct.pack("<I", 8) + _text(b"llama")
    tensor = _text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 0)
    path = tmp_path / "large.gguf"
    path.write_bytes(_document([name, vocabulary]) + tensor + b"\x00" * 4096)
    began = time.perf_counter()
    assert read(path).architecture == "llama"
    took = time.perf_counter() - began
    hostile = _text(b"x") + struct.pack("<IIQ", 9, 8, gguf.MAX_STRINGS) + b"\x00" * (8 * gguf.MAX_STRINGS)
    path.write_bytes(_document([hostile, hostile]) + tensor + b"\x00" * 4096)
    began = time.perf_counter()
    with pytest.raises(GgufError):
        read(path)
    print(f"F6: 700,000 tokens {took:.2f} s, hostile {time.perf_counter() - began:.2f} s")
    assert time.perf_counter() - began < 1
