"""The memory of this process, measured so that growth shows even late in a test run."""

import ctypes
import gc

import psutil


def resident(*, settle: bool = True) -> int:
    """Bytes in RAM. With `settle`, what earlier tests have freed is given back first: else growth would hide in it."""
    if settle:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)
