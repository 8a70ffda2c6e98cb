"""Sources and job folders behind URLs: when nobody answers any more, and logs where no object grows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from trocr_jax.errors import ImageError, OutputError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import files, open_source
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.events import Events, read_events
from trocr_jax.jobs.host import writing
from trocr_jax.jobs.sources.folder import Folder
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
def test_lines_that_nobody_answers_for_have_not_failed():
    decode = Decoder(Folder(("gone://answers",)), ImageProcessor())
    with pytest.raises(SourceError, match=r"gone://answers/a: noanswer: could not connect.*run the job again"):
        decode("gone://answers/a", "gone://answers/a")
    with pytest.raises(SourceError, match="503"):
        decode("gone://answers/503", "gone://answers/503")
    with pytest.raises(ImageError, match="noanswer"):  # the server has an answer, but not for this file
        decode("gone://answers/410", "gone://answers/410")
    with pytest.raises(SourceError, match=r"gone://lines: cannot be reached \(NoAnswer"):  # nor for the folder
        Decoder(Folder(("gone://lines",)), ImageProcessor())("gone://lines/410", "gone://lines/410")
    with pytest.raises(SourceError, match="gone://lines: cannot be reached"):
        open_source(["gone://lines"])


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
