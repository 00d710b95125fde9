"""From a configured local model to what the engine is asked to run: the preflight of a switch."""

from __future__ import annotations

from dataclasses import dataclass

from llm_bridge.config.schema import ModelEntry
from llm_bridge.engines.base import EngineSpec
from llm_bridge.errors import EngineFailed, Refused
from llm_bridge.settings import Settings
from llm_bridge.store.catalogue import Catalogue, LocalModel
from llm_bridge.store.gguf import GgufError, read_header

_CONTEXT_MAX = 8192  # tokens per sequence unless the settings say otherwise: the cache of longer ones is gigabytes


@dataclass(frozen=True, slots=True)
class Target:
    """A model file and how to run it. Between equal targets no new engine is needed.

    The alias belongs to it: the engine writes the alias it was started with into its answers.
    """

    model: str
    version: tuple[str | None, float]
    """Digest and modification time: the same path may hold another file."""
    spec: EngineSpec

    @property
    def key(self) -> tuple[str, str]:
        return self.spec.name, self.model


def resolve(entry: ModelEntry, settings: Settings, catalogue: Catalogue) -> Target:
    """Find the file of `entry`, check its header, and decide the context. Blocking.

    Raises:
        Refused: it has not been downloaded.
        EngineFailed: its file is not a usable GGUF.
    """
    model = catalogue.find(entry.model)
    if model is None:
        raise Refused(
            ja=f'モデル {entry.model} はまだダウンロードされていません。POST /models/download に {{"model_path": '
            f'"{entry.model}"}} を送ってください',
            en=f"Model {entry.model} has not been downloaded yet. Send "
            f'{{"model_path": "{entry.model}"}} to POST /models/download',
            param="provider_model",
        )
    context = settings.context or min(_trained_context(model), _CONTEXT_MAX)
    return Target(
        model=entry.model,
        version=(model.digest, model.modified),
        spec=EngineSpec(entry.name, model.path, context, settings.parallel, settings.threads),
    )


def _trained_context(model: LocalModel) -> int:
    try:
        with model.path.open("rb") as file:
            header = read_header(file)
    except (GgufError, OSError) as cause:
        reason = (f"{model.name} は使える GGUF ではありません: {cause}", f"{model.name} is not a usable GGUF: {cause}")
        raise EngineFailed(reason=reason) from None
    return header.context_length or _CONTEXT_MAX
