"""`trocr-jax jobs` as it is typed, and what ends a whole process."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from tests.small_jobs import bare
from tests.tiny import save_lines
from trocr_jax import jobs
from trocr_jax.cli import main, parse
from trocr_jax.cli.jobs_progress import JobProgress
from trocr_jax.cli.jobs_run import resources_of
from trocr_jax.cli.jobs_run import run as run_command
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import JobError
from trocr_jax.jobs.attempts import ATTEMPTS, Attempts
from trocr_jax.jobs.decode_worker import Limits
from trocr_jax.jobs.job import Job, Task
from trocr_jax.recognizer import Recognizer

ROOT = Path(__file__).resolve().parent.parent


def run(model: Path, source: Path, job: Path, *options: str, command: str = "run") -> int:
    fixed = ["--max-new-tokens", "12", "--unit-size", "4", "--batch-size", "4", "--decoders", "1"]
    return main(["jobs", command, str(source), "--output", str(job), "--model", str(model), *fixed, *options])


def test_a_job_from_source_to_merged_rows(tmp_path, model, capsys):
    lines = tmp_path / "lines"
    save_lines(lines, 6)
    (lines / "line-002.png").write_bytes(b"no image")
    job = tmp_path / "job"
    assert run(model, lines, job, "--plan-only") == 0
    assert main(["jobs", "merge", str(job)]) == 2
    assert "is not complete, 2 of 2 units are left" in capsys.readouterr().err
    assert main(["jobs", "verify", str(job)]) == 1
    assert run(model, lines, job, "--stats") == 1
    out, err = capsys.readouterr()
    stats = json.loads(out[out.index("{") :])
    assert stats["failed"] == 1
    assert 0 <= stats["busy_share"] < 1
    assert "complete. 6 lines: 5 read, 1 failed, 0 quarantined" in err
    assert main(["jobs", "status", str(job)]) == 0
    assert "lines: 6 of 6 (100.0 %), complete" in capsys.readouterr().out
    assert main(["jobs", "status", str(job), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["units_done"], status["lines_done"], status["lines_left"], status["failed"]) == (2, 6, 0, 1)
    assert main(["jobs", "merge", str(job), "--output", str(tmp_path / "lines.txt")]) == 2
    assert main(["jobs", "verify", str(job)]) == 0
    assert run(model, lines, job, "--num-beams", "2") == 2
    assert "decode.num_beams: 1 in the plan, 2 now" in capsys.readouterr().err

    for name in ("rows.jsonl", "rows.csv", "rows.parquet"):
        assert main(["jobs", "merge", str(job), "--output", str(tmp_path / name)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [row["text"] or "" for row in rows]
    for suffix in ("jsonl", "parquet"):
        marked = str(tmp_path / f"marked.{suffix}")
        assert main(["jobs", "merge", str(job), "--output", marked, "--min-confidence", "0.5"]) == 0
    want = [row | {"review": row["confidence"] is None or row["confidence"] < 0.5} for row in rows]
    assert [json.loads(line) for line in (tmp_path / "marked.jsonl").read_text().splitlines()] == want
    assert parquet.read_table(tmp_path / "marked.parquet").to_pylist() == want
    assert main(["transcribe", str(lines), "--model", str(model), "--max-new-tokens", "12", "--format", "jsonl"]) == 1
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(row["id"], row["text"]) for row in alone] == [(row["id"], row["text"]) for row in rows]

    save_lines(lines, 6)
    assert run(model, lines, tmp_path / "planned", "--plan-only") == 0
    assert run(model, lines, tmp_path / "planned", command="retry-failed") == 0
    assert "2 of 2 units are left: `jobs run` goes on with them" in capsys.readouterr().err
    stop = jobs.Stop()
    stop.request()
    again: Any = parse(["jobs", "retry-failed", str(lines), "--output", str(job)])
    assert run_command(again, stop) == 0
    assert "stopped; lines that have no text may be left: the same command reads" in capsys.readouterr().err
    assert run(model, lines, job, command="retry-failed") == 0
    assert "complete. 6 lines: 6 read" in capsys.readouterr().err


def test_lines_that_were_not_read_again_before_a_stop_may_be_left(tmp_path, model, capsys, monkeypatch):
    save_lines(tmp_path / "lines", 2)
    (tmp_path / "lines" / "line-001.png").write_bytes(b"no image")
    assert run(model, tmp_path / "lines", tmp_path / "job") == 1
    retry_failed = jobs.retry_failed

    def stopped(*given: Any, stop: jobs.Stop, **options: Any) -> Any:
        stop.request()
        return retry_failed(*given, stop=stop, **options)

    monkeypatch.setattr(jobs, "retry_failed", stopped)
    fixed = ["--max-new-tokens", "12", "--unit-size", "4", "--batch-size", "4", "--stopped-status", "143"]
    again = ["jobs", "retry-failed", str(tmp_path / "lines"), "--output", str(tmp_path / "job"), "--model", str(model)]
    command: Any = parse([*again, *fixed])
    assert run_command(command, jobs.Stop()) == 143
    assert "stopped; lines that have no text may be left" in capsys.readouterr().err


def test_rows_do_not_take_the_place_of_the_list_that_was_read(tmp_path, model, capsys, monkeypatch):
    save_lines(tmp_path / "lines", 1)
    monkeypatch.chdir(tmp_path)
    Path("lines.csv").write_text("path,said\nlines/line-000.png,a\n")
    Path("link.csv").symlink_to("lines.csv")
    assert run(model, Path("lines.csv"), Path("job")) == run(model, Path("l*/*.png"), Path("by-pattern")) == 0
    for job, name in (("job", "lines.csv"), ("job", "link.csv"), ("by-pattern", "lines/line-000.png")):
        assert main(["jobs", "merge", job, "--output", name]) == 2
        assert f"{name}: is what the job was planned with; give another name" in capsys.readouterr().err
    assert Path("lines.csv").read_text().endswith(",a\n")
    assert main(["jobs", "merge", "job", "--output", "texts.csv"]) == 0
    assert main(["jobs", "merge", "job", "--output", "texts.csv"]) == 0


def test_a_fault_is_told_of_by_a_name_that_is_no_unicode(tmp_path, capsys):
    bare(tmp_path / "job").store.create(os.fsdecode(b"parts/\xe9"), b"")
    assert main(["jobs", "verify", str(tmp_path / "job")]) == 1
    assert r"parts/\udce9 is of no unit" in capsys.readouterr().out


def test_columns_that_are_asked_for(tmp_path, model):
    save_lines(tmp_path / "lines", 2)
    options = ("--num-beams", "2", "--n-best", "2", "--token-log-probs", "--confidences")
    assert run(model, tmp_path / "lines", tmp_path / "job", *options) == 0
    row = json.loads((tmp_path / "job/parts/00000000.jsonl").read_text().splitlines()[0])
    assert len(row["token_ids"]) == len(row["token_log_probs"])
    assert row["alternatives"][0]["text"] == row["text"]
    assert "".join(character["text"] for character in row["characters"]) == row["text"]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("run", ["--lease-timeout", "0"], "lease_timeout is 0: give more than 0 seconds"),
        ("run", ["--decode-seconds", "-1"], "decode_seconds is -1"),
        ("run", ["--decode-seconds", "inf"], "decode_seconds is inf: give more than 0 seconds, and less than"),
        ("run", ["--decode-memory", "0"], "decode_memory is 0 MiB: give more than 0"),
        ("run", ["--decode-memory", "99999999999999"], "decode_memory is 99999999999999 MiB: give more than 0, and"),
        ("run", ["--unit-size", "99999999999999999999"], "unit_size is 99999999999999999999: give a whole number"),
        ("run", ["--output", ""], "the folder of the job has no name"),
        ("retry-failed", [], "holds no job"),
        ("retry-failed", ["--plan-only"], "--plan-only is for `jobs run`"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_made(
    tmp_path, model, capsys, command, options, message
):
    save_lines(tmp_path / "lines", 2)
    assert run(model, tmp_path / "lines", tmp_path / "job", *options, command=command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


def test_a_port_or_a_folder_that_cannot_be_used_is_named(tmp_path, model, capsys):
    save_lines(tmp_path / "lines", 2)
    assert run(model, tmp_path / "lines", tmp_path / "job", "--metrics-port", "99999") == 2
    assert "--metrics-port 99999: cannot be served" in capsys.readouterr().err
    (tmp_path / "job" / "plan.json").unlink()
    (tmp_path / "job" / "plan.json").mkdir()
    assert main(["jobs", "status", str(tmp_path / "job")]) == 2
    where = f"{tmp_path / 'job'}: the job cannot be read (Is a directory: {tmp_path / 'job' / 'plan.json'})"
    assert where in capsys.readouterr().err
    assert run(model, tmp_path / "lines", tmp_path / "job", command="retry-failed") == 2
    assert "plan.json" in capsys.readouterr().err


def start(script: str, *arguments: object, stdout: bool = False) -> subprocess.Popen[str]:
    """stdout: whether it can be read."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE if stdout else None
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True)


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this
from trocr_jax import jobs
from trocr_jax.cli import main
from tests.poison import slowed
import trocr_jax.jobs.worker as worker
worker.Decoder = slowed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_run_that_is_stopped_says_what_is_left(number, status, tmp_path, model):
    save_lines(tmp_path / "lines", 40)
    job = tmp_path / "job"
    command = ["jobs", "run", tmp_path / "lines", "--output", job, "--model", model, "--max-new-tokens", "12"]
    process = start(SLOW, *command, "--unit-size", "2", "--batch-size", "2", "--decoders", "1")
    deadline = time.monotonic() + 120
    while not any((job / "parts").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert "stopped" in err
    assert "of 20 units are left: the same command goes on with them" in err
    assert 0 < len(Job.open(str(job)).done()) < 20
    assert list((job / "leases").iterdir()) == []


def test_a_second_interrupt_ends_it_at_once(tmp_path, model):
    save_lines(tmp_path / "lines", 40)
    job = tmp_path / "job"
    command = ["jobs", "run", tmp_path / "lines", "--output", job, "--model", model, "--max-new-tokens", "12"]
    options = ["--unit-size", "40", "--batch-size", "2", "--decoders", "1", "--grace", "1000"]
    with start(SLOW, *command, *options) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 120
        while not any((job / "leases").glob("*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        while "Ctrl-C again ends it at once" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
    assert not any((job / "parts").glob("*"))


WAITS = {
    "import": (
        """
import time
class Finder:
    def find_spec(self, name, *others):
        if name == "trocr_jax.cli.jobs_run":
            print("waits", flush=True)
            time.sleep(1)
sys.meta_path.insert(0, Finder())
""",
        "stopped before the job was planned: the same command does it",
    ),
    "fetch": (
        """
import time
from concurrent.futures import ThreadPoolExecutor
from trocr_jax import checkpoint
def wait(*arguments, **options):
    with ThreadPoolExecutor(1) as pool:  # as the hub's client
        print("waits", flush=True)
        pool.submit(time.sleep, 60).result()
checkpoint.resolve = wait
""",
        "stopped before the job was planned: the same command does it",
    ),
    "load": (
        """
import time
import trocr_jax.cli.jobs_run as place
def wait(*arguments, load=place.on_all_devices, **options):
    print("waits", flush=True)
    time.sleep(2)
    return load(*arguments, **options)
place.on_all_devices = wait
""",
        "stopped before the job was planned: the same command does it",
    ),
    "list": (
        """
import time
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.folder import Folder
def wait(source):
    yield Input("a", "a")
    print("waits", flush=True)
    while True:  # as a library that takes no exception for its end
        try:
            time.sleep(60)
        except BaseException:
            pass
Folder.inputs = wait
""",
        "stopped before the job was planned: the same command does it",
    ),
    "compile": (
        """
import time
from trocr_jax.recognizer_lanes import Lanes
def wait(lanes, program, function, *arguments, run=Lanes._run):
    print("waits", flush=True)
    time.sleep(2)
    return run(lanes, program, function, *arguments)
Lanes._run = wait
""",
        "stopped; 2 of 2 units are left: the same command goes on with them",
    ),
}


@pytest.mark.parametrize("moment", WAITS)
def test_sigterm_ends_a_start(tmp_path, model, moment):
    save_lines(tmp_path / "lines", 8)
    place, said = WAITS[moment]
    script = f"import sys\n{place}\nfrom trocr_jax.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = ["jobs", "run", tmp_path / "lines", "--output", tmp_path / "job", "--model", model, "--unit-size", "4"]
    options = ["--batch-size", "4", "--decoders", "1", "--max-new-tokens", "12"]
    with start(script, *command, *options, stdout=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGTERM)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert err.endswith(f"{tmp_path / 'job'}: {said}\n")
    left = {path.relative_to(tmp_path / "job").parts[0] for path in (tmp_path / "job").rglob("*") if path.is_file()}
    assert left == ({"plan.json", "plan", "events"} if moment == "compile" else set())


def test_sigterm_while_a_started_job_loads_says_what_is_left_of_it(tmp_path, model, capsys):
    save_lines(tmp_path / "lines", 8)
    assert run(model, tmp_path / "lines", tmp_path / "job", "--plan-only") == 0
    stop = jobs.Stop()
    stop.request()
    asked = ["jobs", "run", str(tmp_path / "lines"), "--output", str(tmp_path / "job")]
    command: Any = parse(asked)
    assert run_command(command, stop) == 0
    command = parse([*asked, "--stopped-status", "143"])
    assert run_command(command, stop) == 143
    assert "stopped; 2 of 2 units are left: the same command goes on with them" in capsys.readouterr().err


MURDER = """
import sys
from tests.poison import Poison
from trocr_jax import jobs
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.jobs.decode_worker import Decoder, Limits
from trocr_jax.recognizer import Recognizer
model, lines, folder = sys.argv[1:]
recognizer, decode = Recognizer.from_pretrained(model), DecodeConfig(max_new_tokens=12)
source = jobs.open_source([lines])
job = jobs.plan(source, folder, recognizer, model, decode, choices=jobs.Choices(unit_size=4, batch_size=4))
poison = Poison(Decoder(source, recognizer.image_processor))
jobs.run(job, recognizer, decode, decoder=poison, resources=jobs.Resources(decoders=1, limits=Limits(seconds=1.0)))
"""


def test_a_line_that_ends_the_whole_process_is_found_and_quarantined(tmp_path, model):
    lines = save_lines(tmp_path / "lines", 4)
    lines[2].rename(lines[2].with_name("line-002-murder.png"))
    recognizer = Recognizer.from_pretrained(model)
    choices = jobs.Choices(unit_size=4, batch_size=4)
    source = jobs.open_source([str(tmp_path / "lines")])
    job = jobs.plan(source, str(tmp_path / "job"), recognizer, model, DecodeConfig(max_new_tokens=12), choices=choices)
    attempts = Attempts(job, 0)
    for task in (job.whole(0), Task(0, range(2, 3))):  # two of three attempts are made already: starting takes seconds
        for _ in range(ATTEMPTS - 1):
            attempts.process_died(task, "it ended")
    ends: list[int] = []
    while not ends or (ends[-1] == -signal.SIGKILL and len(ends) < 12):
        process = start(MURDER, model, tmp_path / "lines", tmp_path / "job")
        _, err = process.communicate(timeout=120)
        ends.append(process.returncode)
    assert ends == [-signal.SIGKILL] * 3 + [0], err  # the unit, a half of it, the line; then all others
    rows = [json.loads(line) for line in (tmp_path / "job/parts/00000000.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok", "ok", "quarantined", "ok"]
    assert "the process that read it ended" in rows[2]["error"]
    assert main(["jobs", "verify", str(tmp_path / "job")]) == 0


def test_a_process_that_fails_says_so_by_its_status(tmp_path, model, capsys, monkeypatch):
    save_lines(tmp_path / "lines", 2)

    def lost(*arguments: object, **options: object) -> None:
        raise RuntimeError("the device was lost")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run", lost)
        patch.setattr(jobs, "retry_failed", lost)
        for command in ("run", "retry-failed"):
            assert run(model, tmp_path / "lines", tmp_path / "job", command=command) == 4
            err = capsys.readouterr().err
            assert "RuntimeError: " in err
            assert "the same command goes on" in err
    assert run(model, tmp_path / "lines", tmp_path / "job") == 0


def test_parts_that_are_lost_or_damaged_are_named_by_merge(tmp_path, model, capsys):
    save_lines(tmp_path / "lines", 8)
    assert run(model, tmp_path / "lines", tmp_path / "job") == 0
    job, part = str(tmp_path / "job"), tmp_path / "job" / "parts" / "00000000.jsonl"
    content = part.read_bytes()
    capsys.readouterr()
    part.write_bytes(content[:-20])
    for options in (["--format", "csv"], ["--min-confidence", "0.5"], []):
        assert main(["jobs", "merge", job, *options]) == 2
        assert f"error: {part}: is damaged (it does not have the 4 lines of its unit)" in capsys.readouterr().err
    part.write_bytes(content.replace(b'"ok"', b'"OK"', 1))
    assert main(["jobs", "merge", job]) == 2
    assert f"error: {part}: is damaged (it has changed since the job was completed)" in capsys.readouterr().err
    part.with_name("00000009.jsonl").write_bytes(content)
    part.with_name("00000000 (conflicted copy).jsonl").write_bytes(content)
    part.unlink()
    assert main(["jobs", "status", job]) == 0
    assert "units: 1 of 2" in (shown := capsys.readouterr().out)
    assert "lines: 4 of 8 (50.0 %)" in shown
    assert "complete" not in shown
    assert main(["jobs", "merge", job]) == 2
    assert "is not complete, 1 of 2 units are left; `jobs run` goes on" in capsys.readouterr().err
    part.mkdir()
    assert main(["jobs", "merge", job]) == 2
    assert f"error: {part}: cannot be read (" in capsys.readouterr().err
    part.rmdir()
    assert run(model, tmp_path / "lines", tmp_path / "job") == 0
    assert part.read_bytes() == content
    (tmp_path / "job" / "_SUCCESS").write_text("{}", encoding="utf-8")
    assert main(["jobs", "merge", job]) == 2
    assert "_SUCCESS: is damaged (it has no checksums); delete it" in capsys.readouterr().err


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_what_cannot_be_told_is_lost_and_nothing_else(tmp_path, model, stderr):
    save_lines(tmp_path / "lines", 2)
    folder, job = tmp_path / "lines", tmp_path / "job"
    options = f"--model {model} --max-new-tokens 12"
    commands = {
        f"jobs run {folder} --output {job} {options}": (0, 0),
        f"transcribe {folder} missing.png {options}": (1, 3),
        f"transcribe {folder} {options} --regex (": (2, 0),
    }
    for command, (status, rows) in commands.items():
        arguments = shlex.join(command.split())
        line = f"{sys.executable} -m trocr_jax {arguments} {stderr}"
        done = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, cwd=ROOT, check=False, text=True)
        assert (done.returncode, len(done.stdout.splitlines())) == (status, rows), command
    assert Job.open(str(job)).done() == {0}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_stdout_that_is_full_is_not_the_jobs_fault(tmp_path, model):
    save_lines(tmp_path / "lines", 2)
    assert run(model, tmp_path / "lines", tmp_path / "job", "--plan-only") == 0
    for command in ("status", "verify"):
        done = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m trocr_jax jobs {command} {tmp_path / 'job'} > /dev/full"],
            capture_output=True,
            cwd=ROOT,
            check=False,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr == "trocr-jax: error: stdout: cannot be written (No space left on device)\n"


def test_a_line_that_was_repaired_is_read_again_once_its_part_is_deleted(tmp_path, model, capsys):
    save_lines(tmp_path / "lines", 8)
    bad = tmp_path / "lines" / "line-005.png"
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    assert run(model, tmp_path / "lines", tmp_path / "job") == 1
    bad.write_bytes(good)
    (tmp_path / "job" / "parts" / "00000001.jsonl").unlink()
    capsys.readouterr()
    assert run(model, tmp_path / "lines", tmp_path / "job") == 0
    assert "complete. 8 lines: 8 read" in capsys.readouterr().err
    assert main(["jobs", "verify", str(tmp_path / "job")]) == 0


def test_a_search_that_cannot_be_done_leaves_no_plan(tmp_path, model, capsys):
    save_lines(tmp_path / "lines", 2)
    for options in (["--regex", "("], ["--allow", ""], ["--max-new-tokens", "100000"]):
        assert run(model, tmp_path / "lines", tmp_path / "job", *options) == 2
        assert "error: " in capsys.readouterr().err
        assert not (tmp_path / "job").exists()
    assert run(model, tmp_path / "lines", tmp_path / "job", "--regex", ".*") == 0


def test_figures_are_served_to_prometheus(tmp_path, model):
    save_lines(tmp_path / "lines", 2)
    assert run(model, tmp_path / "lines", tmp_path / "job") == 0
    served: Any = JobProgress(Job.open(str(tmp_path / "job")), port=0)
    with served:
        text = urllib.request.urlopen(f"http://127.0.0.1:{served.port}/metrics").read().decode()
    assert "trocr_jax_job_lines 2.0" in text
    assert "# HELP trocr_jax_job_lines_committed lines committed of the whole job\n" in text
    assert "# HELP trocr_jax_lines_ok lines ok of this process\n" in text
    assert "trocr_jax_lines_per_second" in text


def test_options_of_resources_are_those_of_the_command():
    given = ["--decoders", "3", "--decode-seconds", "4", "--decode-memory", "5", "--lease-timeout", "6", "--grace", "7"]
    given += ["--hang", "8", "--max-error-rate", "0.9"]
    command: Any = parse(["jobs", "run", "lines", "--output", "job", *given])
    limits = Limits(4.0, 5 << 20)
    assert resources_of(command) == jobs.Resources(
        decoders=3, limits=limits, lease_timeout=6.0, grace=7.0, hang=8.0, max_error_rate=0.9
    )
    usual: Any = parse(["jobs", "run", "lines", "--output", "job"])
    assert resources_of(usual) == jobs.Resources()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoders": 0}, "decoders is 0: give at least one"),
        ({"grace": float("nan")}, "grace is nan"),
        ({"grace": -1.0}, "grace is -1"),
        ({"max_error_rate": 50.0}, "max_error_rate is 50: give a share from 0 to 1"),
        ({"max_error_rate": -0.1}, "max_error_rate is -0.1"),
    ],
)
def test_resources_that_mean_nothing_are_refused(options, message):
    with pytest.raises(JobError, match=message):
        jobs.Resources(**options)


@pytest.mark.parametrize("status", ["-1", "256"])
def test_a_status_that_no_process_can_have_is_refused(tmp_path: Path, capsys, status):
    command = ["jobs", "run", str(tmp_path), "--output", str(tmp_path / "job"), "--stopped-status", status]
    assert main(command) == 2
    assert f"--stopped-status {status}: give an exit status from 0 to 255" in capsys.readouterr().err
