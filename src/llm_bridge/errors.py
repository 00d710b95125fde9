"""Every error a user can meet: its status, its code, and its text in Japanese and English.

    BridgeError
    ├── RequestError            what the client sent cannot be used (4xx)
    │   ├── BadRequest 400 · NotAuthorised 401 · Forbidden 403 · NotFound 404 · MethodNotAllowed 405
    │   ├── TooLarge 413 · UnsupportedMedia 415 · HeadersTooLarge 431 · RequestTimeout 408
    │   ├── ModelNotFound 404 · ModelNotConfigured 404 · ProviderModelForm 400 · MissingKey 401
    │   └── RevisionMismatch 412 · Refused 409
    ├── DownloadFailed          the users' frame around the true cause (404, 422, 501, 502, 507)
    ├── ConfigInvalid 422       the config as a whole, with line numbers
    └── ServiceError            ours or the upstream's fault (5xx)
        ├── EngineFailed 503 · Unavailable 503 · UpstreamTimeout 504
        ├── UpstreamFailed 502 ── ConnectFailed (nothing was sent: safe to try elsewhere)
        └── Internal 500

Errors are raised anywhere and rendered once, at the edge, by `render_openai`, `render_anthropic` or `render_detail`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import orjson

Lang = Literal["ja", "en"]


class BridgeError(Exception):
    """Base of all errors that reach a user.

    The texts are templates filled from the keyword fields given to the constructor; `retry_after` (seconds) becomes the
    Retry-After header, `param` names the offending field in OpenAI's envelope.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    kind: ClassVar[str] = "server_error"
    ja: ClassVar[str] = "内部エラーが発生しました"
    en: ClassVar[str] = "Internal error"

    def __init__(self, *, param: str | None = None, retry_after: int | None = None, **fields: object) -> None:
        super().__init__(fields)
        self.param = param
        self.retry_after = retry_after
        self.fields = fields

    def text(self, lang: Lang = "ja") -> str:
        """The message in `lang`. A field may itself be a (ja, en) pair."""
        fields = {k: (v[lang == "en"] if isinstance(v, tuple) else v) for k, v in self.fields.items()}
        return (self.ja if lang == "ja" else self.en).format(**fields)

    def __str__(self) -> str:
        return self.text("en")


class RequestError(BridgeError):
    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"
    ja = "{ja}"
    en = "{en}"


class BadRequest(RequestError):
    """400 with a text of its own: ``BadRequest(ja="…", en="…", param="temperature")``."""


class NotAuthorised(RequestError):
    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"
    ja = "APIキーがないか、正しくありません。Authorization: Bearer … で指定してください（{name}）"
    en = "The API key is missing or wrong. Send it as Authorization: Bearer … ({name})"


class MissingKey(RequestError):
    status = 401
    code = "missing_provider_key"
    kind = "authentication_error"
    ja = "モデル {model} のAPIキーがありません。.env に {name}=… を書いて再起動してください"
    en = "No API key for model {model}. Put {name}=… into .env and start again"


class Forbidden(RequestError):
    status = 403
    code = "forbidden"
    kind = "permission_error"


class NotFound(RequestError):
    status = 404
    code = "not_found"
    ja = "{what} は見つかりません"
    en = "{what} was not found"


class ModelNotFound(RequestError):
    """A gateway request names a model that is not configured."""

    status = 404
    code = "model_not_found"
    ja = "モデル {model} は設定に存在しません。設定済みのモデル: {known}"
    en = "Model {model} is not configured. Configured models: {known}"


class ModelNotConfigured(RequestError):
    """The management API's words for a switch to an unknown name (the users' exact text)."""

    status = 404
    code = "model_not_found"
    ja = "モデル {model} は設定に存在しません"
    en = "Model {model} is not in the configuration"


class ProviderModelForm(RequestError):
    code = "provider_model_form"
    ja = "provider_modelはプロバイダー/モデル名 の形式で指定してください（例: ollama/phi3, openai/gpt-4）"
    en = "provider_model must have the form provider/model (for example ollama/phi3, openai/gpt-4)"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"
    ja = "この操作は {allowed} で呼び出してください"
    en = "Call this with {allowed}"


class RequestTimeout(RequestError):
    status = 408
    code = "request_timeout"
    ja = "リクエストの受信が時間内に終わりませんでした"
    en = "The request did not arrive in time"


class Refused(RequestError):
    status = 409
    code = "conflict"


class RevisionMismatch(RequestError):
    status = 412
    code = "revision_mismatch"
    ja = "設定はその間に変更されました（現在の版: {revision}）。読み直してからもう一度実行してください"
    en = "The configuration changed meanwhile (current revision: {revision}). Read it again and retry"


class TooLarge(RequestError):
    status = 413
    code = "request_too_large"
    ja = "リクエストが大きすぎます（上限 {limit} バイト）"
    en = "The request is too large (limit {limit} bytes)"


class UnsupportedMedia(RequestError):
    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(RequestError):
    status = 431
    code = "headers_too_large"
    ja = "リクエストヘッダーが大きすぎます"
    en = "The request headers are too large"


class ConfigInvalid(BridgeError):
    """The configuration as a whole cannot be used; `problems` names each, with line numbers where known."""

    status = 422
    code = "config_invalid"
    kind = "invalid_request_error"
    ja = "設定ファイルに誤りがあります: {problems}"
    en = "The configuration is not valid: {problems}"


class DownloadFailed(BridgeError):
    """The users' frame around a failed download. `cause` is the line that says why; `status` follows the cause."""

    code = "download_failed"
    ja = "エラーが発生しました（exit code: 1）\n出力:\npulling manifest... {cause}\n"
    en = "An error occurred (exit code: 1)\nOutput:\npulling manifest... {cause}\n"

    def __init__(self, cause: str | tuple[str, str], status: int) -> None:
        super().__init__(cause=cause)
        self.status = status  # type: ignore[misc]


class ServiceError(BridgeError):
    status = 503


class EngineFailed(ServiceError):
    """A local engine could not be started or died; `reason` holds the cause and the tail of what it printed."""

    code = "engine_failed"
    ja = "ローカルエンジンを利用できません: {reason}"
    en = "The local engine is not available: {reason}"


class Unavailable(ServiceError):
    """Try again later; always carries Retry-After."""

    code = "unavailable"
    ja = "いまは応答できません: {reason}"
    en = "Not available right now: {reason}"


class UpstreamFailed(ServiceError):
    status = 502
    code = "upstream_failed"
    ja = "接続先 {upstream} が応答の途中で失敗しました: {reason}"
    en = "The upstream {upstream} failed: {reason}"


class ConnectFailed(UpstreamFailed):
    """The connection could not be made, so not a byte of the request was sent."""

    ja = "接続先 {upstream} に接続できません: {reason}"
    en = "Cannot connect to the upstream {upstream}: {reason}"


class UpstreamTimeout(ServiceError):
    status = 504
    code = "upstream_timeout"
    kind = "timeout_error"
    ja = "接続先 {upstream} が時間内に応答しませんでした（{phase}、{seconds} 秒）"
    en = "The upstream {upstream} did not answer in time ({phase}, {seconds} s)"


class Internal(ServiceError):
    status = 500
    code = "internal_error"
    ja = "内部エラーが発生しました（リクエストID: {request_id}）"
    en = "Internal error (request id: {request_id})"


_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai_envelope(error: BridgeError, lang: Lang) -> dict[str, Any]:
    """OpenAI's error object: ``{"error": {"message", "type", "param", "code"}}``."""
    return {"error": {"message": error.text(lang), "type": error.kind, "param": error.param, "code": error.code}}


def render_openai(error: BridgeError, lang: Lang) -> bytes:
    return orjson.dumps(openai_envelope(error, lang))


def render_anthropic(error: BridgeError, lang: Lang) -> bytes:
    """Anthropic's error object: ``{"type": "error", "error": {"type", "message"}}``."""
    kind = _ANTHROPIC_KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": error.text(lang)}})


def render_detail(error: BridgeError, lang: Lang) -> bytes:
    """The management API's form: ``{"detail": "…"}``, a plain string."""
    return orjson.dumps({"detail": error.text(lang)})


def language(accept_language: str, default: Lang = "ja") -> Lang:
    """The language of answers for an Accept-Language value (RFC 9110 12.5.4): the first of ja and en that it ranks."""
    best, best_q = default, 0.0
    for part in accept_language.split(","):
        tag, _, params = part.strip().partition(";")
        try:
            q = float(params.strip()[2:]) if params.strip().startswith("q=") else 1.0
        except ValueError:
            continue
        for lang in ("ja", "en"):
            if tag.strip().lower().split("-")[0] == lang and q > best_q:
                best, best_q = lang, q
    return best
