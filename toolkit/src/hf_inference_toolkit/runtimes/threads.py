"""The number of CPUs that this process may use: its CPU affinity and the quota of its control group."""

import math
import os
from pathlib import Path
from typing import List, MutableMapping, Optional

# The variables of libraries that start a thread for each CPU of the host by default.
VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")


def available(root: Path = Path("/")) -> int:
    """The number of CPUs, rounded up."""
    granted = [quota for quota in (_quota_v2(root), _quota_v1(root)) if quota]
    return max(1, min([len(os.sched_getaffinity(0)), *map(math.ceil, granted)]))


def has_quota(root: Path = Path("/")) -> bool:
    """Whether the control group limits the time of CPUs."""
    return bool(_quota_v2(root) or _quota_v1(root))


def _quota_v2(root: Path) -> Optional[float]:
    """The quota in `cpu.max` of cgroup v2: `max 100000`, or `QUOTA PERIOD` in microseconds."""
    words = _read(root / "sys/fs/cgroup/cpu.max")
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _quota_v1(root: Path) -> Optional[float]:
    """The quota of cgroup v1, where -1 means no limit."""
    quota = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _read(path: Path) -> List[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def shared() -> int:
    """The number of passes that run at the same time on a multi-model endpoint: one for every two CPUs, from 2 to 8."""
    return max(2, min(8, available() // 2))


def limit_threads(environ: MutableMapping[str, str], passes: int = 1) -> None:
    """Set the number of threads for libraries that are not imported yet. Variables that are set are not changed.

    `passes` run at the same time and share the CPUs.
    """
    for name in VARIABLES:
        environ.setdefault(name, str(max(1, available() // passes)))


def has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions for bfloat16."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return False
    return any(flag in words for flag in ("amx_bf16", "avx512_bf16", "bf16"))
