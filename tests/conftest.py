"""Session fixtures: tiny checkpoints are written and converted once, and kept until the session ends."""

from __future__ import annotations

import dataclasses
import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import oracle, tiny


def pytest_configure() -> None:
    """Children are sent Ctrl-C by some tests; a job in the background of a shell would hand them down to ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclasses.dataclass(frozen=True)
class Case:
    """One checkpoint and one file made from it."""

    hf: Path
    gguf: Path

    @functools.cached_property
    def oracle(self) -> oracle.Oracle:
        return oracle.Oracle.from_hf(self.hf)

    @functools.lru_cache(maxsize=24)  # noqa: B019 - cases live as long as the session
    def run(self, tokens: tuple[int, ...], mode: str) -> oracle.Run:
        """The oracle's run, remembered: several tests ask the same."""
        return self.oracle.run(tokens, mode)

    def tokens(self, n: int, seed: int = 0) -> list[int]:
        """Random tokens for which no predictor logit and no routing choice is within float32's reach of tipping.

        One flipped decision is a finite error that says nothing about the engine, so unlucky draws are drawn again.
        """
        return list(self._tokens(n, seed))

    @functools.lru_cache(maxsize=512)  # noqa: B019 - as above
    def _tokens(self, n: int, seed: int) -> tuple[int, ...]:
        rng = np.random.default_rng(seed)
        tokens = [1, *rng.integers(3, 360, n - 1).tolist()]
        for _ in range(200):
            close = np.flatnonzero(self.oracle.run(tokens, "predicted").mask_margins() < 2e-6)
            if len(close) == 0:
                return tuple(tokens)
            tokens[close[0]] = int(rng.integers(3, 360))  # tokens before it do not see the change
        raise AssertionError(f"no {n} tokens without a close decision")

    def open(self, **options: Any) -> Any:
        """`turbosparse.Model` with F32 KV and flash attention off, where rounding is comparable with float64.

        One thread: on a busy machine OpenMP's barriers cost more than these models; test_threads.py has the others.
        """
        import turbosparse

        return turbosparse.Model(self.gguf, **({"kv_type": "f32", "flash_attn": "off", "n_threads": 1} | options))


Cases = Callable[..., Case]


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """cases(family, outtype="f32", hot=False, convert={}, **options of tests.tiny) -> Case"""
    root = tmp_path_factory.mktemp("cases")
    sources: dict[str, Path] = {}
    files: dict[str, Case] = {}

    def source(family: str, options: dict[str, Any]) -> Path:
        key = f"{family} {sorted(options.items())}"
        if key not in sources:
            sources[key] = getattr(tiny, f"write_{family}")(root / f"hf{len(sources)}", **options)
        return sources[key]

    def make(
        family: str, outtype: str = "f32", *, hot: bool = False, convert: dict[str, Any] | None = None, **options: Any
    ) -> Case:
        key = f"{family} {outtype} {hot} {convert} {sorted(options.items())}"
        if key not in files:
            import turbosparse.convert

            hf = source(family, options)
            extra = dict(convert or {})
            if hot:
                extra["stats"] = write_stats(hf, root / f"stats{len(files)}.safetensors")
            path = root / f"{family}{len(files)}.gguf"
            turbosparse.convert.convert(hf, path, outtype=outtype, **extra)
            files[key] = Case(hf, path)
        return files[key]

    return make


def write_stats(hf: Path, path: Path) -> Path:
    """Activation counts of the oracle's dense run over random tokens, as `convert --stats` reads them."""
    model = oracle.Oracle.from_hf(hf)
    tokens = np.random.default_rng(99).integers(3, 360, 64).tolist()
    n_set = int(model.config["num_local_experts"]) if model.is_moe else 1
    out: dict[str, np.ndarray[Any, Any]] = {}
    for il, layer in enumerate(model.run(tokens).layers):
        groups = [layer.expert == e for e in range(n_set)]
        out[f"layers.{il}.counts"] = np.stack([(layer.hidden[g] != 0).sum(0) for g in groups])
        out[f"layers.{il}.columns"] = np.array([g.sum() for g in groups])
        out[f"layers.{il}.branches"] = np.array([(layer.gate > 0).sum(), (layer.up > 0).sum()])
    tiny.write_safetensors(path, {k: v.astype(np.int64) for k, v in out.items()}, tokens="64", corpus="random")
    return path


@pytest.fixture(scope="session")
def mistral(cases: Cases) -> Case:
    """TurboSparse-Mistral's layout, F32, original order."""
    return cases("mistral")


@pytest.fixture(scope="session")
def mistral_hot(cases: Cases) -> Case:
    """The same checkpoint as `mistral`, neurons stored hot-first."""
    return cases("mistral", hot=True)


@pytest.fixture(scope="session")
def mixtral(cases: Cases) -> Case:
    """TurboSparse-Mixtral's layout, F32, 4 experts, neurons stored hot-first."""
    return cases("mixtral", hot=True, seed=1)  # a seed for which every expert has tokens in every layer


@pytest.fixture(scope="session")
def reglu(cases: Cases) -> Case:
    """ReluLLaMA's layout, F32, no predictor."""
    return cases("reglu")
