"""What is said of devices stands in the tests of commands; here, what becomes of memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os
import torch
from samdpo.networks.device import hand_back_memory

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

freed = [torch.zeros(2**14) for _ in range(4096)]  # 64 KiB each: too small for pages of their own
last = torch.zeros(2**14)  # so that the heap cannot shrink from its end by itself
full = resident()
del freed
kept = resident()
hand_back_memory()
print(full, kept, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in another way")
def test_what_freed_tensors_took_goes_back_to_the_system() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    full, kept, handed_back = map(int, said.split())
    assert kept > full - 64, "the library keeps what is freed: else there is nothing to hand back"
    assert handed_back < full - 192, "most of the 256 MiB"
