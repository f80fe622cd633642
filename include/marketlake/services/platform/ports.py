"""Free TCP ports on the loopback interface.

All ranges lie below the one the kernel usually takes for outgoing connections (32768 up): inside
that, a client that asks for a dead server again and again sooner or later connects to itself, and
holds the port against the server's return.
"""

from __future__ import annotations

import random
import socket

from marketlake.errors import ConfigError

KNOWN_PORTS = range(22_000, 27_000)
"""Where ports come from that other programs are told of; no usual port lies in it."""

INTERNAL_PORTS = range(27_000, 32_768)
"""Where ports come from that one program keeps to itself and chooses at each start."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server could bind the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_ports(count: int, among: range = KNOWN_PORTS, host: str = "127.0.0.1") -> list[int]:
    """Return distinct ports that nothing is bound to, taken at random.

    Raises
    ------
    ConfigError
        When the range has not enough of them.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(among, len(among)):
        if len(found) == count:
            break
        if is_free(port, host):
            found.append(port)
    if len(found) < count:
        raise ConfigError(
            expected=f"{count} free ports from {among.start} to {among.stop - 1}",
            was=f"{len(found)}",
            where=host,
            todo="end what listens there, or set the ports yourself (docs/settings.md)",
        )
    return found
