"""The machine that figures were taken on, in words."""

from __future__ import annotations

import os
import platform
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "tensorflow",
    "keras",
    "h5py",
    "numpy",
    "xxhash",
    "orbax-checkpoint",
)


def described(place: Path) -> dict[str, Any]:
    """Cores, memory, the disk that `place` is on and how fast it writes, versions, date."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk": _disk(place),
        "disk writes": _writes(place),
        "system": f"{platform.system()} {platform.release()}, Python {sys.version.split()[0]}",
        "versions": {name: _version(name) for name in PACKAGES},
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _disk(place: Path) -> str:
    """The mount that is nearest above `place`."""
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [each for each in mounts if place.resolve().is_relative_to(each[1])]
    device, _, kind = max(above, key=lambda each: len(each[1]))
    return f"{kind} on {device}"


def _writes(place: Path, size: int = 2**28) -> float:
    """Bytes a second, written past the page cache from one thread and synced."""
    import mmap

    memory = memoryview(mmap.mmap(-1, 4 * 2**20))
    path = place / f".speed-{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT
    try:
        descriptor = os.open(path, flags | os.O_DIRECT)
    except OSError:
        descriptor = os.open(path, flags)
    began = time.perf_counter()
    for _ in range(size // len(memory)):
        os.write(descriptor, memory)
    os.fsync(descriptor)
    seconds = time.perf_counter() - began
    os.close(descriptor)
    path.unlink()
    return size / seconds


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
