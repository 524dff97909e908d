"""Machines of their own, as near as one machine comes to them: network namespaces, joined by a cable that can be cut.

Each has its own host name, address and loopback interface; the disk is one, as with a shared file system.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_processes import HERE, process_environment

PORT = 29500  # nothing else runs on these machines
# Each knows its own name and the other's, as machines of one network do.
ENTER = 'hostname "$1" && mount --bind "$0" /etc/hosts && shift && exec "$@"'
VETH = ("type", "veth", "peer", "name", "eth0", "netns")
_numbers = itertools.count()


class Host:
    """One of two machines.

    Args:
        namespace: of Linux.
        name: host name.
        address: on the cable.
        names: file of all names and addresses.
    """

    def __init__(self, namespace: str, name: str, address: str, names: Path) -> None:
        self.namespace, self.name, self.address, self.names = namespace, name, address, names

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a command on this machine."""
        enter = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "--mount", "sh", "-c", ENTER]
        return [*enter, str(self.names), self.name, *command]

    def torchrun(
        self, job: Path, printed: Path, *, first: str, processes: int = 1, restarts: int = 0
    ) -> subprocess.Popen[bytes]:
        """torchrun's part on this machine, as docs/training.md has it; `first` is where the processes meet."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--nproc-per-node={processes}"]
        meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={first}:{PORT}", "--rdzv-id=hosts"]
        own = [f"--local-addr={self.address}", f"--max-restarts={restarts}", str(HERE / "host_job.py"), str(job)]
        with printed.open("ab") as file:
            return subprocess.Popen(
                self.inside(*launcher, *meeting, *own),
                env={**process_environment(), "GLOO_SOCKET_IFNAME": "eth0"},
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def cut(self) -> None:
        """Pulls the cable: nothing is closed, nothing arrives."""
        _ip("-n", self.namespace, "link", "set", "eth0", "down")


def two_hosts(folder: Path) -> Iterator[list[Host]]:
    """Machines a and b, for the body of a fixture; their processes and networks are gone afterwards.

    Skips where this process may not make them.
    """
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("several machines: needs Linux with the commands ip and unshare")
    prefix = f"opengait-{os.getpid()}-{next(_numbers)}"
    addresses = {"a": "10.77.0.1", "b": "10.77.0.2"}
    names = folder / "hosts"
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items()))
    hosts = [Host(f"{prefix}-{name}", name, address, names) for name, address in addresses.items()]
    try:
        try:
            _connect(hosts)
        except subprocess.CalledProcessError as error:
            reason = (error.stderr or b"").decode().strip()
            pytest.skip(f"several machines: network namespaces may not be made here ({reason})")
        yield hosts
    finally:
        _remove(hosts)


def _connect(hosts: list[Host]) -> None:
    for host in hosts:
        _ip("netns", "add", host.namespace)
    one, other = hosts
    _ip("link", "add", "eth0", "netns", one.namespace, *VETH, other.namespace)
    for host in hosts:
        _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", host.namespace, "link", "set", device, "up")
        subprocess.run(host.inside("true"), check=True, capture_output=True)


def _remove(hosts: list[Host]) -> None:
    for host in hosts:
        listed = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=False)
        for process in listed.stdout.split():
            subprocess.run(["kill", "-KILL", process], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
