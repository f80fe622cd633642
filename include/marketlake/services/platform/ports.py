"""Free TCP ports on the loopback interface.

All ranges lie below the one the kernel usually takes for outgoing connections (32768 up): inside
that, a client that asks for a dead server again and again sooner or later connects to itself, and
holds the port against the server's return.
"""

from __future__ import annotations

import random
import socket
from types import TracebackType
from typing import Self

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


class Claims:
    """Ports that this command has chosen, and no other may choose before its programs listen.

    Between the choice and the listening lie seconds, in which a second platform on this machine
    would find the same port free. A claim is a socket of the abstract namespace: like the ports it
    belongs to the machine's network, whoever the user is, and it goes with its process.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        """Return itself; leaving gives up the claims."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up the claims."""
        while self._held:
            self._held.pop().close()

    def take(self, port: int) -> bool:
        """Claim a port; return False when somebody listens on it or has claimed it."""
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0marketlake-port-{port}")
        except OSError:
            claim.close()
            return False
        self._held.append(claim)
        return is_free(port)
