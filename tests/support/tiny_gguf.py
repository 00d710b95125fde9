"""Writes very small GGUF models from scratch, so that tests drive the real engine without a download.

The model is a random Llama (dim 32, one layer, 300 tokens) whose output never leaves printable ASCII: dimension 0 of
the residual stream is a constant, and the output matrix adds a large bonus for printable tokens through it and a large
penalty for all others. So it never emits its end token either, and always generates `max_tokens` tokens.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

_U32, _F32, _STRING, _ARRAY, _I32 = 4, 6, 8, 9, 5
_ALIGN = 32
_DIM, _HEADS, _FFN = 32, 4, 64
_NORMAL, _CONTROL = 1, 3
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CALL = "<tool_call>\u010a"  # with its line break, as the vocabulary writes that byte: the template's delimiter
_CALLS = {_CALL: 24.0, "<|im_end|>": 40.0}
"""Bonuses that make a model end where it may, and call a tool where it may not."""
_MERGED = (
    "th er in on an the re at en or es is it ar ou te st al nd ing to se le ha nt ve me de ic ro us un as li co be"
)
_MERGES = [f"{token[:-1]} {token[-1]}" for token in _MERGED.split()]  # pairs that become one token, in order of rank
_TEMPLATE = r"""
{%- if tools %}{{ '<|im_start|>system\n<tools>\n' }}{%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{%- endfor %}
{{- '</tools>\nCall a function with <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}
{%- if message.content is string %}{{ message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{ '}\n</tool_call>' }}
{%- endfor %}{{ '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"""


def write_tiny_gguf(path: Path, *, seed: int = 0, name: str = "tiny", context: int = 512, calls: bool = False) -> Path:
    """Write a loadable model of about 110 kB; equal arguments give equal bytes. Returns `path`.

    Args:
        calls: a required tool call is all the model ever says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_document(seed, name, context, _CALLS if calls else {}))
    return path


def write_truncated(path: Path, *, keep: float = 0.5) -> Path:
    """A valid header whose tensor data ends early: `keep` is the fraction of the file that is left."""
    data = write_tiny_gguf(path).read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def write_corrupt(path: Path) -> Path:
    """A readable header whose first tensor has a shape that does not fit the model."""
    data = write_tiny_gguf(path).read_bytes()
    mark = _text("token_embd.weight") + struct.pack("<I", 2)
    at = data.index(mark) + len(mark)
    path.write_bytes(data[:at] + struct.pack("<Q", _DIM // 2) + data[at + 8 :])
    return path


def write_not_gguf(path: Path) -> Path:
    """A file that is no model at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"<!DOCTYPE html><title>404</title>\n" * 64)
    return path


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(spare)) for b in range(256)]


def _vocabulary() -> list[str]:
    return [*_byte_alphabet(), *("".join(m.split(" ")) for m in _MERGES), _CALL, *_SPECIAL]


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _strings(values: list[str]) -> bytes:
    return struct.pack("<IQ", _STRING, len(values)) + b"".join(map(_text, values))


def _metadata(name: str, context: int, vocabulary: list[str]) -> list[bytes]:
    numbers = {
        "llama.context_length": context,
        "llama.embedding_length": _DIM,
        "llama.block_count": 1,
        "llama.feed_forward_length": _FFN,
        "llama.attention.head_count": _HEADS,
        "llama.attention.head_count_kv": _HEADS,
        "llama.rope.dimension_count": _DIM // _HEADS,
        "llama.vocab_size": len(vocabulary),
        "general.file_type": 0,
        "tokenizer.ggml.bos_token_id": vocabulary.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": vocabulary.index("<|im_end|>"),
    }
    texts = {
        "general.name": name,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.chat_template": _TEMPLATE,
    }
    kinds = [_CONTROL if token in _SPECIAL else _NORMAL for token in vocabulary]
    rows = [_text("general.architecture") + struct.pack("<I", _STRING) + _text("llama")]
    rows += [_text(key) + struct.pack("<I", _STRING) + _text(value) for key, value in texts.items()]
    rows += [_text(key) + struct.pack("<II", _U32, value) for key, value in numbers.items()]
    rows.append(_text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _F32, 1e-5))
    rows.append(_text("tokenizer.ggml.tokens") + struct.pack("<I", _ARRAY) + _strings(vocabulary))
    rows.append(_text("tokenizer.ggml.merges") + struct.pack("<I", _ARRAY) + _strings(_MERGES))
    packed = struct.pack(f"<{len(kinds)}i", *kinds)
    rows.append(_text("tokenizer.ggml.token_type") + struct.pack("<IIQ", _ARRAY, _I32, len(kinds)) + packed)
    return rows


def _printable(token: str) -> bool:
    return token.isascii() and token.isprintable() and token not in _SPECIAL


Tensor = tuple[str, tuple[int, ...], list[float]]


def _tensors(rng: random.Random, vocabulary: list[str], special: dict[str, float]) -> list[Tensor]:
    """Name, shape (fastest axis first) and values of every tensor."""

    def noise(rows: int, columns: int, scale: float, first: list[float] | None = None) -> list[float]:
        """A matrix of `rows` × `columns`; `first` replaces column 0."""
        values = [rng.gauss(0.0, scale) for _ in range(rows * columns)]
        if first is not None:
            values[::columns] = first
        return values

    def into_stream(columns: int) -> list[float]:
        """A projection back into the residual stream that leaves dimension 0 alone."""
        return [0.0] * columns + noise(_DIM - 1, columns, 0.1)

    ones, size = [1.0] * _DIM, len(vocabulary)
    bonus = [special.get(token, 8.0 if _printable(token) else -8.0) for token in vocabulary]
    square = (_DIM, _DIM)
    return [
        ("token_embd.weight", (_DIM, size), noise(size, _DIM, 1.0, [4.0] * size)),
        ("output_norm.weight", (_DIM,), ones),
        ("output.weight", (_DIM, size), noise(size, _DIM, 0.7, bonus)),
        ("blk.0.attn_norm.weight", (_DIM,), ones),
        ("blk.0.attn_q.weight", square, noise(_DIM, _DIM, 0.2)),
        ("blk.0.attn_k.weight", square, noise(_DIM, _DIM, 0.2)),
        ("blk.0.attn_v.weight", square, noise(_DIM, _DIM, 0.2)),
        ("blk.0.attn_output.weight", square, into_stream(_DIM)),
        ("blk.0.ffn_norm.weight", (_DIM,), ones),
        ("blk.0.ffn_gate.weight", (_DIM, _FFN), noise(_FFN, _DIM, 0.2)),
        ("blk.0.ffn_up.weight", (_DIM, _FFN), noise(_FFN, _DIM, 0.2)),
        ("blk.0.ffn_down.weight", (_FFN, _DIM), into_stream(_FFN)),
    ]


def _document(seed: int, name: str, context: int, special: dict[str, float]) -> bytes:
    vocabulary = _vocabulary()
    tensors = _tensors(random.Random(seed), vocabulary, special)
    rows = _metadata(name, context, vocabulary)
    infos, data = [], b""
    for tensor, shape, values in tensors:
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos.append(_text(tensor) + dims + struct.pack("<IQ", 0, len(data)))
        data += struct.pack(f"<{len(values)}f", *values)
        data += bytes(-len(data) % _ALIGN)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(rows)) + b"".join(rows) + b"".join(infos)
    return head + bytes(-len(head) % _ALIGN) + data
