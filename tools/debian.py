"""Programs of Debian's packages, for a machine that lacks them: unpacked into the user's cache and not installed.

Nothing of the machine changes, and no service starts by itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tools.cache import default_cache, machine, once
from tools.console import say


class PackagesError(Exception):
    """Debian's packages could not be had; the message says what was asked and what answered."""


_FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin", "usr/lib/cni", "opt/cni/bin")
"""Folders of programs, network plugins included, on a machine and in an unpacked package."""

_LIBRARIES = "usr/lib/*-linux-gnu*"
"""Folders of libraries in an unpacked package; some, such as PulseAudio's, one folder further down."""


def environment(packages: Mapping[str, str], cache: Path | None = None) -> dict[str, str]:
    """Make the variables with which all programs of `packages` (program -> its package) are found and run."""
    found = {"PATH": search_path()}
    lacking = missing(packages)
    if lacking:
        unpacked = (cache or default_cache()) / f"debian-{machine()}-{'-'.join(lacking)}"
        once(unpacked, lambda folder: _unpack(lacking, folder))
        found["PATH"] = os.pathsep.join([search_path(unpacked), found["PATH"]])
        files = [*unpacked.glob(f"{_LIBRARIES}/lib*.so*"), *unpacked.glob(f"{_LIBRARIES}/*/lib*.so*")]
        libraries = sorted({str(file.parent) for file in files})
        if libraries:
            found["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        for extensions in unpacked.glob(f"{_LIBRARIES}/xtables"):
            found["XTABLES_LIBDIR"] = str(extensions)
    return found


def unavailable(packages: Mapping[str, str]) -> str | None:
    """The reason why the programs cannot be had here; None when they can."""
    if missing(packages) and not shutil.which("apt-get"):
        return f"the programs of Debian's {', '.join(missing(packages))} are missing"
    return None


def missing(packages: Mapping[str, str]) -> list[str]:
    """List the packages that the machine lacks."""
    path = search_path()
    return sorted({package for program, package in packages.items() if not shutil.which(program, path=path)})


def search_path(root: Path = Path("/")) -> str:
    """Make the PATH of a machine, or of packages unpacked in `root`."""
    return os.pathsep.join(str(root / folder) for folder in _FOLDERS)


def _unpack(packages: list[str], into: Path) -> None:
    """Fetch the packages, and what they need that the machine lacks, and unpack them."""
    say(f"Fetching {', '.join(packages)} from Debian")
    archives = into / "archives"
    archives.mkdir()
    wanted = ["apt-get", "install", "--print-uris", "--quiet=2", "--no-install-recommends", *packages]
    if subprocess.run(wanted, capture_output=True, check=False).returncode:
        if os.geteuid():
            raise PackagesError(f"apt knows no {', '.join(packages)} here; `apt-get update` may help, and needs root")
        _apt(["apt-get", "update", "--quiet=2"], archives)
    lines = _apt(wanted, archives).splitlines()
    names = [line.split()[1].split("_")[0] for line in lines]
    _apt(["apt-get", "download", "--quiet=2", "--option=APT::Sandbox::User=root", *names], archives)
    for archive in archives.glob("*.deb"):
        _apt(["dpkg-deb", "--extract", str(archive), str(into)], archives)
    shutil.rmtree(archives)
    for chosen in [*into.glob("usr/sbin/iptables-nft*"), *into.glob("usr/sbin/ip6tables-nft*")]:
        # What the package's own script would do on an installed machine.
        chosen.with_name(chosen.name.replace("-nft", "", 1)).symlink_to(chosen.name)


def _apt(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackagesError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
