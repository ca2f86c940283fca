"""The writer: what it writes, and what it leaves behind when it is stopped, killed or out of space."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from turbosparse.convert import convert
from turbosparse.convert.errors import CheckpointError, NoSpaceError, UsageError
from turbosparse.convert.export import part_path, write_gguf
from turbosparse.convert.plan import Planned
from turbosparse.convert.quantize import TYPES, T
from turbosparse.convert.sources import Array


def planned(name: str = "x.weight", rows: int = 3, cols: int = 64, qtype: T = T.F32, fill: float = 1.0) -> Planned:
    return Planned(name, (cols, rows), qtype, Array(np.full((rows, cols), fill, np.float32)))


def test_layout_of_the_file(mistral_dir: Path, tmp_path: Path) -> None:
    out = convert(mistral_dir, tmp_path / "m.gguf", outtype="q8_0")
    reader = GGUFReader(out)
    assert reader.fields["general.alignment"].contents() == 4096
    end = 0
    for t in reader.tensors:  # in file order, page-aligned, no other gaps
        assert t.data_offset % 4096 == 0
        assert end in (0, t.data_offset)
        end = t.data_offset + -(-t.n_bytes // 4096) * 4096
    assert out.stat().st_size == end


def test_gguf_dump_lists_the_file(mistral_dir: Path, tmp_path: Path) -> None:
    out = convert(mistral_dir, tmp_path / "m.gguf")
    code = "import sys; from gguf.scripts.gguf_dump import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--json", str(out)], capture_output=True, text=True, check=True)
    listed = json.loads(done.stdout)
    assert listed["metadata"]["general.architecture"]["value"] == "turbosparse"
    assert "blk.1.ffn_pred_fc2.weight" in listed["tensors"]


@pytest.mark.parametrize("outtype", list(TYPES))
def test_same_bytes_for_any_number_of_threads(mixtral_dir: Path, tmp_path: Path, outtype: str) -> None:
    files = [convert(mixtral_dir, tmp_path / f"{n}.gguf", outtype=outtype, threads=n).read_bytes() for n in (1, 2, 4)]
    assert files[0] == files[1] == files[2]


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="--force"):
        write_gguf(out, {}, [planned()])
    assert out.read_bytes() == b"precious"
    write_gguf(out, {}, [planned()], force=True)
    assert out.read_bytes()[:4] == b"GGUF"


def test_output_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        write_gguf(tmp_path, {}, [planned()])
    with pytest.raises(UsageError, match="does not exist"):
        write_gguf(tmp_path / "no" / "m.gguf", {}, [planned()])


def test_stale_part_is_removed_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    part_path(out).write_bytes(b"half")
    assert write_gguf(out, {}, [planned()]).removed_part
    assert not part_path(out).exists()
    assert not write_gguf(out, {}, [planned()], force=True).removed_part


def test_a_part_that_another_run_writes_is_not_touched(tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "m.gguf"
    with open(part_path(out), "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run"):
            write_gguf(out, {}, [planned()])
    assert part_path(out).exists()


def test_nan_and_f16_overflow_are_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    for qtype in (T.F32, T.F16, T.BF16, T.Q4_0):
        with pytest.raises(CheckpointError, match=r"x\.weight holds NaN or infinity"):
            write_gguf(out, {}, [planned(fill=float("nan"), qtype=qtype)])
    with pytest.raises(CheckpointError, match="65504"):
        write_gguf(out, {}, [planned(fill=1e5, qtype=T.F16)])
    write_gguf(out, {}, [planned(fill=3e38)])  # finite, though its sum is not
    assert list(tmp_path.iterdir()) == [out]


def test_space_is_checked_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(NoSpaceError) as caught:
        write_gguf(tmp_path / "m.gguf", {}, [planned()])
    assert caught.value.exit_code == 5
    assert caught.value.data["available"] == 1000 < caught.value.data["needed"]
    assert not list(tmp_path.iterdir())


def test_full_disk_while_writing_leaves_nothing(tmp_path: Path) -> None:
    """A real limit of the kernel: RLIMIT_FSIZE stops the write midway, as a full disk does."""
    code = f"""
import resource, signal, errno, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
import numpy as np
from pathlib import Path
from turbosparse.convert import export
from tests.convert.test_export import planned
try:
    export.write_gguf(Path({str(tmp_path / "m.gguf")!r}), {{}}, [planned(rows=4096)])
except OSError as err:
    sys.exit(0 if err.errno == errno.EFBIG else 3)
sys.exit(4)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_enospc_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(NoSpaceError, match="filled up"):
        write_gguf(tmp_path / "m.gguf", {}, [planned()])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A file system of 1 MB, where the machine lets us mount one; the tests above need none."""
    path = tmp_path_factory.mktemp("small")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True).returncode:
        yield None
        return
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_disk_that_is_really_full(tmpfs: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if tmpfs is None:
        pytest.skip("mounting a tmpfs needs root; test_full_disk_while_writing covers the path")
    with pytest.raises(NoSpaceError, match="GB free"):
        write_gguf(tmpfs / "m.gguf", {}, [planned(rows=1 << 14)])
    monkeypatch.setattr("turbosparse.convert.export.prepare_output", lambda *args, **kwargs: False)
    with pytest.raises(NoSpaceError, match="filled up"):
        write_gguf(tmpfs / "m.gguf", {}, [planned(rows=1 << 14)])
    assert not list(tmpfs.iterdir())


SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from turbosparse.convert.export import write_gguf
from turbosparse.convert.plan import Planned
from turbosparse.convert.quantize import T

class Slow:
    def blocks(self, n):
        for i in range(1000):
            yield 64, self.read
    def read(self):
        time.sleep(0.01)
        return np.ones((64, 64), np.float32)

def tell(name, done, total):
    print(done, flush=True)

write_gguf(Path(sys.argv[1]), {}, [Planned("x", (64, 64000), T.F32, Slow())], progress=tell, threads=1)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_midway_nothing_under_the_final_name(tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "m.gguf"
    child = subprocess.Popen([sys.executable, "-c", SLOW, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()  # writing has begun
    time.sleep(0.05)
    child.send_signal(how)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode != 0
    assert not out.exists()
    if how is signal.SIGINT:
        assert b"KeyboardInterrupt" in stderr
        assert not list(tmp_path.iterdir())  # cleaned up behind itself
    else:
        assert part_path(out).exists()
        assert write_gguf(out, {}, [planned()]).removed_part  # the next run cleans up


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A 600 MB tensor through a process that may hold 64 MB more than it has after importing."""
    code = f"""
import resource, sys
import numpy as np
from pathlib import Path
from turbosparse.convert.export import write_gguf
from turbosparse.convert.plan import Planned
from turbosparse.convert.quantize import T, encode
class Endless:
    def blocks(self, n):
        for _ in range(150_000 // n):
            yield n, lambda: np.zeros((n, 1024), np.uint16)
rows = 150_000 // 1024 * 1024
encode(np.ones((1, 1024), np.float32), T.Q4_0)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
write_gguf(Path({str(tmp_path / "m.gguf")!r}), {{}}, [Planned("x", (1024, rows), T.Q4_0, Endless())], threads=2)
sys.exit(0 if peak() - before < 64 else f"{{peak() - before}} MB more")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
