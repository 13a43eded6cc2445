"""What a machine says of itself is read rightly: bare, in containers of both kinds, with and without a graphics card."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from landseg.core import machine
from landseg.core.machine import Gpu, Room

GIB = 2**30
MEMINFO = f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 100 kB\nMemAvailable: {40 * GIB // 1024} kB\nHugePages_Total: 0\n"
NO_LIMIT_V1 = "9223372036854771712"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def unified(root: Path, path: str, **files: str) -> Path:
    """A process in the group `path` of version 2, whose folder holds the files (`memory_max` for memory.max)."""
    write(root, {"proc/meminfo": MEMINFO, "proc/self/cgroup": f"0::{path}\n"})
    return write(root, {f"sys/fs/cgroup{path}/{name.replace('_', '.')}": text for name, text in files.items()})


def test_a_bare_machine_has_what_its_kernel_says(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO})
    assert machine.memory(tmp_path) == Room(64 * GIB, 40 * GIB)
    assert machine.cpu_quota(tmp_path) is None
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert machine.cores(tmp_path) == mine


def test_where_the_system_says_nothing_nothing_is_made_up(tmp_path: Path) -> None:
    assert machine.memory(tmp_path) is None and machine.resident_bytes(tmp_path) is None and machine.cpu_times(tmp_path) is None
    assert machine.cores(tmp_path) >= 1
    write(tmp_path, {"proc/meminfo": "garbage\n\0", "proc/self/statm": "a b c", "proc/stat": "cpu x y z w", "proc/self/cgroup": "??\n::"})
    assert machine.memory(tmp_path) is None and machine.resident_bytes(tmp_path) is None and machine.cpu_times(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("20000 100000", 0.2), ("50000", 0.5), ("", None)]
)
def test_a_quota_is_so_many_cores(tmp_path: Path, quota: str, cores: float | None) -> None:
    unified(tmp_path, "/box", cpu_max=f"{quota}\n")
    assert machine.cpu_quota(tmp_path) == cores


def test_cores_are_those_of_the_quota_rounded_up_but_not_more_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    found = []
    for number, quota in enumerate(("1500", "100", "64000", "4000")):
        root = unified(tmp_path / str(number), "/box", cpu_max=f"{quota} 1000")
        found.append(machine.cores(root))
    assert found == [2, 1, 8, 4]


def test_a_group_is_held_by_those_around_it(tmp_path: Path) -> None:
    unified(tmp_path, "/all/pod/box", memory_max="max", memory_current="5", cpu_max="max 100000")
    unified(tmp_path, "/all/pod", memory_max=str(8 * GIB), memory_current=str(3 * GIB), memory_stat="anon 7\nactive_file 0\n")
    unified(tmp_path, "/all", memory_max=str(16 * GIB), memory_current=str(15 * GIB), cpu_max="300000 100000")
    write(tmp_path, {"proc/self/cgroup": "0::/all/pod/box\n"})
    assert machine.memory(tmp_path) == Room(8 * GIB, 1 * GIB), "the least of the limits, and the least that is free anywhere"
    assert machine.cpu_quota(tmp_path) == 3


def test_files_held_in_memory_are_free(tmp_path: Path) -> None:
    stat = f"inactive_file {2 * GIB}\nactive_file {GIB}\nanon 1\n"
    unified(tmp_path, "/", memory_max=str(8 * GIB), memory_current=str(7 * GIB), memory_stat=stat)
    assert machine.memory(tmp_path) == Room(8 * GIB, 4 * GIB)


def test_groups_of_version_1_count_too_even_when_the_path_is_the_hosts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * GIB),
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\ntotal_active_file 0\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert machine.memory(tmp_path) == Room(4 * GIB, 2 * GIB)
    assert machine.cpu_quota(tmp_path) == 2.5
    write(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"})
    assert machine.memory(tmp_path) == Room(64 * GIB, 40 * GIB) and machine.cpu_quota(tmp_path) is None


def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    unified(tmp_path, "/box", memory_max=str(GIB), memory_current=str(2 * GIB))
    assert machine.memory(tmp_path) == Room(GIB, 0)


def test_how_busy_the_cores_were_is_read_from_two_looks(tmp_path: Path) -> None:
    write(tmp_path, {"proc/stat": "cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 1 1 1\n"})
    before = machine.cpu_times(tmp_path)
    write(tmp_path, {"proc/stat": "cpu  160 0 80 805 55 0 0 0 7 0\ncpu0 1 1 1 1\n"})
    after = machine.cpu_times(tmp_path)
    assert before == (150, 1000) and after is not None
    assert (after[0] - before[0]) / (after[1] - before[1]) == pytest.approx(0.9)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_that_is_taken_is_seen() -> None:
    before = machine.resident_bytes()
    with mmap.mmap(-1, 64 * 2**20) as block:  # from the system: the allocator may have kept as much of what tests before gave back
        block.write(os.urandom(1) * len(block))
        after = machine.resident_bytes()
    assert before is not None and after is not None and after - before >= 60 * 2**20
    room = machine.memory()
    assert room is not None and after <= room.total


def test_the_disk_of_a_folder_that_is_not_there_yet_is_its_parents(tmp_path: Path) -> None:
    room = machine.disk(tmp_path / "runs" / "first")
    assert room is not None and 0 < room.free <= room.total
    assert room.total == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


class FakeNvml:
    """A driver with some cards; whatever is not in a card's dictionary it refuses to tell."""

    class NVMLError(Exception):
        pass

    def __init__(self, *cards: dict[str, Any]) -> None:
        self.cards = cards

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's own name
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:  # noqa: N802
        if self.cards[index].get("lost"):
            raise self.NVMLError("GPU is lost")
        return self.cards[index]

    def __getattr__(self, question: str) -> Any:
        def answer(card: dict[str, Any], *_: Any) -> Any:
            if question not in card:
                raise self.NVMLError("Not Supported")
            return card[question]

        return answer


def card(name: str, uuid: str, used: int, busy: int) -> dict[str, Any]:
    return {
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=used, total=80 * GIB, free=0),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=busy, memory=3),
        "nvmlDeviceGetTemperature": 41,
    }


def test_cards_are_told_as_the_driver_tells_them() -> None:
    (found,) = machine.gpus(FakeNvml(card("NVIDIA H100", "GPU-1", 5 * GIB, 37)), visible="0")
    assert found == Gpu(0, "NVIDIA H100", "GPU-1", 5 * GIB, 80 * GIB, 0.37, 41)


def test_what_a_card_does_not_tell_is_none_and_a_lost_card_is_left_out() -> None:
    assert machine.gpus(FakeNvml({"nvmlDeviceGetName": "slice"}), visible="0") == (Gpu(0, "slice", "", None, None, None, None),)
    assert [gpu.name for gpu in machine.gpus(FakeNvml(card("a", "GPU-a", 0, 0), {"lost": True}), visible="0,1")] == ["a"]
    assert machine.gpus(FakeNvml()) == ()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("0,1", "ab"),
        ("1,0", "ba"),
        ("1", "b"),
        ("", ""),
        ("-1", ""),
        ("1,7,0", "b"),
        ("GPU-bb", "b"),
        ("GPU-", ""),
        ("0,0", "a"),
        (" 1 , 2 ", "bc"),
    ],
)
def test_only_visible_cards_are_ours_in_the_order_that_the_variable_gives(words: str, names: str) -> None:
    nvml = FakeNvml(*(card(letter, f"GPU-{letter * 4}", 0, 0) for letter in "abc"))
    assert "".join(gpu.name for gpu in machine.gpus(nvml, visible=words)) == names


def test_the_environment_hides_cards_and_without_it_all_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(card("a", "GPU-a", 0, 0), card("b", "GPU-b", 0, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.name for gpu in machine.gpus(nvml)] == ["b"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [gpu.name for gpu in machine.gpus(nvml)] == ["a", "b"]


@pytest.mark.parametrize("broken", ["import sys; sys.modules['pynvml'] = None", "import pynvml; pynvml.nvmlInit = lambda: 1 / 0"])
def test_without_nvml_there_are_no_cards_and_a_bug_is_not_hidden(broken: str) -> None:
    """No library is no card; but only NVML's own errors are taken for that."""
    code = f"{broken}\nfrom landseg.core import machine\nprint(machine.gpus(), machine.driver_version())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "None" in broken:
        assert done.stdout == "() None\n", done.stderr
    else:
        assert "ZeroDivisionError" in done.stderr


def test_it_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, landseg.core.machine as m; m.gpus(); print(sorted({'torch', 'numpy', 'psutil'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
