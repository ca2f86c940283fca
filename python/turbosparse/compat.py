"""Llama of llama-cpp-python, for programs that were written for it: change one import.

    from turbosparse.compat import Llama  # was: from llama_cpp import Llama

    llm = Llama("model.gguf", n_ctx=2048)
    print(llm("Q: Name the planets. A:", max_tokens=32, stop=["Q:"])["choices"][0]["text"])

Names, defaults and the shape of results are those of llama-cpp-python 0.3. What this engine does
not serve is never ignored: any other value than the argument's default raises
UnknownArgumentError, which names it. For everything else there is turbosparse.Model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from time import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from .api import Model
from .chat_template import CHATML, encode_messages
from .errors import ArgumentError, UnknownArgumentError
from .generate import Generation, encode
from .grammar import for_response_format
from .logprobs import TokenLogprobs
from .model import KV_TYPES as NUMBERS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self

RANDOM_SEED = 0xFFFFFFFF
KV_TYPES: Mapping[int | None, str] = {None: "f16"} | {number: name for name, number in NUMBERS.items()}
POOLINGS: Mapping[int, Literal["none", "mean", "last"]] = {-1: "none", 0: "none", 1: "mean", 3: "last"}

# argument -> the values that mean "as usual here"
OF_MODEL: Mapping[str, tuple[Any, ...]] = {
    "n_gpu_layers": (0,), "split_mode": (1,), "main_gpu": (0,), "tensor_split": (None,), "vocab_only": (False,),
    "use_mmap": (True,), "use_mlock": (False,), "kv_overrides": (None, {}), "n_threads_batch": (None,),
    "rope_scaling_type": (-1, None), "attention_type": (-1,), "rope_freq_base": (0.0,), "rope_freq_scale": (0.0,),
    "yarn_ext_factor": (-1.0,), "yarn_attn_factor": (1.0,), "yarn_beta_fast": (32.0,), "yarn_beta_slow": (1.0,),
    "yarn_orig_ctx": (0,), "offload_kqv": (True, False), "op_offload": (None, True, False), "swa_full": (None,),
    "no_perf": (False, True), "lora_base": (None,), "lora_scale": (1.0,), "lora_path": (None,), "numa": (False, 0),
    "chat_handler": (None,), "draft_model": (None,), "tokenizer": (None,), "spm_infill": (False,),
}  # fmt: skip
OF_COMPLETION: Mapping[str, tuple[Any, ...]] = {
    "suffix": (None,), "typical_p": (1.0,), "tfs_z": (1.0,), "mirostat_mode": (0,), "mirostat_tau": (5.0,),
    "mirostat_eta": (0.1,), "stopping_criteria": (None,), "logits_processor": (None,),
    "functions": (None,), "function_call": (None,), "tool_choice": (None, "auto", "none"),
}  # fmt: skip


def _refuse(given: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """UnknownArgumentError for the first argument in `given` whose value would change anything."""
    for name, value in given.items():
        if name not in neutral:
            raise UnknownArgumentError(
                f"turbosparse.compat.Llama has no argument {name!r}", where=name, expected="a known name", found=name
            )
        if not any(value is usual or (type(value) is type(usual) and value == usual) for usual in neutral[name]):
            raise UnknownArgumentError(
                f"{name}={value!r} is not served by turbosparse; leave it out, or use llama_cpp.Llama for this",
                where=name,
                expected=" or ".join(map(repr, neutral[name])),
                found=repr(value),
            )


class Llama:
    """A model with llama-cpp-python's interface.

    Args:
        model_path: of a TurboSparse GGUF file.
        seed, n_ctx, n_batch, n_ubatch, n_threads, last_n_tokens_size, type_k, type_v, flash_attn,
            chat_format, pooling_type: as there; chat_format None or "chatml".
        logits_all, embedding, verbose: accepted; logprobs and embeddings are always to be had, and
            nothing is ever printed.
        mode: ours; how FFNs run.
        others: refused unless they have their default value.

    Raises:
        UnknownArgumentError, and what Model raises.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        seed: int = RANDOM_SEED,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        last_n_tokens_size: int = 64,
        type_k: int | None = None,
        type_v: int | None = None,
        flash_attn: bool = False,
        chat_format: str | None = None,
        pooling_type: int = -1,
        logits_all: bool = False,
        embedding: bool = False,
        verbose: bool = True,
        mode: str | None = None,
        **others: Any,
    ) -> None:
        _refuse(others, OF_MODEL)
        _refuse({"chat_format": chat_format}, {"chat_format": (None, "chatml")})
        _refuse({"type_k": type_k, "type_v": type_v}, dict.fromkeys(("type_k", "type_v"), tuple(KV_TYPES)))
        _refuse({"type_v": type_v}, {"type_v": (type_k,)})
        _refuse({"pooling_type": pooling_type}, {"pooling_type": tuple(POOLINGS)})
        self.model_path = os.fspath(model_path)
        self.verbose = verbose
        self._seed = seed
        self._last_n = last_n_tokens_size
        self._template = CHATML if chat_format == "chatml" else None
        self._pooling = POOLINGS[pooling_type]
        self.model = Model(
            model_path,
            mode=mode,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=min(n_ubatch, n_batch),
            n_threads=n_threads,
            kv_type=KV_TYPES[type_k],
            flash_attn="on" if flash_attn else "off",
        )

    def __repr__(self) -> str:
        return f"<turbosparse.compat.Llama {self.model_path}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self.model.close()

    # --- completions --------------------------------------------------------

    def __call__(self, prompt: str | list[int], *arguments: Any, **named: Any) -> Any:
        """As create_completion."""
        return self.create_completion(prompt, *arguments, **named)

    def create_completion(
        self,
        prompt: str | list[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | list[str] | None = None,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        *,
        model: str | None = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
        **others: Any,
    ) -> Any:
        """A text_completion dict, or with `stream` an iterator of such. max_tokens <= 0 or None: to the end.

        Raises:
            UnknownArgumentError: an argument that is not served.
        """
        _refuse({"suffix": suffix, "typical_p": typical_p, **others}, OF_COMPLETION)
        if echo and logprobs is not None:
            raise UnknownArgumentError("echo=True together with logprobs is not served", where="echo", found="both")
        sampling = {
            "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "min_p": min_p, "top_k": top_k,
            "stop": stop, "frequency_penalty": frequency_penalty, "presence_penalty": presence_penalty,
            "repeat_penalty": repeat_penalty, "seed": seed, "grammar": _gbnf(grammar), "logprobs": logprobs,
            "logit_bias": logit_bias or {},
        }  # fmt: skip
        shown = prompt if isinstance(prompt, str) else self.model.detokenize(prompt)
        head = _head("cmpl-", "text_completion", model or self.model_path)
        reply = _Completion(self._generation(encode(self.model, prompt), sampling), head, shown, echo)
        return reply.chunks() if stream else reply.whole()

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        stream: bool = False,
        stop: str | list[str] | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        model: str | None = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        **others: Any,
    ) -> Any:
        """A chat.completion dict, or with `stream` an iterator of chat.completion.chunk dicts.

        Raises:
            UnknownArgumentError: an argument that is not served.
        """
        _refuse(others, OF_COMPLETION)
        sampling = {
            "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "min_p": min_p, "top_k": top_k,
            "stop": stop, "frequency_penalty": frequency_penalty, "presence_penalty": presence_penalty,
            "repeat_penalty": repeat_penalty, "seed": seed, "logprobs": (top_logprobs or 0) if logprobs else None,
            "grammar": for_response_format(response_format) or _gbnf(grammar), "logit_bias": logit_bias or {},
        }  # fmt: skip
        prompt = encode_messages(self.model, messages, tools=tools, template=self._template)
        head = _head("chatcmpl-", "chat.completion" + ".chunk" * stream, model or self.model_path)
        reply = _Chat(self._generation(prompt, sampling), head)
        return reply.chunks() if stream else reply.whole()

    def _generation(self, prompt: Sequence[int], sampling: dict[str, Any]) -> Generation:
        seed = sampling["seed"] if sampling["seed"] is not None else self._seed
        limit = sampling["max_tokens"]
        sampling |= {
            "seed": None if seed == RANDOM_SEED else seed,
            "max_tokens": limit if limit and limit > 0 else None,
        }
        return Generation(self.model, prompt, reuse=True, penalty_last_n=self._last_n, **sampling)

    # --- vectors ------------------------------------------------------------

    def create_embedding(self, input: str | list[str], model: str | None = None) -> dict[str, Any]:
        """OpenAI's list of embeddings."""
        vectors, count = self.embed([input] if isinstance(input, str) else input, return_count=True)
        return {
            "object": "list",
            "data": [{"object": "embedding", "embedding": v, "index": i} for i, v in enumerate(vectors)],
            "model": model or self.model_path,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }

    def embed(
        self, input: str | list[str], normalize: bool = False, truncate: bool = True, return_count: bool = False
    ) -> Any:
        """Vectors as lists of floats: per token, or per text where pooling_type is 1 (mean) or 3 (last).

        Args:
            truncate: cut a text that is longer than the context; otherwise ContextOverflowError.
            return_count: also tell how many tokens there were: (vectors, count).
        """
        texts = [input] if isinstance(input, str) else input
        tokens = [encode(self.model, text)[: self.n_ctx() if truncate else None] for text in texts]
        vectors = [self._vectors(ids, normalize) for ids in tokens]
        found = vectors[0] if isinstance(input, str) else vectors
        return (found, sum(map(len, tokens))) if return_count else found

    def _vectors(self, tokens: list[int], normalize: bool) -> Any:
        import numpy as np

        states = self.model.hidden_states(tokens).astype(np.float64)
        pooled = {"none": states, "mean": states.mean(axis=0), "last": states[-1]}[self._pooling]
        if normalize:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=-1, keepdims=True), 1e-30)
        return pooled.tolist()

    # --- tokens and the sequence --------------------------------------------

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Ids of UTF-8 bytes."""
        return self.model.tokenize(text.decode("utf-8", "surrogateescape"), add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """Bytes of ids; a space in front is dropped behind BOS, unless `prev_tokens` says where they belong."""
        data = b"".join(self.model.piece(token, special=special) for token in tokens)
        begins = prev_tokens is None and len(tokens) > 0 and tokens[0] == self.token_bos()
        return data.removeprefix(b" ") if begins else data

    def eval(self, tokens: Sequence[int]) -> None:
        """Append to the sequence."""
        self.model.eval(tokens)

    def reset(self) -> None:
        """Forget the sequence."""
        self.model.reset()

    def set_seed(self, seed: int) -> None:
        """Of the completions to come."""
        self._seed = seed

    @property
    def n_tokens(self) -> int:
        """Of the sequence so far."""
        return self.model.n_past

    @property
    def last_logits(self) -> npt.NDArray[np.float32]:
        """Of the last token evaluated, float32 [n_vocab]."""
        return self.model.last_logits()

    def n_ctx(self) -> int:
        """Tokens that the context holds."""
        return self.model.n_ctx

    def n_embd(self) -> int:
        """Width of an embedding."""
        return self.model.info.n_embd

    def n_vocab(self) -> int:
        """Tokens that there are."""
        return self.model.info.n_vocab

    def token_bos(self) -> int:
        """Id, -1 = none."""
        return self.model.info.token_bos

    def token_eos(self) -> int:
        """Id, -1 = none."""
        return self.model.info.token_eos

    def token_nl(self) -> int:
        """Id of a line feed."""
        return self.model.tokenize("\n", add_special=False)[-1]


def _gbnf(grammar: Any) -> str | None:
    """GBNF of a LlamaGrammar, which keeps its text, or of a string."""
    text = getattr(grammar, "_grammar", grammar)
    if text is None or isinstance(text, str):
        return text
    found = type(grammar).__name__
    raise ArgumentError(
        f"grammar must be GBNF text or a LlamaGrammar, not {found}", where="grammar", expected="GBNF", found=found
    )


def _head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}{uuid4()}", "object": kind, "created": int(time()), "model": model}


def _reason(finish_reason: str | None) -> str | None:
    return "stop" if finish_reason == "cancelled" else finish_reason


def _text(token: bytes) -> str:
    return token.decode("utf-8", "ignore")


class _Completion:
    """Dicts of one text completion."""

    def __init__(self, generation: Generation, head: dict[str, Any], prompt: str, echo: bool) -> None:
        self._generation, self._head = generation, head
        self._prompt = prompt if echo else ""
        self._offset = len(prompt)

    def whole(self) -> dict[str, Any]:
        result = self._generation.result()
        logprobs = self._logprobs(result.logprobs) if self._generation.params.logprobs is not None else None
        choice = self._choice(self._prompt + result.text, logprobs, _reason(result.finish_reason))
        return {**self._head, "choices": [choice], "usage": _usage(self._generation)}

    def chunks(self) -> Iterator[dict[str, Any]]:
        held: list[TokenLogprobs] = []  # of tokens whose text is held back
        for chunk in self._generation:
            held += [chunk.logprobs] if chunk.logprobs is not None else []
            if chunk.text:
                logprobs = self._logprobs(tuple(held)) if held else None
                held.clear()
                yield {**self._head, "choices": [self._choice(chunk.text, logprobs, None)]}
        last = self._choice("", None, _reason(self._generation.result().finish_reason))
        yield {**self._head, "choices": [last]}

    def _choice(self, text: str, logprobs: Any, finish_reason: str | None) -> dict[str, Any]:
        return {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any]:
        texts = [_text(entry.token) for entry in entries]
        offsets = [self._offset + len("".join(texts[:i])) for i in range(len(texts))]
        self._offset += len("".join(texts))
        tops = [{_text(a.token): a.logprob for a in (*entry.top, entry)} for entry in entries]
        return {
            "tokens": texts,
            "text_offset": offsets,
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": tops,
        }


class _Chat:
    """Dicts of one chat completion."""

    def __init__(self, generation: Generation, head: dict[str, Any]) -> None:
        self._generation, self._head = generation, head

    def whole(self) -> dict[str, Any]:
        result = self._generation.result()
        wanted = self._generation.params.logprobs is not None
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": result.text},
            "logprobs": _chat_logprobs(result.logprobs) if wanted else None,
            "finish_reason": _reason(result.finish_reason),
        }
        return {**self._head, "choices": [choice], "usage": _usage(self._generation)}

    def chunks(self) -> Iterator[dict[str, Any]]:
        yield self._chunk({"role": "assistant"})
        for chunk in self._generation:
            if chunk.text or chunk.logprobs is not None:
                logprobs = _chat_logprobs([chunk.logprobs]) if chunk.logprobs is not None else None
                yield self._chunk({"content": chunk.text}, logprobs)
        yield self._chunk({}, None, _reason(self._generation.result().finish_reason))

    def _chunk(self, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice]}


def _chat_logprobs(entries: Sequence[TokenLogprobs]) -> dict[str, Any]:
    def shown(token: bytes, logprob: float) -> dict[str, Any]:
        return {"token": _text(token), "bytes": list(token), "logprob": logprob}

    content = [
        {**shown(e.token, e.logprob), "top_logprobs": [shown(a.token, a.logprob) for a in e.top]} for e in entries
    ]
    return {"content": content, "refusal": None}


def _usage(generation: Generation) -> dict[str, int]:
    prompt, completion = len(generation.prompt_tokens), len(generation.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
