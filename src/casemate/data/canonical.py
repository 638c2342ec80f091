"""Files whose content is published: what they must hold, and reading them only if they do."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"


class Damaged(Exception):
    """A file that does not hold what it must; the message is the end of a sentence that starts with its path."""


@dataclass(frozen=True)
class CanonicalFile:
    """A file by its content; the wrapping by gzip differs from mirror to mirror, so it counts for nothing."""

    name: str  # without .gz
    n_bytes: int  # of the content, uncompressed
    sha256: str  # of the content, uncompressed


@dataclass(frozen=True)
class Source:
    """Where the files of one data set are found.

    `name` is the data set's name and that of its folder in `CASEMATE_DATA`, the cache and a mirror of one's own;
    `mirrors` are URLs of folders. Where `archive` is named, the mirrors hold that tar file, and in it (and in the
    cache) the files lie in `folder`; otherwise they hold each file by itself, as FILE.gz.
    """

    name: str
    files: tuple[CanonicalFile, ...]
    mirrors: tuple[str, ...]
    folder: str = ""
    archive: str | None = None

    def kept_as(self, file: CanonicalFile) -> str:
        """The name under which the cache keeps `file`, and a mirror without an archive offers it."""
        return file.name if self.archive else f"{file.name}.gz"


def read_file(path: Path, file: CanonicalFile) -> bytes:
    """The content of `path`, gzipped or plain whatever its name says; raises `Damaged` unless it is that of `file`."""
    try:
        with path.open("rb") as plain:
            gzipped = plain.read(2) == GZIP_MAGIC
            plain.seek(0)
            # One byte more than expected shows a longer file, without unpacking all that a hostile one may hold.
            content = gzip.GzipFile(fileobj=plain).read(file.n_bytes + 1) if gzipped else plain.read(file.n_bytes + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Damaged(f"is cut short or not gzip all through ({_expected(file)})") from None
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror or error})") from None
    return _checked(content, file)


def read_members(archive: Path, files: Sequence[CanonicalFile]) -> Iterator[tuple[CanonicalFile, bytes]]:
    """Each of `files` with its content, in the order in which the tar file holds them, unpacking no more than one.

    Raises `Damaged` where one is missing or does not hold what it must.
    """
    wanted = {file.name: file for file in files}
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                file = wanted.pop(Path(member.name).name, None) if member.isfile() else None
                content = members.extractfile(member) if file else None
                if file and content:
                    yield file, _checked(content.read(file.n_bytes + 1), file)
                if not wanted:
                    return
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile):
        raise Damaged("is cut short or not a tar file all through") from None
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror or error})") from None
    raise Damaged(f"does not hold {' and '.join(wanted)}")


def _checked(content: bytes, file: CanonicalFile) -> bytes:
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 == file.sha256:
        return content
    longer = "more than " if len(content) > file.n_bytes else ""
    found = f"{longer}{min(len(content), file.n_bytes):,} bytes" + ("" if longer else f" of sha256 {sha256[:12]}...")
    raise Damaged(f"holds {found} ({_expected(file)})")


def _expected(file: CanonicalFile) -> str:
    return f"expected: {file.name}, {file.n_bytes:,} bytes of sha256 {file.sha256[:12]}..."
