"""Runs code that nobody has vouched for, such as what a pickle does when it is loaded, with as little as it needs.

Contained, by Linux's namespaces and limits:
- the network: a namespace of its own, without even a loopback device that is up;
- files: the root is an empty file system in memory, with this machine's programs and libraries, the Python environment
  and the input, all read only. No home, no credentials, no other process's files; it can write its own /scratch and
  the one output folder, which is deleted when it has been read;
- processes: a namespace of its own, so it sees and signals none of this machine's; all of them end with it;
- privileges: none, no way to gain any, and an environment of five variables;
- time, memory per process, sizes of files and numbers of files and processes.

Not provably contained: errors in the kernel's own code; the memory of many processes together; what can be told from
the CPU and its caches; and the output. That is read as data, by readers that check it, but whether a re-saved model
answers as its author said, no sandbox can tell.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from tools.model.errors import ModelError

_MAX_SECONDS = 120
_MAX_MEMORY_BYTES = 4 * 2**30
_MAX_FILE_BYTES = 2 * 2**30
_MAX_FILES = 256
_MAX_PROCESSES = 64
_PROGRAMS = ("unshare", "mount", "umount", "pivot_root", "setpriv", "prlimit", "env")
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64")
_SETUP = r"""
set -eu
root=$1; out=$2; input=$3; script=$4; shift 4
mount --make-rprivate /
mount -t tmpfs -o size=16m,mode=755 tmpfs "$root"
show() {
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root$(dirname "$2")"; : > "$root$2"; fi
    mount --bind "$1" "$root$2"
    mount -o "remount,bind,$3" "$root$2"
}
while [ "$1" != -- ]; do
    if [ -L "$1" ]; then cp -P "$1" "$root$1"; elif [ -e "$1" ]; then show "$1" "$1" ro,nosuid,nodev; fi
    shift
done
shift
show "$input" /input ro,nosuid,nodev,noexec
show "$script" /script.py ro,nosuid,nodev,noexec
show "$out" /output rw,nosuid,nodev,noexec
for device in null zero urandom; do : > "$root/$device"; mkdir -p "$root/dev"; mv "$root/$device" "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"; done
mkdir "$root/proc" "$root/scratch" "$root/old"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o size=256m,mode=1777,nosuid,nodev,noexec tmpfs "$root/scratch"
cd "$root"
pivot_root . old
umount -l /old
rmdir /old
mount -o remount,ro,nosuid,nodev,mode=755 /
echo ready
exec "$@" >&2
"""


def run(python: Path, script: Path, content: Path, output: Path) -> None:
    """Have `python` run `script` with the input's path and that of the output folder; ModelError when it fails."""
    _check_programs()
    output.mkdir(parents=True)
    output.chmod(0o777)  # of a folder that is private: who runs there is nobody here
    root = output.with_name("root")
    root.mkdir()
    home = python.parent.parent
    base = Path(os.path.realpath(python)).parent.parent
    shown = [*_SYSTEM, str(home), *([] if base.is_relative_to("/usr") else [str(base)])]
    limits = [
        f"--cpu={_MAX_SECONDS}",
        f"--as={_MAX_MEMORY_BYTES}",
        f"--fsize={_MAX_FILE_BYTES}",
        f"--nofile={_MAX_FILES}",
        f"--nproc={_MAX_PROCESSES}",
        "--core=0",
    ]
    variables = [
        "PATH=/usr/bin:/bin",
        "HOME=/scratch",
        "TMPDIR=/scratch",
        "OMP_NUM_THREADS=1",
        "OPENBLAS_NUM_THREADS=1",
    ]
    # Root needs no user namespace, and becomes a user whom nothing belongs to; another user is root in one, of nothing.
    is_root = os.geteuid() == 0
    stranger = str(2**30 + secrets.randbelow(2**29))
    user = [f"--reuid={stranger}", f"--regid={stranger}", "--clear-groups"] if is_root else []
    readable, writable = os.pipe()
    command = [
        *("unshare", *([] if is_root else ["--user", "--map-root-user"])),
        *("--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
        *("sh", "-c", _SETUP, "sandbox", str(root), str(output), str(content), str(script)),
        *(
            *shown,
            "--",
            "prlimit",
            *limits,
            "setpriv",
            *user,
            "--no-new-privs",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ),
        *("env", "-i", *variables, str(python), "-I", "-B", "/script.py", "/input", "/output"),
    ]
    log = output.with_name("log")
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=writable, stderr=written,
            start_new_session=True, cwd="/", env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")},
        )  # fmt: skip
        os.close(writable)
        try:
            status = process.wait(_MAX_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ModelError(f"the sandbox ended {content.name} after {_MAX_SECONDS} seconds") from None
        finally:
            with os.fdopen(readable) as pipe:
                was_ready = "ready" in pipe.read()
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or [f"status {status}"]
    if not was_ready:
        raise ModelError(f"this machine cannot provide the sandbox that {content.name} must be loaded in: {last[0]}")
    if status:
        raise ModelError(f"{content.name} could not be saved again in the sandbox: {last[0][:300]}")


def _check_programs() -> None:
    missing = [name for name in _PROGRAMS if not shutil.which(name)]
    if sys.platform != "linux" or missing:
        raise ModelError(
            "this machine cannot provide the sandbox that a pickle must be loaded in: that takes Linux with "
            + ", ".join(missing or ["util-linux"])
        )
