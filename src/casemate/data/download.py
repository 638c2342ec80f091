"""Fetching canonical files by pooch into the cache: checked before they get their name, so whole, right or absent."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pooch
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from casemate.data.canonical import CanonicalFile, Damaged, Source, read_file, read_members
from casemate.files import replacing, write_bytes

# Seconds to connect, and to wait for the next bytes. A mirror that needs longer is given up for the next one.
TIMEOUT = (10, 20)
CHUNK_BYTES = 1 << 16

T = TypeVar("T")


class Unavailable(Exception):
    """No mirror gave the file; the message lists each URL with what went wrong."""


class _NoAnswer(Exception):
    """What kept one URL from answering in full. Not an `OSError`, which `replacing` takes for a fault of the disk."""


def download(
    source: Source, files: Sequence[CanonicalFile], folder: Path, mirrors: Sequence[str], progress: bool
) -> dict[str, bytes]:
    """The content of `files`, by name, fetched into `folder`.

    Each of `mirrors` (URLs of folders) is tried once, in turn. Where the source has an archive, all its files are
    unpacked into `folder`, and the archive is not kept.
    `progress` draws a bar on standard error. Raises `Unavailable` where no mirror gave the right content, and
    `CasemateError` where `folder` cannot be written.
    """
    if source.archive is not None:
        return _download_archive(source, files, folder / source.archive, mirrors, progress)
    return {file.name: _download_file(file, folder / source.kept_as(file), mirrors, progress) for file in files}


def _download_file(file: CanonicalFile, path: Path, mirrors: Sequence[str], progress: bool) -> bytes:
    def attempt(url: str) -> bytes:
        with replacing(path) as temporary:
            _get(url, temporary, progress)
            return read_file(temporary, file)

    return _first_that_works(mirrors, path.name, attempt)


def _download_archive(
    source: Source, files: Sequence[CanonicalFile], path: Path, mirrors: Sequence[str], progress: bool
) -> dict[str, bytes]:
    def attempt(url: str) -> dict[str, bytes]:
        contents = {}
        with replacing(path) as temporary:
            _get(url, temporary, progress)
            for file, content in read_members(temporary, source.files):
                write_bytes(path.parent / file.name, content)
                if file in files:
                    contents[file.name] = content
        path.unlink()
        return contents

    return _first_that_works(mirrors, path.name, attempt)


def _first_that_works(mirrors: Sequence[str], name: str, attempt: Callable[[str], T]) -> T:
    faults = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{name}"
        try:
            return attempt(url)
        except _NoAnswer as error:
            faults.append(f"{url} ({error})")
        except Damaged as error:
            faults.append(f"{url} (what came {error})")
    raise Unavailable(" and ".join(faults))


def _get(url: str, path: Path, progress: bool) -> None:
    try:
        with _bar(url.rpartition("/")[2]) if progress else contextlib.nullcontext(False) as bar:
            pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK_BYTES, timeout=TIMEOUT)(url, str(path), None)
    except requests.RequestException as error:
        raise _NoAnswer(_reason(error)) from None


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return "no usable address" if isinstance(error, ValueError) else type(error).__name__


class _Bar:
    """What pooch asks of a progress bar (`total`, `update`, `reset`, `close`), drawn by rich."""

    def __init__(self, bars: Progress, label: str) -> None:
        self.total = 0  # pooch sets it once the server has told
        self._bars = bars
        self._task = bars.add_task(label, total=None)

    def update(self, n_bytes: int) -> None:
        self._bars.update(self._task, total=self.total or None, advance=n_bytes)

    def reset(self) -> None:
        self._bars.reset(self._task)

    def close(self) -> None:
        """The end of `_bar` closes it, after a failure too."""


@contextlib.contextmanager
def _bar(label: str) -> Iterator[_Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _Bar(bars, label)
