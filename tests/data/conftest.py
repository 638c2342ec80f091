"""A data set of ten tiny images in MNIST's four files, and a server on 127.0.0.1 that serves, cuts off or lies."""

import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from casemate.data import LOADERS, idx
from casemate.data.canonical import CanonicalFile, Source
from casemate.data.mnist import IMAGES, LABELS, IdxLoader


@dataclass(frozen=True)
class Tiny:
    """What `load("tiny")` finds and what it should make of it."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    contents: dict[str, bytes]  # by file name, uncompressed

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tiny:
    """Ten images of 5 x 4, known to `load` as "tiny"; nothing is set in the environment but an empty cache."""
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 256, (n, 5, 4), dtype=np.uint8) for split, n in (("train", 6), ("test", 4))}
    labels = {split: np.arange(len(values), dtype=np.uint8) % 3 for split, values in images.items()}
    contents = {IMAGES[split]: idx.encode(images[split]) for split in images}
    contents |= {LABELS[split]: idx.encode(labels[split]) for split in labels}
    files = [CanonicalFile(name, len(content), _sha256(content)) for name, content in contents.items()]
    source = Source("tiny", tuple(files), ("http://127.0.0.1:9/nowhere",))
    monkeypatch.setitem(LOADERS, "tiny", IdxLoader(source, ("a", "b", "c"), "download"))
    monkeypatch.setenv("CASEMATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("CASEMATE_DATA", "CASEMATE_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    return Tiny(images, labels, contents)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Server:
    url: str
    bodies: dict[str, bytes] = field(default_factory=dict)  # by path; a path that is not here is a 404
    cut: bool = False  # close the connection after half of the body
    silent: threading.Event | None = None  # answer nothing until it is set
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Named in CASEMATE_MIRROR."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(lambda: state))
    state = Server(f"http://127.0.0.1:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("CASEMATE_MIRROR", state.url)
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def _handler(state: Callable[[], Server]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server = state()
            server.asked.append(self.path)
            if server.silent:
                server.silent.wait(10)
                return
            body = server.bodies.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if server.cut else body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on standard error."""

    return Handler
