"""What the training tests share: one thread, the smallest SwiGLU source, a way to call a command."""

from __future__ import annotations

import signal
import sys

import pytest
import torch
from turbosparse.train.source import open_source

from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Matrices of this size gain nothing from a second one, and lose much where the machine is busy."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="session")
def source_dir(tmp_path_factory):
    return tiny.write_reglu(tmp_path_factory.mktemp("silu"), hidden_act="silu")


@pytest.fixture(scope="session")
def source(source_dir):
    return open_source(source_dir)


@pytest.fixture
def call(monkeypatch):
    """Runs a command's main() in this process, with its signal handlers taken back afterwards: the exit code."""

    def run(command, args):
        monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, args)])
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return command.main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return run
