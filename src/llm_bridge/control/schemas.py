"""The bodies of the management API, as pydantic models: what /docs shows and what a client may rely on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Body(BaseModel):
    """A request body. Unknown fields are ignored, so that newer clients work with older bridges; texts stay texts."""

    model_config = ConfigDict(extra="ignore", strict=True, protected_namespaces=())


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ManageRequest(_Body):
    """Add a model (with provider_model) or switch to a configured one (without)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model_name": "smollm-tiny", "provider_model": "ollama/smollm2:135m", "no_restart": False}]
        }
    )

    model_name: str = Field(max_length=256, description="設定でのモデルの名前 / the model's name in the config")
    provider_model: str | None = Field(
        None, description="プロバイダー/モデル名。省略すると切り替え / provider/model; leave it out to switch"
    )
    no_restart: bool = Field(
        False, description="true: 設定だけ書き、いまは適用しない / write the config only, do not apply it now"
    )


class ManageAnswer(_Answer):
    message: str = Field(
        description="結果の文 / the result as a sentence", examples=["モデル smollm-tiny を追加しました"]
    )
    status: Literal["success"] = "success"
    operation: Literal["追加", "切り替え", "削除"] = Field(description="行った操作 / what was done", examples=["追加"])
    is_ollama: bool = Field(description="ローカルモデルか / whether it is a local model", examples=[True])
    model_name: str = Field(examples=["smollm-tiny"])
    provider_model: str | None = Field(None, examples=["ollama/smollm2:135m"])
    applied: bool = Field(description="適用済みか / whether it is applied already", examples=[True])
    removed: list[str] = Field(
        description="設定から外れたモデル / models this took out of the config", examples=[["bridge-mini"]]
    )
    revision: str = Field(description="設定の版 / the config's revision", examples=["1f3c9a0b7d2e4f58"])
    seconds: float = Field(description="かかった秒数 / seconds it took", examples=[1.42])


class DownloadRequest(_Body):
    """Which model to download."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model_path": "smollm2:135m"}]})

    model_path: str = Field(
        max_length=512, description="smollm2:135m、hf.co/user/repo:Q4_K_M など / the model, as Ollama names it"
    )
    stream: bool = Field(False, description="経過を NDJSON で返す / answer with progress as NDJSON")
    background: bool = Field(False, description="待たずにジョブを返す / answer at once with a job")


class DownloadAnswer(_Answer):
    message: str = Field(examples=["モデルのダウンロードが完了しました"])
    log: str = Field(description="何をしたか / what was done", examples=["bridge-mini (5.1 MB): success"])


class ImportRequest(_Body):
    """A .gguf file below the configured import folder."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "x.gguf", "name": "tiny"}]})

    path: str = Field(
        min_length=1, max_length=4096, description="取り込みフォルダからの相対パス / path relative to the import folder"
    )
    name: str | None = Field(
        None, max_length=350, description="モデルの名前（既定: ファイル名） / its name (default: the file's)"
    )


class ImportAnswer(_Answer):
    message: str = Field(examples=["モデル tiny を取り込みました"])
    status: Literal["success"] = "success"
    model_name: str = Field(examples=["tiny"])
    provider_model: str = Field(description="/models/manage に渡す値 / for /models/manage", examples=["ollama/tiny"])
    size: str = Field(examples=["5.1 MB"])
    digest: str | None = Field(None, examples=["sha256:" + "0" * 64])


class Model(_Answer):
    """A model that is configured, stored here, or both."""

    name: str = Field(
        description="設定での名前、またはローカルでの名前 / its configured or local name", examples=["gpt-4o-mini"]
    )
    size: str = Field(description='"N/A": APIモデル / an API model', examples=["5.1 MB"])
    type: str = Field(description="プロバイダー / the provider", examples=["ollama"])
    configured: bool = Field(description="設定にあるか / whether it is in the config", examples=[True])
    active: bool = Field(description="いま応答できるか / whether it serves now", examples=[True])
    default: bool = Field(description='"model": "default" の相手か / whether it is the default', examples=[False])
    provider_model: str = Field(examples=["ollama/bridge-mini"])
    size_bytes: int | None = Field(None, description="バイト数 / bytes", examples=[5_100_000])
    builtin: bool = Field(False, description="組み込みか / whether it comes with the package")
    stored: bool = Field(False, description="ファイルがここにあるか / whether its file is here")
    api_base: str | None = Field(None, examples=["https://api.openai.com/v1"])


class ConfigAnswer(_Answer):
    """The config in LiteLLM's shape, secrets masked (``****`` and the last four characters of long ones)."""

    model_list: list[dict[str, Any]] = Field(
        examples=[[{"model_name": "bridge-mini", "litellm_params": {"model": "ollama/bridge-mini"}}]]
    )


class ChangeAnswer(_Answer):
    message: str = Field(examples=["設定を再読み込みしました"])
    warning: str | None = Field(
        None,
        description="適用後もローカルモデルが動かない原因 / why the local model does not run although this was applied",
    )
    status: Literal["success"] = "success"
    applied: bool = Field(examples=[True])
    removed: list[str] = Field(examples=[[]])
    revision: str = Field(examples=["1f3c9a0b7d2e4f58"])
    seconds: float = Field(examples=[0.2])


class ValidateAnswer(_Answer):
    valid: Literal[True] = True
    revision: str = Field(description="保存した場合の版 / the revision it would get", examples=["1f3c9a0b7d2e4f58"])
    models: list[str] = Field(examples=[["bridge-mini", "gpt-4o-mini", "gpt-4o"]])
    unapplied: list[str] = Field(
        description="受け付けるがまだ効かない設定 / accepted, but without effect in this version",
        examples=[["litellm_params.rpm"]],
    )


class Revision(_Answer):
    number: int = Field(examples=[12])
    revision: str = Field(examples=["1f3c9a0b7d2e4f58"])
    saved: str = Field(description="保存日時（UTC） / when it was saved", examples=["2026-01-31T12:00:00Z"])
    current: bool = Field(description="いまのファイルか / whether it is the file now", examples=[True])


class RollbackRequest(_Body):
    """Which revision to go back to; GET /config/history lists them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "1f3c9a0b7d2e4f58"}]})

    revision: str = Field(max_length=64)


class Health(_Answer):
    status: Literal["ok", "not ready"] = Field(examples=["ok"])


class Problem(BaseModel):
    """Every error of this API."""

    detail: str = Field(
        description="原因。既定は日本語、Accept-Language: en で英語 / the cause; English with Accept-Language: en",
        examples=["モデル foo は設定に存在しません"],
    )
