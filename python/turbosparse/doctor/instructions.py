"""Run one vector instruction and see whether the process survives. A script of its own:

    python instructions.py avx512_vnni

Exit code 0: it ran. Killed by SIGILL: it did not, whatever the CPU advertises; virtual machines
are known for that. Exit code 3: this system does not let a program run code of its own, or is no
Linux on x86-64. Nothing of turbosparse is imported.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys

LEAVE = "c5f877 c3"  # vzeroupper; ret
CODE = {
    "avx2": "c5fdfec0",  # vpaddd ymm0, ymm0, ymm0
    "fma": "c4e27d98c0",  # vfmadd132ps ymm0, ymm0, ymm0
    "f16c": "c4e27d13c0",  # vcvtph2ps ymm0, xmm0
    "avx_vnni": "c4e27d50c0",  # {vex} vpdpbusd ymm0, ymm0, ymm0
    "avx512": "62f17d48fec0",  # vpaddd zmm0, zmm0, zmm0
    "avx512_vbmi": "62f27d488dc0",  # vpermb zmm0, zmm0, zmm0
    "avx512_vnni": "62f27d4850c0",  # vpdpbusd zmm0, zmm0, zmm0
    "avx512_bf16": "62f27e4852c0",  # vdpbf16ps zmm0, zmm0, zmm0
    "amx_int8": "c4e27849 07 c4e27b49c0 c4e27849c0",  # ldtilecfg [rdi]; tilezero tmm0; tilerelease
}
CANNOT_TELL = 3
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA = 158, 0x1023, 18


def run(name: str) -> int:
    """Execute the instruction `name`; returns the exit code."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return CANNOT_TELL
    libc = ctypes.CDLL(None)
    if name.startswith("amx"):  # the kernel wants to be asked
        libc.syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA)
    try:
        memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except (OSError, ValueError):
        return CANNOT_TELL
    memory.write(bytes.fromhex(CODE[name] + LEAVE))
    tiles = (ctypes.c_uint8 * 64)(1)  # palette 1 ...
    tiles[16], tiles[48] = 64, 16  # ... and tile 0 of 16 rows of 64 bytes
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(tiles))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
