"""Two hosts on one machine: network namespaces that a virtual cable joins."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ADDRESSES = ("10.77.13.1", "10.77.13.2")


class Hosts:
    """Two namespaces with an address each. What runs in them can reach only the other one."""

    def __init__(self) -> None:
        self.names = [f"tiltlm-{os.getpid()}-{i}" for i in range(2)]
        self.devices = [f"tl{os.getpid()}{i}"[-14:] for i in range(2)]

    def prefix(self, i: int) -> list[str]:
        """Return the words that run a command in host i."""
        return ["ip", "netns", "exec", self.names[i]]

    def cut(self) -> None:
        """Take the cable out."""
        ip("-n", self.names[1], "link", "set", self.devices[1], "down")

    def mend(self) -> None:
        """Put the cable in again."""
        ip("-n", self.names[1], "link", "set", self.devices[1], "up")


def ip(*arguments: str) -> None:
    """Run the program `ip`; raise PermissionError with its message if it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Make two hosts for the block.

    Raises:
        OSError: the program `ip` is missing, or this system does not permit namespaces.
    """
    hosts = Hosts()
    try:
        for name in hosts.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        (a, b), (x, y) = hosts.names, hosts.devices
        ip("link", "add", x, "netns", a, "type", "veth", "peer", "name", y, "netns", b)
        for name, device, address in zip(hosts.names, hosts.devices, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
        yield hosts
    finally:
        for name in hosts.names:
            with suppress(OSError):
                ip("netns", "del", name)
