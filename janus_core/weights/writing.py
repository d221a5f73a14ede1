"""Writing files that others may read or write: under a lock, beside the final name, which they get when they are complete.

A loaded model reads its file as long as it lives, so the file is replaced, and never written into.
"""

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from ..errors import InputError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network file systems
HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
LOCKED_BYTE = 1 << 40  # far behind any content, as Windows does not let others read what is locked
MAX_NAME_BYTES = 240  # file systems allow 255, and the file has a longer name while it is written
PART = ".part"


class HeldError(Exception):
    """Another process, or another thread, holds the lock. The message is what the file says."""


@contextmanager
def locked(path: Path) -> Iterator[FileIO]:
    """Hold the lock on a file, which is created if it is missing. The system frees the lock of a process that ends.

    Closing the file also frees the lock. Raises HeldError at once if another has it, OSError as `open` does.
    """
    while True:
        file = FileIO(path, "a+")
        try:
            _lock(file.fileno())
            # While the lock was taken, its last holder may have removed or renamed the file.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        except OSError as error:
            if error.errno in NO_LOCKS:
                logging.getLogger(__name__).warning(
                    "Janus: the file system of %s has no locks, so write there with one program at a time.", path.parent
                )
                break
            with file:
                if error.errno in HELD:
                    file.seek(0)
                    raise HeldError(file.read(200).decode("utf-8", "replace")) from error
            raise
        file.close()
    with file:
        yield file


def remove(path: Path, lock: FileIO) -> None:
    """Delete the file of a lock that is held, which frees the lock, or leave it if the system does not allow that."""
    if sys.platform == "win32":  # which deletes no open file
        lock.close()
    with suppress(OSError):
        path.unlink()
    lock.close()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The empty file to write for `path`: it gets that name after the block, and is deleted after an error.

    A file at `path` is replaced. Raises InputError while another program writes `path`, and if the disk refuses.
    """
    part = path.with_name(f".{path.name}{PART}")
    try:
        with locked(part) as lock:
            try:
                lock.truncate(0)  # a process that was killed may have left it
                yield part
                if sys.platform == "win32":  # which renames no open file
                    lock.close()
                part.replace(path)
            except BaseException:
                remove(part, lock)
                raise
    except HeldError as error:
        raise InputError(f"{path} is being written by another program: wait until it is there.") from error
    except OSError as error:
        raise InputError(f"{path} could not be written ({error}): check the disk, or choose another folder.") from error


def sweep(folder: Path) -> None:
    """Delete the unfinished weight files that killed processes have left in a folder."""
    for part in folder.glob(f".*.safetensors{PART}"):
        with suppress(HeldError, OSError), locked(part) as lock:
            remove(part, lock)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
