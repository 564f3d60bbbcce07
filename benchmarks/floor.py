"""What a front and a worker process cost at least in Python: `python -m benchmarks.floor WHAT PORT`.

Plain sockets and shared memory, and nothing else: no protocol but a picture's bytes one way, a length and an
answer the other; no queue, no deadline, no decision, no error.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import sys

from adaphi.model_zoo.allocator import tune_allocator

from .servers import PICTURES, timed


class Floor:
    """The front, which forks its worker: a connection has a slot, into which its picture is read."""

    ORDER, HEAD = struct.Struct("<I"), struct.Struct("<II")
    SLOTS = 64

    def __init__(self, what: str, port: int) -> None:
        self._size = PICTURES[what].nbytes
        self._memory = memoryview(mmap.mmap(-1, self.SLOTS * self._size))
        self._worker, theirs = socket.socketpair()
        if os.fork() == 0:
            self._worker.close()
            self._work(what, theirs)
            os._exit(0)
        theirs.close()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._epoll = select.epoll()
        for one in (self._listener, self._worker):
            self._epoll.register(one, select.EPOLLIN)
        self._clients: dict[int, socket.socket] = {}  # by descriptor
        self._slots: dict[int, int] = {}
        self._read_bytes: dict[int, int] = {}
        self._heard = b""

    def serve(self) -> None:
        """Answer until killed."""
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._worker.fileno():
                    self._pass_answers_on()
                elif descriptor == self._listener.fileno():
                    self._let_in()
                else:
                    self._read(descriptor)

    def _work(self, what: str, front: socket.socket) -> None:
        handle, size = timed(what), self._size
        while orders := front.recv(4096):
            for (slot,) in self.ORDER.iter_unpack(orders):
                answer = b"".join(handle(self._memory[slot * size : (slot + 1) * size]))
                front.sendall(self.HEAD.pack(slot, len(answer)) + answer)

    def _let_in(self) -> None:
        client, _ = self._listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = client.fileno()
        self._slots[descriptor] = min(set(range(self.SLOTS)) - set(self._slots.values()))
        self._clients[descriptor], self._read_bytes[descriptor] = client, 0
        self._epoll.register(client, select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        slot, done = self._slots[descriptor], self._read_bytes[descriptor]
        place = self._memory[slot * self._size + done : (slot + 1) * self._size]
        try:
            count = self._clients[descriptor].recv_into(place)
        except OSError:
            count = 0
        if not count:
            self._epoll.unregister(descriptor)
            self._clients.pop(descriptor).close()
            del self._slots[descriptor], self._read_bytes[descriptor]
            return
        if count == len(place):
            self._worker.send(self.ORDER.pack(slot))
        self._read_bytes[descriptor] = (done + count) % self._size

    def _pass_answers_on(self) -> None:
        heard, begin, head = self._heard + self._worker.recv(1 << 18), 0, self.HEAD.size
        client_of = {slot: self._clients[descriptor] for descriptor, slot in self._slots.items()}
        while len(heard) - begin >= head:
            slot, size = self.HEAD.unpack_from(heard, begin)
            end = begin + head + size
            if len(heard) < end:
                break
            client_of[slot].sendall(self.ORDER.pack(size) + heard[begin + head : end])
            begin = end
        self._heard = heard[begin:]


if __name__ == "__main__":
    tune_allocator()
    Floor(sys.argv[1], int(sys.argv[2])).serve()
