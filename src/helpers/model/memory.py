"""How much memory a computation may take, in bytes."""

from __future__ import annotations

from pathlib import Path


def free_memory(swap: bool = False) -> int | None:
    """Bytes that a new program can use, or None; psutil comes with Jupyter's kernel."""
    try:
        import psutil
    except ImportError:
        return None
    free = psutil.virtual_memory().available + (psutil.swap_memory().free if swap else 0)
    try:  # a container's own limit, which psutil does not see
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        used -= int(stat["inactive_file"])  # files it has read; they go when room is needed
        return min(free, max(0, limit - used))
    except (OSError, ValueError, KeyError):  # no container, or "max"
        return free
