"""Messages between a process and those that decode images for it, one for a few lines of text: what
`multiprocessing.connection` does, without making a selector for every answer and without loading multiprocessing."""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 16


class Wire:
    """One end of a pair of sockets. What comes from the other end is unpickled: it has to be one's own process."""

    def __init__(self, own: socket.socket) -> None:
        self._socket = own
        self._rest = b""

    def send(self, message: Any) -> None:
        """Raises OSError if the other end is closed."""
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._socket.sendall(_LENGTH.pack(len(content)) + content)

    def receive(self, seconds: float | None = None) -> Any:
        """The next message. Raises TimeoutError if for so many seconds nothing comes, EOFError if the other end is
        closed, OSError."""
        self._socket.settimeout(seconds)
        self._fill(_LENGTH.size)  # nothing is taken out before all is there: who timed out may ask again
        end = _LENGTH.size + _LENGTH.unpack_from(self._rest)[0]
        self._fill(end)
        self._socket.settimeout(None)
        content, self._rest = self._rest[_LENGTH.size : end], self._rest[end:]
        return pickle.loads(content)

    def close(self) -> None:
        self._socket.close()

    def _fill(self, length: int) -> None:
        while len(self._rest) < length:
            more = self._socket.recv(_CHUNK)
            if not more:
                raise EOFError
            self._rest += more
