"""Published files are fetched whole or not at all, verified by a published hash or by the first one seen, and never run."""

import hashlib
import os
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.data.files import StoreError
from bench.metrics.weights import table as weights
from bench.metrics.weights.cache import manifest_path
from bench.metrics.weights.hub import HubFile, HubSource
from bench.metrics.weights.table import WeightsError

CONTENT = bytes(range(256)) * 9000  # over two chunks


class Server(ThreadingHTTPServer):
    content = CONTENT
    claims = len(CONTENT)  # bytes that the header promises
    hits = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.hits += 1
        self.send_response(200 if self.path.startswith("/there") else 404)
        self.send_header("Content-Length", str(self.server.claims))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A hub on this machine, and an empty cache."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "cache"))
    hub = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


def publish(monkeypatch: pytest.MonkeyPatch, server: Server, *, pinned: bool, path: str = "there/net.pth", second: bool = False) -> HubFile:
    """Weights `net`, pinned by the hash of CONTENT or not."""
    url = f"http://127.0.0.1:{server.server_port}/{path}"
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = HubFile(file_name="net.pth", url=url, sha256=digest if pinned else None)
    files = (file, HubFile(file_name="probe.pth", url=url)) if second else (file,)
    monkeypatch.setattr(weights, "SOURCES", {"net": HubSource(files=files, license="MIT", description="a net")})
    return file


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("pinned", [True, False])
def test_get_streams_verifies_and_records(server: Server, monkeypatch: pytest.MonkeyPatch, pinned: bool) -> None:
    file = publish(monkeypatch, server, pinned=pinned)
    assert weights.status()[0].state == "missing"
    said: list[str] = []
    assert weights.get("net", said.append) == file.path and file.path.read_bytes() == CONTENT
    assert left(file.path.parent) == ["net.pth", "net.pth.json"]
    assert any("100 %" in line for line in said)
    assert any("no hash is published" in line for line in said) == (not pinned)
    (status,) = weights.status()
    assert (status.state, status.detail) == ("ready", "")
    assert weights.source_sha256("net") == hashlib.sha256(CONTENT).hexdigest()
    assert weights.files("net") == [file.path]
    weights.get("net")
    assert server.hits == 1, "fetched again although it was there"


def test_missing_names_the_command_the_address_the_hash_and_the_place(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(monkeypatch, server, pinned=True)
    with pytest.raises(WeightsError) as caught:
        weights.files("net")
    for part in ("python -m bench weights get net", file.url, str(file.sha256), str(file.path)):
        assert part in str(caught.value)


def test_offline_is_one_line_that_says_what_to_do(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(monkeypatch, server, pinned=True)
    server.shutdown()
    server.server_close()
    with pytest.raises(WeightsError) as caught:
        weights.get("net")
    said = str(caught.value)
    assert "\n" not in said and "refused" in said
    for part in (file.file_name, file.url, str(file.sha256), f"by hand at {file.path}"):
        assert part in said
    assert left(file.path.parent) == []


def test_not_found_is_an_error_and_leaves_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(monkeypatch, server, pinned=False, path="gone.pth")
    with pytest.raises(WeightsError, match=r"Not Found; or put it by hand"):
        weights.get("net")
    assert left(file.path.parent) == []


@pytest.mark.parametrize("pinned", [True, False])
def test_a_truncated_download_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch, pinned: bool) -> None:
    file = publish(monkeypatch, server, pinned=pinned)
    server.content = CONTENT[:-1]
    with pytest.raises(WeightsError, match=f"could not fetch|{len(CONTENT) - 1} bytes"):
        weights.get("net")
    assert left(file.path.parent) == []


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x", CONTENT[:-1]], ids=["other", "longer", "shorter"])
def test_a_download_that_is_not_the_pinned_file_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    file = publish(monkeypatch, server, pinned=True)
    server.content, server.claims = content, len(content)
    with pytest.raises(WeightsError, match=r"another file|expected"):
        weights.get("net")
    assert left(file.path.parent) == []


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content[1:]], ids=["truncated", "flipped"])
def test_a_damaged_pinned_file_is_seen_and_fetched_again(server: Server, monkeypatch: pytest.MonkeyPatch, damage) -> None:
    file = publish(monkeypatch, server, pinned=True)
    weights.get("net")
    file.path.write_bytes(damage(CONTENT))
    assert weights.status()[0].state == "damaged"
    with pytest.raises(WeightsError, match="python -m bench weights get net"):
        weights.files("net")
    weights.get("net")
    assert weights.status()[0].state == "ready"


def test_a_file_trusted_on_first_use_may_not_change(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(monkeypatch, server, pinned=False)
    weights.get("net")
    first = weights.source_sha256("net")
    file.path.write_bytes(CONTENT + b"x")
    for call in (weights.files, weights.get):
        with pytest.raises(WeightsError, match=r"have changed since they were first used.*net\.pth\.json"):
            call("net")
    file.path.unlink()
    server.content = b"y" + CONTENT[1:]  # the publisher's file changed too
    with pytest.raises(WeightsError, match=r"gave another file.*the one known is"):
        weights.get("net")
    assert weights.source_sha256("net") == first and not file.path.exists()
    server.content = CONTENT
    weights.get("net")
    assert weights.source_sha256("net") == first


def test_a_file_placed_by_hand(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned: its hash is enough. Not pinned: `get` records it, without which it is not used."""
    file = publish(monkeypatch, server, pinned=True)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(CONTENT)
    assert weights.files("net") == [file.path]
    publish(monkeypatch, server, pinned=False)
    with pytest.raises(WeightsError, match="no readable manifest"):
        weights.files("net")
    weights.get("net")
    assert weights.files("net") == [file.path] and server.hits == 0
    assert "placed by hand" in manifest_path(file.path).read_text()


def test_several_files_have_one_identity(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(monkeypatch, server, pinned=False, second=True)
    assert weights.source_sha256("net") == ""
    weights.get("net")
    identity = weights.source_sha256("net")
    assert len(identity) == 64 and identity != hashlib.sha256(CONTENT).hexdigest()
    (file.path.with_name("probe.pth")).unlink()
    assert weights.status()[0].state == "missing"
    assert weights.source_sha256("net") == identity, "what was recorded stays recorded"
    weights.get("net")
    assert server.hits == 3


def test_a_folder_that_cannot_be_written_says_so(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish(monkeypatch, server, pinned=True)
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"cannot write .*set UNET_VS_DIT_CACHE"):
        weights.get("net")


class Exploit:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_fetching_a_pickle_runs_nothing(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = publish(monkeypatch, server, pinned=False)
    server.content = pickle.dumps(Exploit(f"touch {tmp_path / 'ran'}"))
    server.claims = len(server.content)
    weights.get("net")
    assert weights.status()[0].state == "ready" and file.path.read_bytes() == server.content
    assert not (tmp_path / "ran").exists()


def test_what_is_published_is_what_others_use() -> None:
    """The hashes of cd-fvd's and StyleGAN-V's files, and no invented ones."""
    table = {name: source.files for name, source in weights.SOURCES.items() if isinstance(source, HubSource)}
    assert set(table) == {"i3d_torchscript", "videomae", "vjepa"}
    assert table["videomae"][0].sha256 == "5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70"
    assert table["i3d_torchscript"][0].sha256 == "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
    assert [file.sha256 for file in table["vjepa"]] == [None, None]
    for files in table.values():
        assert all(file.url.startswith("https://") and "/" not in file.file_name for file in files)
