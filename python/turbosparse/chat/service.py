"""What the routes work on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..server.engine import Engine, LoadOptions, ModelCard
from .loading import Loading
from .replies import Replies
from .store import Store

SHOWN = (
    *("id", "name", "path", "sparse", "note", "architecture", "activation", "default_mode", "has_predictor"),
    *("resident", "n_ctx", "n_ctx_train", "n_threads", "n_layer", "n_ff", "n_expert"),
    *("bytes_file", "bytes_dense_token"),
)
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty")


class Service:
    """A store, an engine, and what goes on between them. close() ends replies and closes the store.

    Args:
        directory: with the conversations; see paths.open_data_dir.
        load_options: of models, where the page does not say otherwise.
    """

    def __init__(self, directory: Path, engine: Engine, load_options: LoadOptions | None = None) -> None:
        self.directory = directory
        self.engine = engine
        self.store = Store(directory)
        self.replies = Replies(self.store, engine)
        self.loading = Loading(self.store, engine, directory / "models", load_options)

    async def close(self) -> None:
        """Replies under way are kept and marked interrupted."""
        await self.loading.close()
        await self.replies.close()
        self.store.close()

    def model(self) -> dict[str, Any]:
        """The loaded model and what is being done to it, for JSON; card is None without one."""
        card = card_of(self.engine.card) if self.engine.state == "ready" else None
        return {**self.loading.as_dict(), "card": card}


def card_of(card: ModelCard) -> dict[str, Any]:
    """What the page shows of a model."""
    defaults = card.defaults
    sampling = {name: getattr(defaults, name) for name in SAMPLING}
    return {**{name: getattr(card, name) for name in SHOWN}, "modes": list(card.modes), "defaults": sampling}
