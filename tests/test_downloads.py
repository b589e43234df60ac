"""Downloads from a server on loopback that behaves as servers do: with ranges, without them, cut short, wrong."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_meta import downloads
from robustbench_meta.downloads import DownloadError, Member, Source, available, fetch, fetch_all
from robustbench_meta.tasks.cifar import Cifar
from robustbench_meta.tasks.omniglot import Omniglot
from robustbench_meta.types import SPLITS, InputError, Spec

BODY = np.random.default_rng(0).bytes(300_000)


@dataclass
class Server:
    """What the server on loopback serves and how, and the ranges it was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cut: int | None = None  # send so many bytes of a body, then hang up
    asked: list[str | None] = field(default_factory=list)

    def source(self, name: str = "body.bin", body: bytes = BODY, **fields: Any) -> Source:
        self.files[f"/{name}"] = body
        source = Source(f"{self.address}/{name}", name, f"sha256:{hashlib.sha256(body).hexdigest()}", len(body))
        return replace(source, **fields)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if self.path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/moved"))
                self.end_headers()
                return
            body = state.files.get(self.path)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if body is None or start >= len(body):
                self.send_error(404 if body is None else 416)
                return
            self.send_response(206 if wanted and state.ranges else 200)
            if wanted and state.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:][: state.cut])

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        state.address = f"http://127.0.0.1:{listening.server_address[1]}"
        yield state
        listening.shutdown()


def tar_of(files: dict[str, bytes], *, kind: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=kind) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_file_arrives_whole_and_progress_ends_at_its_size(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    source = server.source()
    assert fetch(source, tmp_path, progress=lambda *event: seen.append(event)) == [tmp_path / "body.bin"]
    assert (tmp_path / "body.bin").read_bytes() == BODY
    assert below(tmp_path) == ["body.bin"]
    assert seen[0] == ("body.bin", 0, 300_000)
    assert seen[-1] == ("body.bin", 300_000, 300_000)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_what_is_there_already_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    source = server.source()
    fetch(source, tmp_path)
    fetch(source, tmp_path)
    assert server.asked == [None]


def test_a_file_with_other_bytes_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "body.bin").write_bytes(b"half a file")
    fetch(server.source(), tmp_path)
    assert (tmp_path / "body.bin").read_bytes() == BODY


def test_a_cut_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    source, server.cut = server.source(), 120_000
    with pytest.raises(DownloadError, match="the same command goes on") as refusal:
        fetch(source, tmp_path)
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "body.bin.part").read_bytes() == BODY[:120_000]
    server.cut = None
    seen: list[int] = []
    fetch(source, tmp_path, progress=lambda name, done, total: seen.append(done))
    assert server.asked == [None, "bytes=120000-"]
    assert seen[0] == 120_000
    assert below(tmp_path) == ["body.bin"]
    assert (tmp_path / "body.bin").read_bytes() == BODY


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    source, server.ranges = server.source(), False
    (tmp_path / "body.bin.part").write_bytes(BODY[:1000])
    fetch(source, tmp_path)
    assert (tmp_path / "body.bin").read_bytes() == BODY


def test_a_part_that_is_complete_is_put_in_place(server: Server, tmp_path: Path) -> None:
    (tmp_path / "body.bin.part").write_bytes(BODY)
    fetch(server.source(), tmp_path)
    assert below(tmp_path) == ["body.bin"]
    assert (tmp_path / "body.bin").read_bytes() == BODY


def test_a_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    source = server.source()
    fetch(replace(source, url=f"{server.address}/moved/body.bin"), tmp_path)
    assert (tmp_path / "body.bin").read_bytes() == BODY


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_is_refused_and_the_file_removed(server: Server, tmp_path: Path, kind: str) -> None:
    source = server.source(checksum=f"{kind}:{'0' * (64 if kind == 'sha256' else 32)}")
    found = hashlib.new(kind, BODY).hexdigest()
    with pytest.raises(DownloadError, match=f"{kind}:{found} came, must be {kind}:0+; removed"):
        fetch(source, tmp_path)
    assert below(tmp_path) == []


def test_a_stale_part_is_refused_and_the_next_call_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "body.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="removed"):
        fetch(server.source(), tmp_path)
    fetch(server.source(), tmp_path)
    assert (tmp_path / "body.bin").read_bytes() == BODY


def test_more_bytes_than_the_source_has_are_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="more than 1000 bytes"):
        fetch(server.source(size=1000), tmp_path)
    assert below(tmp_path) == []


def test_a_source_of_unknown_size_has_a_limit(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "LARGEST", 1000)
    with pytest.raises(DownloadError, match="more than 1000 bytes"):
        fetch(server.source(size=None), tmp_path)
    assert below(tmp_path) == []


@pytest.mark.parametrize("url", ["/absent.bin", "http://127.0.0.1:1/x", "no address"])
def test_an_address_that_does_not_serve_is_named_in_one_line(server: Server, tmp_path: Path, url: str) -> None:
    full = server.address + url if url.startswith("/") else url
    with pytest.raises(DownloadError) as refusal:
        fetch(server.source(url=full), tmp_path)
    assert str(refusal.value).startswith(full)
    assert "\n" not in str(refusal.value)
    assert below(tmp_path) == []


def test_an_archive_is_unpacked_and_removed(server: Server, tmp_path: Path) -> None:
    body = tar_of({"folder/a.bin": b"aaa", "folder/b.bin": b"bbb", "folder/readme": b"not asked for"})
    source = server.source("pack.tar.gz", body, members=(Member("folder/a.bin"), Member("folder/b.bin")))
    assert fetch(source, tmp_path) == [tmp_path / "folder/a.bin", tmp_path / "folder/b.bin"]
    assert below(tmp_path) == ["folder/a.bin", "folder/b.bin"]
    assert (tmp_path / "folder/b.bin").read_bytes() == b"bbb"
    fetch(source, tmp_path)
    assert server.asked == [None]


def hostile(kind: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo({"parent": "../evil", "absolute": "/evil/file", "link": "folder"}[kind])
        if kind == "link":
            entry.type, entry.linkname = tarfile.SYMTYPE, "../.."
        tar.addfile(entry)
        if kind == "link":
            tar.addfile(tarfile.TarInfo("folder/evil"))
        tar.addfile(tarfile.TarInfo("folder/a.bin"))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["parent", "link"])
def test_an_archive_that_leaves_its_folder_is_refused(server: Server, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "deep" / "root"
    source = server.source("pack.tar", hostile(kind), members=(Member("folder/a.bin"),))
    with pytest.raises(DownloadError, match=r"pack.tar: cannot be unpacked: ") as refusal:
        fetch(source, root)
    assert "\n" not in str(refusal.value)
    assert below(tmp_path) == ["deep/root/pack.tar"]


def test_an_absolute_path_in_an_archive_stays_below_the_root(server: Server, tmp_path: Path) -> None:
    fetch(server.source("pack.tar", hostile("absolute"), members=(Member("folder/a.bin"),)), tmp_path)
    assert below(tmp_path) == ["folder/a.bin"]
    assert not Path("/evil").exists()


def test_an_archive_is_unpacked_as_a_whole_or_not_at_all(server: Server, tmp_path: Path) -> None:
    members = (Member("folder/a.bin"), Member("folder/b.bin"))
    lacking = server.source("pack.tar", tar_of({"folder/a.bin": b"a"}, kind="w"), members=members)
    with pytest.raises(DownloadError, match=r"it lacks folder/b.bin"):
        fetch(lacking, tmp_path)
    assert below(tmp_path) == ["pack.tar"]
    broken = tar_of({"folder/a.bin": BODY, "folder/b.bin": BODY})[:-250_000]
    with pytest.raises(DownloadError, match="cannot be unpacked"):
        fetch(server.source("pack.tar", broken, members=members), tmp_path)
    assert below(tmp_path) == ["pack.tar"]


def test_an_archive_that_grows_too_large_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = tar_of({"folder/a.bin": bytes(2_000_000)})
    monkeypatch.setattr(downloads, "LARGEST", 1_000_000)
    with pytest.raises(DownloadError, match="more than 1000000 bytes"):
        fetch(server.source("pack.tar.gz", body, members=(Member("folder/a.bin"),)), tmp_path)
    assert below(tmp_path) == ["pack.tar.gz"]


@dataclass(frozen=True)
class Served:
    """A family whose files the server on loopback has."""

    sources: tuple[Source, ...]
    root: Path | None
    name: str = "served"


def test_all_that_a_family_needs_is_fetched_and_nothing_optional(server: Server, tmp_path: Path) -> None:
    sources = (server.source("a.bin"), server.source("b.bin", optional=True))
    assert fetch_all(Served(sources, tmp_path)) == [tmp_path / "a.bin"]
    assert below(tmp_path) == ["a.bin"]


def test_without_a_data_root_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RBM_DATA", raising=False)
    with pytest.raises(InputError, match="served: no data root; give --data-root or set RBM_DATA"):
        fetch_all(Served((), None))


def test_what_is_there_is_told_file_by_file(server: Server, tmp_path: Path) -> None:
    sources = (
        *(server.source(f"{state}.bin") for state in ("whole", "other", "partial", "missing")),
        server.source("pack.tar", members=(Member("folder/free.bin"), Member("folder/none.bin"))),
    )
    (tmp_path / "whole.bin").write_bytes(BODY)
    (tmp_path / "other.bin").write_bytes(b"other")
    (tmp_path / "partial.bin.part").write_bytes(b"par")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "free.bin").write_bytes(b"any")
    found = available(Served(sources, tmp_path))
    assert [item.state for item in found] == ["whole", "other", "partial", "missing", "whole", "missing"]
    assert found[0].detail == "300000 bytes, sha256 as published"
    assert found[2].detail == "3 bytes of partial.bin.part so far"


def test_omniglot_comes_from_its_publishers_bytes(server: Server, omniglot_root: Path, tmp_path: Path) -> None:
    sources = tuple(
        replace(source, url=f"{server.address}/{source.path}", optional=not source.optional)
        for source in Omniglot.sources
    )
    for source in sources:
        if not source.optional:
            server.files[f"/{source.path}"] = (omniglot_root / source.path).read_bytes()
    fetch_all(Served(sources, tmp_path))
    family = Omniglot(root=tmp_path)
    assert [item.state for item in available(family)] == ["missing", "missing", "whole", "whole"]
    assert family.sample("test", Spec(), [0]).query_x.shape == (1, 75, 1, 28, 28)


def test_cifar_comes_from_an_archive_of_the_publishers_layout(server: Server, cifar_root: Path, tmp_path: Path) -> None:
    folder = cifar_root / "cifar-100-binary"
    files = {f"cifar-100-binary/{p.name}": p.read_bytes() for p in folder.glob("*_label_names.txt")}
    for name in ("train.bin", "test.bin"):
        rows = np.fromfile(folder / name, dtype=np.uint8).reshape(100, -1, 3074)[:, :3]
        files[f"cifar-100-binary/{name}"] = rows.tobytes()
    body = tar_of(files)
    source = server.source("cifar-100-binary.tar.gz", body, members=Cifar.sources[0].members)
    server.cut = len(body) // 2
    with pytest.raises(DownloadError):
        fetch_all(Served((source,), tmp_path))
    server.cut = None
    fetch_all(Served((source,), tmp_path))
    for name in ("cifar-fs", "fc100"):
        family = Cifar(name, root=tmp_path)  # type: ignore[arg-type]
        assert all(family.pool(split).smallest == 6 for split in SPLITS)
        assert family.sample("test", Spec(shots=2, queries=4), [0]).query_x.shape == (1, 20, 3, 32, 32)
