"""The config written at the first start: its text, and the same as data (a test holds them equal).

Having the data spares the first start the YAML reader, which costs an eighth of a second.
"""

from __future__ import annotations

from typing import Any

TEXT = """\
# llm-bridge の設定（LiteLLM の config.yaml と同じ形式）/ configuration, in LiteLLM's format
#
# 保存すると自動で読み込まれます。誤りがあるときは、直前の正しい設定で動き続けます。
# Saved changes are picked up by themselves. While the file has a mistake, the last good configuration keeps serving.
#
# - model_list の先頭が既定のモデルです（"model": "default"）。
#   The first entry of model_list is the default model ("model": "default").
# - ローカルモデル（ollama/…）は常に1つだけです。API で追加すると、前のものは設定から外れます。
#   There is exactly one local model (ollama/…); adding one through the API takes the previous one out.
# - APIキーは .env に書き、os.environ/変数名 で参照します。
#   Put API keys into .env and refer to them as os.environ/NAME.
#
# 例 / examples:
#   - model_name: smollm-tiny                # モデルの呼び名 / the name clients use
#     litellm_params:
#       model: ollama/smollm2:135m           # プロバイダー/モデル名 / provider/model
#   - model_name: claude
#     litellm_params:
#       model: anthropic/claude-sonnet-4-5
#       api_key: os.environ/ANTHROPIC_API_KEY
#       timeout: 120                         # 秒 / seconds

model_list:
  - model_name: bridge-mini
    litellm_params:
      model: ollama/bridge-mini

  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: os.environ/OPENAI_API_KEY

  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
"""


def document() -> dict[str, Any]:
    """What `TEXT` says, as plain data of its own for each caller."""
    key = "os.environ/OPENAI_API_KEY"
    return {
        "model_list": [
            {"model_name": "bridge-mini", "litellm_params": {"model": "ollama/bridge-mini"}},
            {"model_name": "gpt-4o-mini", "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": key}},
            {"model_name": "gpt-4o", "litellm_params": {"model": "openai/gpt-4o", "api_key": key}},
        ]
    }
