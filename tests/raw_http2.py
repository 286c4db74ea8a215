"""A client that speaks HTTP/2 by hand, so that it can stop half way, or never read."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


class RawClient:
    """One connection. Gives the server no room beyond the first 64 KiB, ever."""

    def __init__(self, socket_path: Path, *, handshake: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(socket_path))
        self._next = 1
        self._answering: threading.Thread | None = None
        self.frames: list[Frame] = []
        self.ended = threading.Event()
        """What `answer_pings` has seen, and that the server has closed the connection."""
        if handshake:
            self.socket.sendall(_PREFACE)
            self.send(SETTINGS, 0, 0)

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags))
        self.socket.sendall(head + struct.pack(">I", stream) + payload)

    def begin(self, method: str) -> int:
        """Sends the headers of a call; gives its stream. method: "/package.Service/Method"."""
        fields = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "raw"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        )
        # Literal fields that are not indexed, without Huffman: RFC 7541, 6.2.2.
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields
        )
        stream = self._next
        self._next += 2
        self.send(HEADERS, _END_HEADERS, stream, block)
        return stream

    def message(self, stream: int, data: bytes, *, length: int | None = None) -> None:
        """Sends one message and ends the request. length: what it claims to have."""
        size = len(data) if length is None else length
        framed = b"\0" + struct.pack(">I", size) + data
        for place in range(0, len(framed), 16_384):
            part = framed[place : place + 16_384]
            last = place + 16_384 >= len(framed) and length is None
            self.send(DATA, _END_STREAM if last else 0, stream, part)

    def call(self, method: str, data: bytes = b"") -> int:
        """A whole call."""
        stream = self.begin(method)
        self.message(stream, data)
        return stream

    def answer_pings(self) -> None:
        """Reads frames from now on and answers pings, as the library of a client does whose
        application does not read."""
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self._answering.start()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            for frame in self._read():
                kind, flags, _, payload = frame
                if kind == PING and not flags & _ACK:
                    self.send(PING, _ACK, 0, payload)
                self.frames.append(frame)
        self.ended.set()

    def _read(self) -> Iterator[Frame]:
        buffer = b""
        while data := self.socket.recv(65_536):
            buffer += data
            while len(buffer) >= 9 and len(buffer) >= 9 + (size := int.from_bytes(buffer[:3])):
                stream = int.from_bytes(buffer[5:9]) & 0x7FFF_FFFF
                yield buffer[3], buffer[4], stream, buffer[9 : 9 + size]
                buffer = buffer[9 + size :]

    def closed_by_server(self, timeout_s: float) -> bool:
        """Waits, without reading, until the server has closed the connection."""
        import select

        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(timeout_s * 1000))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        if self._answering is not None:
            self._answering.join(10)
