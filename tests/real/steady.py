"""A light, steady load that counts every request without an answer, and a server whose next worker the test decides."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.server.running import Running, wait_for

PAUSE_S = 0.01
ANSWER_LIMIT_S = 30.0


class Steady:
    """Clients that ask ``/pid`` again and again: some on kept connections, one on a new one each time.

    Nobody asks a second time when there was no answer: that is noted in `lost`.
    """

    def __init__(self, port: int, *, kept: int = 3) -> None:
        self.statuses: Counter[int] = Counter()
        self.lost: list[str] = []
        self.workers: list[int] = []
        self._port = port
        self._is_over = threading.Event()
        works = [self._keep] * kept + [self._renew]
        self._threads = [threading.Thread(target=work, name=f"steady-{i}") for i, work in enumerate(works)]

    def __enter__(self) -> Steady:
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *reason: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(ANSWER_LIMIT_S + 5)

    def wait_for_more(self, count: int = 20) -> None:
        """Wait until so many more requests have been answered or lost."""
        wanted = self.done + count
        wait_for(lambda: self.done >= wanted)

    @property
    def done(self) -> int:
        return self.statuses.total() + len(self.lost)

    def _keep(self) -> None:
        while not self._is_over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_LIMIT_S)
            while not self._is_over.is_set() and self._ask(connection):
                time.sleep(PAUSE_S)
            connection.close()

    def _renew(self) -> None:
        while not self._is_over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_LIMIT_S)
            self._ask(connection)
            connection.close()
            time.sleep(PAUSE_S)

    def _ask(self, connection: http.client.HTTPConnection) -> bool:
        """Send one request; say whether the connection may be used again."""
        try:
            connection.request("GET", "/pid")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.lost.append(repr(error))
            return False
        self.statuses[answer.status] += 1
        if answer.status == 200 and (not self.workers or int(body) not in self.workers[-8:]):
            self.workers.append(int(body))
        return not answer.will_close


class Changing(Running):
    """The real command with the application of `tests.real.changing`, which reads its mood from the folder."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.code = Path(shutil.copy(Path(__file__).with_name("changing.py"), folder))
        self.set("mood", "")
        self.set("version", "1")
        self.set("gate", "")
        super().__init__(
            folder, command=("-m", "b1", "run", "changing:app"), **{"PYTHONDONTWRITEBYTECODE": "1", **variables}
        )

    def set(self, name: str, value: str) -> None:
        """Write one of the files that the application reads, in one step."""
        part = self.folder / f"{name}.part"
        part.write_text(value)
        part.replace(self.folder / name)

    def loading(self) -> list[int]:
        """Return the pids of all workers that have begun to load the application, the oldest first."""
        lines = (self.folder / "events").read_text().splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("loading")]

    def wait_loading(self, count: int) -> int:
        """Wait until the `count`-th worker loads the application; return its pid."""
        wait_for(lambda: len(self.loading()) >= count)
        return self.loading()[count - 1]

    def wait_alone(self, *, but: Sequence[int] = ()) -> int:
        """Wait until there is one worker, none of `but`, and it has started; return its pid."""
        wait_for(lambda: (now := self.workers()) and len(now) == 1 and now[0] not in but and self._has_started(now[0]))
        return self.workers()[0]

    def replace(self) -> int:
        """Send SIGHUP and wait until it is over; return the new worker's pid."""
        before = self.workers()
        self.send(signal.SIGHUP)
        return self.wait_alone(but=before)

    def body(self, path: str) -> str:
        """Return the body of a GET on a connection of its own."""
        return self.get(path).partition(b"\r\n\r\n")[2].decode()

    def _has_started(self, pid: int) -> bool:
        return f"startup {pid}\n" in (self.folder / "events").read_text()


class Talk:
    """One connection of a client that sees each answer by itself: what a library would hide is what the tests ask for."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT_S)
        self._received = b""

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *reason: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, path: str, *, times: int = 1) -> None:
        self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * times)

    def wait_begun(self) -> None:
        """Wait for the first bytes of an answer."""
        if not self._received:
            self._more()

    def answer(self) -> tuple[int, str]:
        """Read the next answer to its end; return status and body, chunks put together.

        Raises:
            AnswerMissing: the connection ended before.
        """
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        fields = head.lower()
        if b"transfer-encoding: chunked" in fields:
            body = b""
            while piece := self._chunk():
                body += piece
        else:
            body = self._take(int(fields.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        return int(head.split()[1]), body.decode()

    def _chunk(self) -> bytes:
        while b"\r\n" not in self._received:
            self._more()
        size, _, self._received = self._received.partition(b"\r\n")
        return self._take(int(size, 16) + 2)[:-2]

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._more()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _more(self) -> None:
        try:
            piece = self._socket.recv(65536)
        except OSError as error:
            raise AnswerMissing(f"{error!r} after {self._received!r}") from error
        if not piece:
            raise AnswerMissing(f"the end after {self._received!r}")
        self._received += piece


class AnswerMissing(Exception):
    """A connection ended before the answer to what was sent on it."""
