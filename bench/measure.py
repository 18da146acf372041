"""What a measurement costs: CPU time and memory of the servers' process trees, of this client, and of everybody else on the machine."""

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TICK_HZ = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


def tree(root: int) -> list[int]:
    """The process and all its descendants that are alive now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_s(root: int) -> float:
    """User and system seconds of a tree, children included that have ended and were collected: qemu-img's, by whoever started it."""
    ticks = 0
    for pid in tree(root):
        if fields := _stat(pid):
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICK_HZ


def memory_mib(root: int) -> tuple[float, float]:
    """RSS and PSS of a tree. PSS divides shared pages among those who share them, so only it may be summed."""
    rss = pss = 0
    for pid in tree(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for name, kib in re.findall(r"^(Rss|Pss):\s+(\d+)", text, re.M):
            rss, pss = (rss + int(kib), pss) if name == "Rss" else (rss, pss + int(kib))
    return round(rss / 1024, 1), round(pss / 1024, 1)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def _machine_s() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(x) for x in Path("/proc/stat").read_text().split(None, 9)[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK_HZ


def _own_s() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


class Watch:
    """`with Watch(server=PID, db=PID) as w: ...` and then `w.facts()`.

    foreign is the share of the machine used by neither the watched trees nor this client. Where it is notable, rates and latencies
    tell little; CPU per request and per GiB still hold.
    """

    def __init__(self, **roots: int | None) -> None:
        self.roots = {name: pid for name, pid in roots.items() if pid}
        self.peak = {name: (0.0, 0.0) for name in self.roots}
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._done.is_set():
            for name, pid in self.roots.items():
                self.peak[name] = tuple(map(max, self.peak[name], memory_mib(pid)))
            self._done.wait(0.2)

    def _cpu(self) -> dict[str, float]:
        return {name: cpu_s(pid) for name, pid in self.roots.items()}

    def __enter__(self) -> "Watch":
        self._sampler.start()
        self._before = self._cpu(), _machine_s(), _own_s(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        cpu, machine, own, clock = self._before
        self.wall_s = time.perf_counter() - clock
        self.cpu = {name: after - cpu[name] for name, after in self._cpu().items()}
        self.client_s = _own_s() - own
        self.foreign_s = max(0.0, _machine_s() - machine - sum(self.cpu.values()) - self.client_s)
        self._done.set()
        self._sampler.join()

    def facts(self) -> dict[str, object]:
        return {
            "wall_s": round(self.wall_s, 3),
            "cpu_s": {name: round(s, 2) for name, s in self.cpu.items()},
            "client_cpu_s": round(self.client_s, 2),
            "foreign": round(self.foreign_s / (self.wall_s * CORES), 3),
            "peak_rss_mib": {name: peak[0] for name, peak in self.peak.items()},
            "peak_pss_mib": {name: peak[1] for name, peak in self.peak.items()},
        }


def per_request(watch: Watch, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` found, with the CPU time in ms that one of its requests cost: of each watched tree, and of all as `cpu`."""
    with watch:
        facts = measure()
    each = {name: round(s / facts["requests"] * 1e3, 3) for name, s in watch.cpu.items()}
    return facts | {f"cpu_{name}_ms": ms for name, ms in each.items()} | {"cpu": round(sum(each.values()), 3)} | watch.facts()


def spread(took_s: list[float]) -> dict[str, float]:
    """The middle and the slow end of delays, in ms."""
    took_s = sorted(took_s)
    p50, p99 = (round(took_s[int(len(took_s) * q)] * 1e3, 3) for q in (0.5, 0.99))
    return {"p50_ms": p50, "p99_ms": p99}
