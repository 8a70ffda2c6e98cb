"""Sources and job folders behind URLs: when nobody answers any more, and logs where no object grows."""

from __future__ import annotations

import io
import signal
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.tiny import save_tiny
from trocr_jax.cli import main
from trocr_jax.errors import ImageError, JobError, OutputError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import files, open_source
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.events import Events, read_events
from trocr_jax.jobs.host import writing
from trocr_jax.jobs.sources import images_in_parquet
from trocr_jax.jobs.sources.folder import Folder
from trocr_jax.jobs.sources.manifest import Manifest
from trocr_jax.jobs.store import LocalStore, open_store
from trocr_jax.jobs.store_remote import RemoteStore

fsspec = pytest.importorskip("fsspec")


class NoAnswer(Exception):
    """As botocore's and aiohttp's errors, no OSError."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__("could not connect")
        self.status = status


class Gone:
    """A file system that nobody answers for; of a name with a number, the server answers with that status."""

    def __getattr__(self, name: str) -> Any:
        def ask(path: str = "", *args: Any, **options: Any) -> Any:
            status = path.rpartition("/")[2]
            if name == "exists" and path == "gone://answers":
                return True
            raise NoAnswer(int(status) if status.isdecimal() else None)

        return ask if not name.startswith("_") and name != "invalidate_cache" else lambda *args: None


def test_what_a_server_could_not_give_once_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trocr_jax.jobs.decode_worker.PAUSES", (0.01, 0.02))
    (picture := io.BytesIO()).write(b"P5 4 4 255 \n"[:11] + bytes(16))

    class Server:
        kind = "manifest"

        def __init__(self, *answers: Any) -> None:
            self.answers = iter(answers)

        def read(self, place: Any) -> Any:
            answer = next(self.answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        def check(self) -> None: ...

    def decoder(*answers: Any) -> Decoder:
        return Decoder(Server(*answers), ImageProcessor())  # type: ignore[arg-type]

    def late() -> bytes:  # as a function that reads
        raise OSError(5, "Internal Server Error")

    failed, good = OSError(5, "Internal Server Error"), picture.getvalue()
    assert decoder(failed, good)("1", "http://a/1").pixels.shape == (224, 224, 3)
    assert decoder(late, failed, good)("1", "http://a/1").pixels.shape == (224, 224, 3)
    with pytest.raises(SourceError, match="nternal Server Error"):
        decoder(failed, failed, failed, good)("1", "http://a/1")
    with pytest.raises(SourceError):  # a disk is not asked again
        decoder(failed, good)("1", "/a/1")
    with pytest.raises(ImageError):
        decoder(FileNotFoundError(2, "No such file"), good)("1", "http://a/1")
    one = decoder(good, failed, failed, failed, good)  # the server gives another one: this image has failed
    one("1", "http://a/1")
    with pytest.raises(ImageError, match=r"2 \(http://a/2\): Internal Server Error"):
        one("2", "http://a/2")
    for other in ("http://b/2", "http://a/1"):  # of another server, or the same image
        one = decoder(good, failed, failed, failed, good)
        one("1", "http://a/1")
        with pytest.raises(SourceError):
            one("2", other)
    one = decoder(good, *[failed] * 4, good)  # no more does it give that one now
    one("1", "http://a/1")
    with pytest.raises(SourceError):
        one("2", "http://a/2")
    signal.setitimer(signal.ITIMER_REAL, 0.03)  # no time to ask again
    with pytest.raises(SourceError):
        decoder(failed, failed, good)("1", "http://a/1")
    signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "file_system", lambda url: Gone())
    monkeypatch.setattr("trocr_jax.jobs.store_remote.file_system", lambda url: Gone())


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


@pytest.mark.usefixtures("gone")
def test_lines_that_nobody_answers_for_have_not_failed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trocr_jax.jobs.decode_worker.PAUSES", (0.01, 0.02))
    decode = Decoder(Folder(("gone://answers",)), ImageProcessor())
    with pytest.raises(SourceError, match=r"gone://answers/a: NoAnswer: could not connect.*run the job again"):
        decode("gone://answers/a", "gone://answers/a")
    for status in (401, 407, 408, 429, 503):
        with pytest.raises(SourceError, match=r"gone://answers/\d+: NoAnswer: could not connect"):
            decode(f"gone://answers/{status}", f"gone://answers/{status}")
    with pytest.raises(ImageError, match="NoAnswer"):  # the server has an answer, but not for this file
        decode("gone://answers/410", "gone://answers/410")
    with pytest.raises(SourceError, match=r"gone://lines: cannot be read \(NoAnswer"):  # nor for the folder
        Decoder(Folder(("gone://lines",)), ImageProcessor())("gone://lines/410", "gone://lines/410")
    with pytest.raises(SourceError, match=r"gone://lines: cannot be read \(.*run the same command again"):
        open_source(["gone://lines"])


class Cut(io.RawIOBase):
    """A file in a store that goes away when `left` bytes have been read, and raises `error` from then on."""

    def __init__(self, content: bytes, left: int, error: Exception) -> None:
        self._file, self._left, self._error = io.BytesIO(content), left, error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        found = self._file.readinto(buffer)
        self._left -= found
        if self._left < 0:
            raise self._error
        return found


def tar(names: list[str]) -> bytes:
    with io.BytesIO() as content:
        with tarfile.open(fileobj=content, mode="w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
        return content.getvalue()


def packed(names: list[str]) -> bytes:
    with io.BytesIO() as content:
        with zipfile.ZipFile(content, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
        return content.getvalue()


def columns(names: list[str]) -> bytes:
    with io.BytesIO() as content:
        parquet.write_table(pa.table({"path": names, "image": [b"image"] * len(names)}), content)
        return content.getvalue()


KINDS: list[tuple[str, str, Callable[[list[str]], bytes]]] = [
    ("tar", "lines.tar", tar),
    ("zip", "lines.zip", packed),
    ("manifest", "lines.jsonl", lambda names: "".join(f'{{"path": "{name}"}}\n' for name in names).encode()),
    ("manifest", "lines.csv", lambda names: "\n".join(["path", *names]).encode()),
    ("manifest", "lines.parquet", columns),
    ("parquet", "lines.parquet", columns),
]


@pytest.mark.parametrize("error", [NoAnswer(), ConnectionResetError(104, "Connection reset by peer"), TimeoutError()])
@pytest.mark.parametrize(("kind", "name", "content"), KINDS)
def test_a_source_that_goes_while_it_is_listed_is_named(memory, monkeypatch, kind, name, content, error):
    """However much of it has been listed, and whatever its file system raises."""
    url, whole = f"memory://lines/{name}", content([f"{number:03}.png" for number in range(200)])
    memory.pipe_file(url, whole)
    assert len(list(open_source([url], kind).inputs())) == 200
    why = "could not connect" if isinstance(error, NoAnswer) else "Connection reset by peer|TimeoutError"
    for left in (0, len(whole) // 10):
        images_in_parquet._open.cache_clear()
        monkeypatch.setattr(type(memory), "open", lambda *args, left=left: Cut(whole, left, error))
        with pytest.raises(SourceError, match=rf"^{url}: cannot be read \([^\n]*({why}).*run the same command again$"):
            list(open_source([url], kind).inputs())


def test_a_remote_list_is_read_in_blocks(memory, monkeypatch):
    """Not a byte or a line at a time, as remote files find the end of one."""
    content, reads = b'{"path": "a.png"}\n' * 200, list[int]()

    class Counted(Cut):
        def readinto(self, buffer: Any, /) -> int:
            reads.append(len(buffer))
            return super().readinto(buffer)

    monkeypatch.setattr(type(memory), "open", lambda *args: Counted(content, len(content), NoAnswer()))
    assert len(list(open_source(["memory://lines/lines.jsonl"], "manifest").inputs())) == 200
    assert len(reads) < 5


@pytest.mark.parametrize(
    ("error", "told"),
    [(NoAnswer(), "cannot be read ("), (ValueError("Cannot seek streaming HTTP file"), "its server gives whole files")],
)
def test_the_command_ends_with_a_message_and_no_plan(memory, monkeypatch, tmp_path, capsys, error, told):
    memory.pipe_file("memory://lines/lines.jsonl", whole := b'{"path": "a.png"}\n' * 200)
    monkeypatch.setattr(type(memory), "open", lambda *args: Cut(whole, 1000, error))
    model, job = save_tiny(tmp_path / "tiny"), tmp_path / "job"
    command = ["jobs", "run", "memory://lines/lines.jsonl", "--output", str(job), "--model", str(model)]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"trocr-jax: error: memory://lines/lines.jsonl: {told}")
    assert err.count("\n") == 1
    assert [path for path in job.rglob("*") if not path.is_dir()] == []


def test_a_server_that_says_only_not_found_has_its_reason_told(monkeypatch: pytest.MonkeyPatch):
    """As fsspec's HTTP does where nobody answers."""

    def missing(path: str, mode: str) -> Any:
        raise FileNotFoundError(path) from NoAnswer()

    system = type("System", (), {"open": staticmethod(missing)})
    monkeypatch.setattr(files, "file_system", lambda url: system)
    with pytest.raises(SourceError, match=r"http://a/b.csv: cannot be read \(could not connect\)"):
        list(open_source(["http://a/b.csv"], "manifest").inputs())


@pytest.mark.usefixtures("gone")
def test_a_job_folder_that_nobody_answers_for_is_an_error_of_the_folder():
    store = RemoteStore("gone://jobs/job")
    for ask in (
        lambda: store.read("plan.json"),
        lambda: store.create("parts/a", b""),
        lambda: store.replace("leases/a", b""),
        lambda: store.append("events/a", b""),
        lambda: store.remove("leases/a"),
        lambda: store.names("parts"),
    ):
        message = r"gone://jobs/job: the job cannot be written or read \(NoAnswer"
        with pytest.raises(OutputError, match=message), writing(store.root):
            ask()


def test_a_creation_that_s3_wants_repeated_is_repeated(memory, monkeypatch: pytest.MonkeyPatch):
    store = RemoteStore("memory://job")
    pipe, tries = store._system.pipe_file, list[str]()

    class ClientError(Exception):
        def __init__(self) -> None:
            self.response = {"Error": {"Code": "ConditionalRequestConflict"}}

    def conflict(url: str, content: bytes, mode: str) -> None:
        tries.append(url)
        if len(tries) < 3:
            raise OSError(5, "a conflicting operation") from ClientError()
        pipe(url, content, mode=mode)

    monkeypatch.setattr(store._system, "pipe_file", conflict)
    assert store.create("leases/00000001", b"a") is True
    assert store.read("leases/00000001") == b"a"
    assert len(tries) == 3
    monkeypatch.setattr("trocr_jax.jobs.store_remote.CONFLICTS", 1)
    tries.clear()
    with pytest.raises(OSError, match="a conflicting operation"):
        store.create("leases/00000002", b"a")


def test_an_event_costs_the_same_however_long_a_log_is(memory, monkeypatch: pytest.MonkeyPatch):
    store = RemoteStore("memory://job")
    events, put = Events(store), list[int]()
    system = store._system
    pipe = system.pipe_file

    def counted(url: str, content: bytes) -> None:
        put.append(len(content))
        pipe(url, content)

    monkeypatch.setattr(system, "pipe_file", counted)
    for number in range(4000):
        events.write("commit", unit=number)
    assert max(put) < 70_000
    assert [event["unit"] for event in read_events(store)] == list(range(4000))


def units(store: RemoteStore) -> list[int]:
    return [event["unit"] for event in read_events(store)]


def test_events_are_collected_and_cost_who_reads_no_time(memory, monkeypatch: pytest.MonkeyPatch):
    store, put = RemoteStore("memory://job"), list[int]()
    pipe = store._system.pipe_file

    def slow(url: str, content: bytes) -> None:
        put.append(len(content))
        time.sleep(3)
        pipe(url, content)

    monkeypatch.setattr(store._system, "pipe_file", slow)
    monkeypatch.setattr(store, "log_seconds", 0.2)
    with Events(store) as events:
        begun = time.monotonic()
        for number in range(100):
            events.write("commit", unit=number)
        assert time.monotonic() - begun < 3
        while units(store) != list(range(100)):  # they are there soon, while the job goes on
            assert time.monotonic() - begun < 60
            time.sleep(0.05)
        events.write("end", unit=100)
    assert units(store) == list(range(101))
    assert len(put) <= 3


def test_two_threads_do_not_lose_an_event_of_each_other(memory, monkeypatch: pytest.MonkeyPatch):
    store, first = RemoteStore("memory://job"), threading.Event()
    pipe = store._system.pipe_file

    def slow(url: str, content: bytes) -> None:
        if not first.is_set():
            first.set()
            time.sleep(0.5)  # what is asked for first arrives last
        pipe(url, content)

    monkeypatch.setattr(store._system, "pipe_file", slow)
    events = Events(store)
    thread = threading.Thread(target=events.write, args=("begin",), kwargs={"unit": 0})
    thread.start()
    first.wait()
    events.write("begin", unit=1)
    thread.join()
    assert units(store) == [0, 1]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("429 rateLimitExceeded")])
def test_a_log_that_cannot_be_written_is_told_of_once_and_ends_nothing(memory, monkeypatch, capsys, error):
    store, failing = RemoteStore("memory://job"), threading.Event()
    pipe = store._system.pipe_file

    def fail(url: str, content: bytes) -> None:
        if failing.is_set():
            raise error
        pipe(url, content)

    monkeypatch.setattr(store._system, "pipe_file", fail)
    events = Events(store)
    events.write("begin", unit=0)
    failing.set()
    with events:
        events.write("begin", unit=1)
    events.write("begin", unit=2)
    assert units(store) == [0]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the event log cannot be written (" in err
    assert f"{error}); the job goes on without it" in err
    failing.clear()
    events.write("begin", unit=3)  # what could not be written comes with what follows
    assert units(store) == [0, 1, 2, 3]
    failing.set()
    monkeypatch.setattr("trocr_jax.jobs.events.KEPT", 1000)
    for number in range(100):
        events.write("begin", unit=number)
    assert len(events._left) <= 1100


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("htp://example.org/2.png", "Protocol not known: htp"),
        ("simplecache::memory://lines/a.png", "chained URLs are not supported"),
        ("zip://a.png::memory://lines.zip", "chained URLs are not supported"),
    ],
)
def test_a_url_that_cannot_be_one_costs_its_own_line(url: str, why: str, tmp_path: Path):
    (tmp_path / "list.jsonl").write_text(f'{{"path": "{url}"}}\n')
    source = Manifest((str(tmp_path / "list.jsonl"),))
    (line,) = source.inputs()
    assert line.place == url
    with pytest.raises(ImageError, match=why):
        Decoder(source, ImageProcessor())(line.id, line.place)
    with pytest.raises(SourceError, match=why):
        open_source([url])
    with pytest.raises(SourceError, match=why):
        list(Folder((url,)).inputs())
    with pytest.raises(JobError, match=why):
        open_store(url)


def test_an_address_in_brackets_is_no_chain():
    pytest.importorskip("aiohttp")
    assert files.file_system("http://[::1]:80/a.png").protocol == ("http", "https")


@pytest.mark.parametrize("url", ["s3://", "memory://", "memory:///"])
def test_a_job_folder_without_a_name_is_refused(url: str):
    with pytest.raises(JobError, match="names no bucket or folder"):
        open_store(url)


def test_a_job_folder_may_be_a_url_of_this_machine(tmp_path: Path):
    store = open_store(f"file://{tmp_path}/job")
    assert isinstance(store, LocalStore)
    assert store.create("parts/a", b"1")
    assert (tmp_path / "job/parts/a").read_bytes() == b"1"


def test_folders_are_made_where_a_file_system_has_them(tmp_path: Path):
    store = RemoteStore(f"file://{tmp_path}/job")  # as over SFTP; open_store takes another one for this
    assert store.create("parts/a", b"1") is True
    assert store.create("parts/a", b"2") is False
    store.replace("leases/b", b"3")
    store.append("events/c", b"4")
    (tmp_path / "large").write_bytes(b"5")
    store.upload("plan/d", tmp_path / "large")
    assert [store.read(name) for name in ("parts/a", "leases/b", "events/c", "plan/d")] == [b"1", b"3", b"4", b"5"]
