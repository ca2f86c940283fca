"""Several models and contexts in one process, interleaved, in different modes: nothing is shared by accident."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tests.conftest import Case
from tests.ggml_sparse.test_logits import assert_close, decode


def test_two_models_interleaved(mistral: Case, mixtral: Case) -> None:
    """Token by token in turns; each gives the bits it gives alone."""
    jobs = [(mistral, "predicted"), (mixtral, "exact"), (mistral, "dense"), (mixtral, "predicted")]
    alone = []
    for case, mode in jobs:
        with case.open(n_ctx=64, mode=mode) as model:
            alone.append([decode(model, [t]) for t in case.tokens(16)])
    models = [case.open(n_ctx=64, mode=mode) for case, mode in jobs]
    try:
        for i in range(16):
            for model, (case, _), expected in zip(models, jobs, alone, strict=True):
                np.testing.assert_array_equal(decode(model, [case.tokens(16)[i]]), expected[i])
    finally:
        for model in models:
            model.close()


def test_models_on_two_threads(mistral: Case, mixtral: Case) -> None:
    """Different handles are independent: two Python threads, one model each."""
    errors: list[BaseException] = []

    def work(case: Case, mode: str, reference: str) -> None:
        try:
            tokens = case.tokens(24)
            with case.open(n_ctx=64, mode=mode, n_threads=1) as model:
                for _ in range(5):
                    assert_close(model.logits(tokens), case.run(tuple(tokens), reference).logits)
        except BaseException as error:
            errors.append(error)

    jobs = [(mistral, "exact", "dense"), (mixtral, "predicted", "predicted"), (mistral, "predicted", "predicted")]
    for case, _, reference in jobs:  # the oracle's memory is filled here, not from the threads
        case.run(tuple(case.tokens(24)), reference)
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors


def test_closing_one_leaves_the_other(mistral: Case) -> None:
    tokens = mistral.tokens(12)
    with mistral.open(n_ctx=64, mode="exact") as kept:
        before = kept.logits(tokens)
        with mistral.open(n_ctx=64, mode="predicted") as gone:
            gone.logits(tokens)
        np.testing.assert_array_equal(kept.logits(tokens), before)


def test_many_models_come_and_go(mistral: Case) -> None:
    """Loading many times leaks neither mappings of the file nor file descriptors."""
    tokens = mistral.tokens(4)

    def mappings() -> int:
        with open("/proc/self/maps", encoding="utf-8") as file:
            return sum(mistral.gguf.name in line for line in file)

    for _ in range(12):
        with mistral.open(n_ctx=16) as model:
            model.logits(tokens)
            assert mappings() >= 1
    assert mappings() == 0


def test_two_contexts_of_one_model(mistral: Case) -> None:
    """The C API's other shape: one model handle, contexts with modes of their own."""
    from turbosparse._native import ffi, lib

    tokens = mistral.tokens(12)
    error = ffi.new("struct ggml_sparse_error *")
    handle = ffi.new("struct ggml_sparse_model **")
    assert lib.ggml_sparse_model_load(str(mistral.gguf).encode(), False, handle, error) == 0, ffi.string(error.message)
    contexts: dict[str, Any] = {}
    try:
        for mode, value in (("dense", 1), ("predicted", 3)):
            params = lib.ggml_sparse_context_default_params()
            params.n_ctx, params.n_threads, params.flash_attn, params.mode = 64, 1, 0, value
            params.type_k = params.type_v = 0
            slot = ffi.new("struct ggml_sparse_context **")
            assert lib.ggml_sparse_context_create(handle[0], ffi.addressof(params), slot, error) == 0
            contexts[mode] = slot[0]
        rows: dict[str, list[Any]] = {mode: [] for mode in contexts}
        for token in tokens:
            for mode, context in contexts.items():
                out = ffi.new("float[]", mistral.oracle.n_vocab)
                one = ffi.new("int32_t[]", [token])
                assert lib.ggml_sparse_context_eval(context, one, 1, out, error) == 0
                rows[mode].append(np.frombuffer(ffi.buffer(out), np.float32).copy())
        for mode, found in rows.items():
            assert_close(np.array(found), mistral.run(tuple(tokens), mode).logits)
    finally:
        for context in contexts.values():
            lib.ggml_sparse_context_free(context)
        lib.ggml_sparse_model_free(handle[0])
