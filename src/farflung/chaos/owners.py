"""Which process dialled: the kernel's table of sockets, joined with the files of known processes.

Linux only, no privileges: /proc/net/tcp gives the inode of a socket by its two ports, and
/proc/PID/fd says which of our own children holds it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def socket_inode(local_port: int, remote: tuple[str, int]) -> int:
    """Inode of this machine's socket from a port to an IPv4 address; 0 when there is none."""
    there = f"{int.from_bytes(socket.inet_aton(remote[0]), sys.byteorder):08X}:{remote[1]:04X}"
    for table in TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            here = int(fields[1].rpartition(":")[2], 16)
            if here == local_port and fields[2].endswith(there) and fields[9] != "0":
                return int(fields[9])
    return 0


def holder(inode: int, processes: Mapping[str, int]) -> str:
    """The name among `processes` (name -> pid) that has this socket open; "" when none has."""
    wanted = f"socket:[{inode}]"
    for name, pid in processes.items():
        try:
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                if str(entry.readlink()) == wanted:
                    return name
        except OSError:
            continue  # it ended, or closed the file, while we looked
    return ""


def dialler(source_port: int, listening: tuple[str, int], processes: Mapping[str, int]) -> str:
    """Who dialled this address from `source_port`; "" when that cannot be found out."""
    inode = socket_inode(source_port, listening)
    return holder(inode, processes) if inode else ""
