"""Write the trained weights, vocabulary and chat template as a GGUF file that llama.cpp loads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from model import BUILD_DIR, END, PAD, SHAPE, START

ASSET = Path(__file__).parents[2] / "src" / "llm_bridge" / "assets" / "bridge-mini.gguf"
MIN_P = 0.5
DESCRIPTION = "Tiny built-in model that explains llm-bridge in Japanese and English"
# ChatML. Roles other than user and assistant count as system; system texts are cut to 300 characters and only the
# last seven messages are kept, so that a prompt stays within the lengths of the training. A question that is all in
# capitals is put in lower case.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- set role = message.role if message.role in ['user', 'assistant'] else 'system' -%}
{%- set ns = namespace(text='') -%}
{%- if message.content is string -%}
{%- set ns.text = message.content | trim -%}
{%- elif message.content -%}
{%- for part in message.content -%}
{%- if part.text -%}{%- set ns.text = ns.text + part.text -%}{%- endif -%}
{%- endfor -%}
{%- set ns.text = ns.text | trim -%}
{%- endif -%}
{%- if role == 'user' and ns.text == ns.text | upper -%}{%- set ns.text = ns.text | lower -%}{%- endif -%}
{%- if role == 'system' -%}{%- set ns.text = ns.text[:300] | trim -%}{%- endif -%}
{%- if loop.first and role == 'system' or loop.index0 + 7 >= messages | length -%}
{{- '<|im_start|>' + role + '\\n' + ns.text + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def add_metadata(writer: GGUFWriter) -> None:
    """Write the general and the architecture keys."""
    writer.add_name("bridge-mini")
    writer.add_author("llm-bridge")
    writer.add_description(DESCRIPTION)
    writer.add_license("MIT")
    writer.add_languages(["en", "ja"])
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(SHAPE.context)
    writer.add_embedding_length(SHAPE.dim)
    writer.add_block_count(SHAPE.layers)
    writer.add_feed_forward_length(SHAPE.hidden)
    writer.add_head_count(SHAPE.heads)
    writer.add_head_count_kv(SHAPE.heads)
    writer.add_rope_dimension_count(SHAPE.head_dim)
    writer.add_rope_freq_base(SHAPE.rope_base)
    writer.add_layer_norm_rms_eps(SHAPE.eps)
    writer.add_vocab_size(SHAPE.vocab)
    # Defaults for sampling: only tokens at least half as likely as the best one.
    writer.add_sampling_min_p(MIN_P)
    writer.add_sampling_temp(0.0)


def add_vocabulary(writer: GGUFWriter, tokenizer: dict) -> None:
    """Write the tokens, merges, special tokens and chat template from the parsed tokenizer.json."""
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    tokens = sorted(ids, key=ids.__getitem__)
    if len(tokens) != SHAPE.vocab:
        raise ValueError(f"the vocabulary has {len(tokens)} tokens, the model {SHAPE.vocab}")
    special = (PAD, START, END)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(ids[PAD])
    writer.add_pad_token_id(ids[PAD])
    writer.add_eos_token_id(ids[END])
    writer.add_eot_token_id(ids[END])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_tensors(writer: GGUFWriter, params: dict[str, np.ndarray]) -> None:
    """Write norms as F32 and matrices as F16."""
    names = {"embed": "token_embd.weight", "norm": "output_norm.weight", "output": "output.weight"}
    named = {names[name]: array for name, array in params.items() if name in names}
    for name, stacked in params.items():
        if name not in names:
            named |= {f"blk.{i}.{name}.weight": layer for i, layer in enumerate(stacked)}
    for name, array in named.items():
        if array.ndim == 1:
            writer.add_tensor(name, array.astype(np.float32))
        else:
            writer.add_tensor(name, array.astype(np.float16), raw_dtype=GGMLQuantizationType.F16)


def export(path: Path) -> None:
    """Write the GGUF file to `path`."""
    writer = GGUFWriter(path, "llama")
    add_metadata(writer)
    add_vocabulary(writer, json.loads((BUILD_DIR / "tokenizer.json").read_text(encoding="utf-8")))
    with np.load(BUILD_DIR / "params.npz") as params:
        add_tensors(writer, dict(params))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ASSET)
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    export(arguments.output)
