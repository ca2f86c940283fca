"""The Model of `import turbosparse`: the engine's, with text in and text out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from . import model as engine
from .chat_template import encode_messages
from .choices import require
from .errors import ArgumentError, UnsupportedModelError
from .generate import Generation, Prompt, Result, encode
from .grammar import for_response_format

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Unpack

    from .cancel import CancelToken
    from .conversation import Conversation
    from .options import ModelOptions, SamplingOptions
    from .sampling import SamplingParams

Pooling = Literal["mean", "last"]


class Model(engine.Model):
    """A TurboSparse GGUF file, loaded, ready to write.

        with Model("model.gguf", mode="exact") as model:
            print(model.generate("Once upon a time", max_tokens=64).text)
            for chunk in model.stream("And then", temperature=0.7, seed=1):
                print(chunk.text, end="", flush=True)
            print(model.chat([{"role": "user", "content": "Who was Ada Lovelace?"}]).text)

    A model belongs to one thread at a time and writes one text at a time; cancel() and CancelToken
    alone may be used from any thread. AsyncModel is its twin for asyncio.

    Args:
        path: of the GGUF file; None = the bundled model.
        vram: bytes of graphics memory to use: 0 or None for now, see Raises.
        options: mode, n_ctx, n_threads, kv_type and others, as for turbosparse.model.Model.

    Raises:
        FileError, ModelFormatError, UnsupportedModelError, HostError, OutOfMemoryError, BackendError.
        UnsupportedModelError, too, for any other vram: neurons are not placed on graphics cards yet.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, vram: int | None = None, **options: Unpack[ModelOptions]
    ) -> None:
        if vram:
            raise UnsupportedModelError(
                f"vram={vram!r}: this build computes on the CPU only; leave vram out",
                where="vram",
                expected="0 or None",
                found=str(vram),
            )
        super().__init__(_bundled() if path is None else path, **options)

    def __repr__(self) -> str:
        if not self._open:
            return f"<turbosparse.Model {self.path.name}, closed>"
        size = f"{self.info.bytes_file / 1e6:,.0f} MB"
        return f"<turbosparse.Model {self.path.name}: {size}, mode {self.mode}, {self.n_past}/{self.n_ctx} tokens>"

    # --- text ---------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        reuse: bool = False,
        cancel: CancelToken | None = None,
        **overrides: Unpack[SamplingOptions],
    ) -> Result:
        """The whole continuation of `prompt`.

            result = model.generate("Once upon a time", max_tokens=32, temperature=0)
            print(result.text, result.timings.predicted_per_second, result.sparsity.active_frac)

        Arguments and errors as in stream.
        """
        return self.stream(prompt, params, reuse=reuse, cancel=cancel, **overrides).result()

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        reuse: bool = False,
        cancel: CancelToken | None = None,
        **overrides: Unpack[SamplingOptions],
    ) -> Generation:
        """Iterate over Chunks, one per token and a last one with the finish_reason; result() sums up.

            generation = model.stream("Once upon a time", SamplingParams(temperature=0.7), seed=1)
            for chunk in generation:
                print(chunk.text, end="", flush=True)
            print(generation.result().finish_reason)

        Args:
            prompt: text (control tokens in it are read as such), token ids, or chat messages.
            params: None = what the file recommends, then the defaults of SamplingParams.
            reuse: keep what the prompt shares with the sequence so far: faster, but tokens may
                differ by rounding from those of a fresh sequence.
            cancel: stops this generation, from any thread.
            overrides: fields of SamplingParams by name, on top of `params`.

        Raises:
            ArgumentError, GrammarError, ContextOverflowError, BackendError, OutOfMemoryError;
            UnknownArgumentError (a TypeError) for a name that SamplingParams lacks.
        """
        return Generation(self, prompt, params, reuse=reuse, cancel=cancel, **overrides)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        template: str | None = None,
        reuse: bool = False,
        cancel: CancelToken | None = None,
        **overrides: Unpack[SamplingOptions],
    ) -> Result:
        """The assistant's answer to `messages`, by the model's chat template.

            answer = model.chat([{"role": "user", "content": "Name a colour."}], max_tokens=16)
            print(answer.text)

        Args:
            messages: dicts with "role" and "content"; control tokens in them are text.
            tools: as in OpenAI's API, shown to the model where its template does so.
            response_format: as in OpenAI's API: {"type": "json_object"}, or "json_schema" with a schema.
            template: Jinja, None = the model's.
            params, reuse, cancel, overrides: as in stream.
        """
        return self.stream_chat(
            messages,
            params,
            tools=tools,
            response_format=response_format,
            template=template,
            reuse=reuse,
            cancel=cancel,
            **overrides,
        ).result()

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        response_format: Mapping[str, Any] | None = None,
        template: str | None = None,
        reuse: bool = False,
        cancel: CancelToken | None = None,
        **overrides: Unpack[SamplingOptions],
    ) -> Generation:
        """As chat, token by token."""
        grammar = for_response_format(response_format)
        if grammar is not None:
            if overrides.get("grammar") is not None or (params is not None and params.grammar is not None):
                raise ArgumentError("give grammar or response_format, not both", where="response_format")
            overrides["grammar"] = grammar
        prompt = encode_messages(self, messages, tools=tools, template=template)
        return self.stream(prompt, params, reuse=reuse, cancel=cancel, **overrides)

    def conversation(self, system: str | None = None, params: SamplingParams | None = None) -> Conversation:
        """A chat that remembers what was said.

        talk = model.conversation(system="Be brief.")
        print(talk.ask("Hello!").text)
        """
        from .conversation import Conversation

        return Conversation(self, system=system, params=params)

    # --- vectors ------------------------------------------------------------

    def embed(
        self, texts: str | Sequence[str], *, pooling: Pooling = "mean", normalize: bool = True
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts: float32 [n_embd] for one text, [n_texts, n_embd] for several.

            a, b = model.embed(["a cat", "a kitten"])
            print(float(a @ b))  # cosine of the angle between them

        Made of the hidden states that a language model writes with; useful for likeness, but no
        match for a model trained to embed. The sequence so far is forgotten.

        Args:
            pooling: "mean" of all tokens' states, or that of the "last".
            normalize: to length 1.

        Raises:
            ArgumentError, ContextOverflowError (a text is longer than the context).
        """
        require("pooling", pooling, get_args(Pooling))
        if isinstance(texts, str):
            return self._embed(texts, pooling, normalize)
        rows = [self._embed(text, pooling, normalize) for text in texts]
        return np.stack(rows) if rows else np.empty((0, self.info.n_embd), np.float32)

    def _embed(self, text: str, pooling: Pooling, normalize: bool) -> npt.NDArray[np.float32]:
        states = self.hidden_states(self.tokenize(text) if text else encode(self, ""))
        vector: npt.NDArray[np.float32] = states.mean(axis=0) if pooling == "mean" else states[-1]
        length = max(float((vector @ vector) ** 0.5), 1e-30) if normalize else 1.0
        return np.asarray(vector / length, dtype=np.float32)


def _bundled() -> os.PathLike[str]:
    from .bundled import default_model

    return default_model()
