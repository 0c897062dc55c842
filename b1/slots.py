"""The host's connection slots: one locked file per connection that all processes of this host together may hold.

Guards the files of one directory: `<prefix>.<n>`, locked exclusively (`flock`) by whoever holds slot n, and
`<prefix>.want`, locked shared by whoever holds none and wants one. The kernel drops a lock with its last descriptor, so
`kill -9` frees a slot; and because a forked child shares the descriptor, and with it the lock, `_close_in_child`
takes locks and sockets away from every child.
"""

from __future__ import annotations

import fcntl
import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

from b1.errors import ConfigurationError

_RECORD_BYTES = 32
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """What a slot's file says about the connection it last paid for.

    Attributes:
        remote_id: the server's own name for the connection (backend pid, client id); 0 while it is being opened.
        is_clean: the server is known to have ended it. Otherwise whoever takes the slot has to make sure first.
    """

    remote_id: int = 0
    is_clean: bool = True


class Slot:
    """One of the host's connections, held or not. Made by `Slots`, written by its holder alone."""

    __slots__ = ("_fd", "_path", "_socket_fd", "index", "is_taken", "record")

    def __init__(self, path: Path, index: int) -> None:
        self.index = index
        self.is_taken = False
        self.record = SlotRecord()
        self._path = path
        self._fd = -1
        self._socket_fd = -1

    def __repr__(self) -> str:
        state = "taken" if self.is_taken else "free"
        return f"<Slot {self._path.name} {state} {_format(self.record).strip()}>"

    def note_open(self, remote_id: int = 0, *, socket_fd: int = -1) -> None:
        """Record that a connection exists, or may: called before it is opened and when its name is known.

        Args:
            remote_id: the server's name for it; 0 while unknown.
            socket_fd: its socket, which forked children must not keep.
        """
        self._socket_fd = socket_fd
        self._write(SlotRecord(remote_id, is_clean=False))

    def note_clean(self) -> None:
        """Record that the server has ended the connection."""
        self._socket_fd = -1
        self._write(SlotRecord(self.record.remote_id, is_clean=True))

    def free(self) -> None:
        """Let go of the slot; what the record says is for the next holder."""
        self._socket_fd = -1
        if self.is_taken:
            self.is_taken = False
            if self._fd >= 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _open(self) -> None:
        self._fd = os.open(self._path, _OPEN_FLAGS, 0o600)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        self.is_taken = False
        self._socket_fd = -1
        if fd >= 0:
            os.close(fd)

    def _close_in_child(self) -> None:
        socket_fd = self._socket_fd
        self._close()
        if socket_fd >= 0:
            # Not closed but replaced: the child's copy of the transport still owns the number and closes it later,
            # when it could belong to something else.
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, socket_fd, inheritable=False)
            os.close(null)

    def _lock(self) -> bool:
        if self.is_taken:
            return False
        if os.fstat(self._fd).st_nlink == 0:
            # Somebody emptied the folder (systemd-logind's RemoveIPC does): a lock on a deleted file excludes nobody.
            self._close()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        if not _try_lock(self._fd, fcntl.LOCK_EX):
            return False
        self.record = _parse(os.pread(self._fd, _RECORD_BYTES, 0))
        self.is_taken = True
        return True

    def _write(self, record: SlotRecord) -> None:
        self.record = record
        os.pwrite(self._fd, _format(record).encode(), 0)


class Slots:
    """The slots of one server on this host.

    Args:
        directory: where the files live; made with mode 0700. On a memory file system, since they are written often.
        prefix: of the file names, so that several kinds share a directory.
        count: how many connections the host may hold.
    """

    def __init__(self, directory: Path, prefix: str, count: int) -> None:
        if count < 1:
            raise ConfigurationError(f"{count} slots were asked for {prefix!r}", remedy="ask for 1 or more")
        self.count = count
        self._directory = directory
        self._prefix = prefix
        self._slots = [Slot(directory / f"{prefix}.{n}", n) for n in range(count)]
        self._want_fd = -1
        self._is_wanting = False

    def __repr__(self) -> str:
        held = sum(slot.is_taken for slot in self._slots)
        state = "closed" if self._want_fd < 0 else f"held={held}/{self.count} wanting={self._is_wanting}"
        return f"<Slots {self._directory / self._prefix} {state}>"

    @property
    def is_open(self) -> bool:
        return self._want_fd >= 0

    @property
    def is_wanting(self) -> bool:
        return self._is_wanting

    def open(self) -> None:
        """Open the files, in the process that will connect and never before a fork.

        Raises:
            ConfigurationError: the directory belongs to somebody else or cannot be made.
        """
        if self.is_open:
            return
        try:
            _make_private(self._directory)
            for slot in self._slots:
                slot._open()
            self._want_fd = os.open(self._directory / f"{self._prefix}.want", _OPEN_FLAGS, 0o600)
        except OSError as error:
            self.close()
            raise ConfigurationError(
                f"the slot folder {self._directory} cannot be used ({error})",
                remedy="remove it, or let this user own it with mode 0700",
            ) from error
        _guard_forks(self)

    def close(self) -> None:
        """Let go of everything; harmless when not open."""
        for slot in self._slots:
            slot._close()
        fd, self._want_fd = self._want_fd, -1
        self._is_wanting = False
        if fd >= 0:
            os.close(fd)

    def take(self) -> Slot | None:
        """Take a free slot, a clean one if there is a choice; None when the host's connections are all held."""
        doubtful: Slot | None = None
        for slot in self._slots:
            if not slot._lock():
                continue
            if slot.record.is_clean:
                if doubtful is not None:
                    doubtful.free()
                return slot
            if doubtful is None:
                doubtful = slot
            else:
                slot.free()
        return doubtful

    def records(self) -> tuple[SlotRecord, ...]:
        """Read what all slot files say now, locked by others or not."""
        return tuple(_parse(os.pread(slot._fd, _RECORD_BYTES, 0)) for slot in self._slots)

    def want(self, on: bool) -> None:
        """Announce that this holder of nothing wants a slot, or take that back.

        May fail to be heard while somebody looks (`others_want`); repeat it until served.
        """
        if on and not self._is_wanting:
            self._is_wanting = _try_lock(self._want_fd, fcntl.LOCK_SH, attempts=3)
        elif self._is_wanting and not on:
            fcntl.flock(self._want_fd, fcntl.LOCK_UN)
            self._is_wanting = False

    def others_want(self) -> bool:
        """Tell whether somebody else announces that it wants a slot. Two system calls."""
        # Two looks that collide see each other for a microsecond; the second attempt tells them from an announcement.
        alone = _try_lock(self._want_fd, fcntl.LOCK_EX, attempts=2)
        if self._is_wanting:
            # The look replaced our own announcement, whatever it found.
            self._is_wanting = _try_lock(self._want_fd, fcntl.LOCK_SH, attempts=3)
        elif alone:
            fcntl.flock(self._want_fd, fcntl.LOCK_UN)
        return not alone

    def _close_in_child(self) -> None:
        for slot in self._slots:
            slot._close_in_child()
        self.close()


def _format(record: SlotRecord) -> str:
    text = f"{record.remote_id} {'clean' if record.is_clean else 'open'}"
    return text.ljust(_RECORD_BYTES - 1) + "\n"


def _parse(data: bytes) -> SlotRecord:
    words = data.split()
    if not words:
        return SlotRecord()
    if len(words) == 2 and words[0].isdigit():
        return SlotRecord(int(words[0]), words[1] == b"clean")
    return SlotRecord(0, is_clean=False)  # torn or foreign: doubt is safe, trust is not


def _try_lock(fd: int, kind: int, *, attempts: int = 1) -> bool:
    for _ in range(attempts):
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def _make_private(directory: Path) -> None:
    for folder in (directory.parent, directory):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Anybody may have made b1-<uid> before us in a folder such as /dev/shm, and could swap what lies in it.
    if directory.parent.stat().st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{directory.parent} belongs to another user")
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"it is not a folder of user {os.geteuid()}")
    if found.st_mode & 0o077:
        directory.chmod(0o700)


_opened: weakref.WeakSet[Slots] = weakref.WeakSet()
_forks_are_guarded = False


def _guard_forks(slots: Slots) -> None:
    global _forks_are_guarded
    _opened.add(slots)
    if not _forks_are_guarded:  # on first use, so that importing has no effects
        _forks_are_guarded = True
        os.register_at_fork(after_in_child=_close_all_in_child)


def _close_all_in_child() -> None:
    for slots in list(_opened):
        slots._close_in_child()
