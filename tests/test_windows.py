"""What Windows lacks is taken from this system: quire is imported, answers, and runs a batch all the same.

No Windows is at hand. The standard library is imported first, since it is another one there; what stays
unseen are Windows' own calls, the linker of its object files, and paths with drives.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from quire.demo import demo_model_path

ROOT = Path(__file__).parents[1]
LACKS = """
import asyncio, concurrent.futures, mmap, multiprocessing, os, signal, socket, subprocess, sys, tempfile
import threading, types
OF_OS = '''fork forkpty geteuid getuid getgid pread pwrite sched_getaffinity sched_yield sysconf fchmod
register_at_fork statvfs fdatasync posix_fadvise O_CLOEXEC O_NOFOLLOW O_NONBLOCK O_DIRECTORY'''
for module, names in (
    (os, OF_OS),
    (signal, "SIGHUP SIGUSR1 SIGUSR2 SIGALRM setitimer alarm"),
    (mmap, "MADV_HUGEPAGE MAP_PRIVATE MAP_ANONYMOUS MAP_SHARED PROT_READ PROT_WRITE"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
os.supports_dir_fd = os.supports_dir_fd - {os.open}
os.supports_fd = os.supports_fd - {os.utime}
for name in ("fcntl", "termios", "tty", "pty", "resource", "pwd", "grp"):
    sys.modules[name] = None
locks = types.ModuleType("msvcrt")
locks.LK_NBLCK = 2
locked = []
locks.locking = lambda file, mode, count: locked.append((mode, count))
sys.modules["msvcrt"] = locks
"""
USES = """
import json
from pathlib import Path
from quire import ChatModel
from quire.batch import run_batch
from quire.cli.main import build_app
from quire.machine import cache
from quire.media.guard import open_path
from quire.media.policy import MediaPolicy

model, folder = sys.argv[1], Path(sys.argv[2])
build_app(ChatModel)
asked = [{"role": "user", "content": "Write JSON of a cat."}]
given = {"model_name_or_path": model, "native_kv_cache_memory": "32MiB"}
for _ in range(2):  # the second start finds what the first kept
    with ChatModel(given) as chat:
        form = {"type": "json_object"}
        json.loads(chat.chat(asked, temperature=0, response_format=form)[0].response_text)
assert list(cache.cache_folder().glob("kernel-*"))
rows = folder / "rows.jsonl"
rows.write_text(json.dumps({"messages": asked}) + "\\n")
result = run_batch({**given, "input": str(rows), "output_dir": str(folder / "out"), "temperature": 0})
assert result.counts.answered == 1
assert locked, "the job took no lock"
with open_path("rows.jsonl", MediaPolicy(local_files=True, root=folder)) as file:
    assert file.read() == rows.read_bytes()
print("answered")
"""


def test_without_what_windows_lacks(tmp_path: Path) -> None:
    environment = {**os.environ, "QUIRE_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", LACKS + USES, str(demo_model_path()), str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("answered"), run.stdout
