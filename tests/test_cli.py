"""`trocr-jax transcribe` and `info` as a user runs them: rows, streams, exit status, signals."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.tiny import line_image, save_lines, save_tiny
from trocr_jax.cli import Transcribe, main, parse
from trocr_jax.cli.decode import check_options, decode_config
from trocr_jax.cli.signals import ended_by_signals
from trocr_jax.decoding import constraints
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import DecodeError
from trocr_jax.recognizer import Recognizer

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, "-m", "trocr_jax"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_lines(tmp_path_factory.mktemp("scans"), 7)


@pytest.fixture(scope="module")
def texts(model: str, lines: list[Path]) -> list[str]:
    return [found.text for found in Recognizer.from_pretrained(model)(lines)]


def rows(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def run(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, check=False, timeout=300, **options)


# --- rows


def test_text_is_the_default_and_has_a_line_for_each_image(model, lines, texts, capfd):
    assert main(["transcribe", str(lines[0].parent), "--model", model]) == 0
    output, messages = capfd.readouterr()
    assert output == "".join(f"{text}\n" for text in texts)
    assert "cut off after 32 tokens" in messages  # the only thing said


def test_jsonl_rows(model, lines, texts, capfd):
    settings = ("--format", "jsonl", "--max-new-tokens", "9", "--batch-size", "3")
    assert main(["transcribe", *map(str, reversed(lines)), "--model", model, *settings]) == 0
    found = rows(capfd.readouterr().out)
    want = Recognizer.from_pretrained(model)(lines[::-1], DecodeConfig(max_new_tokens=9), batch_size=3)
    assert [list(row) for row in found] == [["id", "text", "score", "truncated", "error", "confidence"]] * 7
    assert [row["confidence"] for row in found] == [pytest.approx(one.confidence) for one in want]
    assert [row["id"] for row in found] == [str(path) for path in reversed(lines)]
    assert [(row["text"], row["score"], row["truncated"]) for row in found] == [
        (one.text, pytest.approx(one.score), one.truncated) for one in want
    ]
    assert {row["truncated"] for row in found} == {True, False}
    assert {row["error"] for row in found} == {None}


def test_a_bad_image_is_a_row_with_an_error_and_costs_its_neighbours_nothing(model, lines, texts, tmp_path, capfd):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    names = [str(lines[0]), str(bad), str(tmp_path / "missing.png"), *map(str, lines[1:])]
    assert main(["transcribe", *names, "--model", model, "--format", "jsonl"]) == 1
    output, messages = capfd.readouterr()
    found = rows(output)
    assert [row["id"] for row in found] == names
    assert [row["text"] for row in found] == [texts[0], None, None, *texts[1:]]
    for row in found[1:3]:
        assert row["id"] in row["error"]
        assert (row["score"], row["truncated"], row["confidence"]) == (None, None, None)
        assert f"trocr-jax: {row['error']}\n" in messages
    assert "could not be read: 2 of 9" in messages
    main(["transcribe", *names, "--model", model])
    assert capfd.readouterr().out.split("\n") == [texts[0], "", "", *texts[1:], ""]


def test_lines_are_marked_for_review(model, lines, texts, tmp_path, capfd):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    every = [*map(str, lines), str(bad)]
    assert main(["transcribe", *every, "--model", model, "--format", "jsonl", "--min-confidence", "1.0"]) == 1
    out, err = capfd.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert all(row["review"] is (row["confidence"] is None or row["confidence"] < 1) for row in rows)
    sure = sorted(row["confidence"] for row in rows[:-1])
    middle = sure[len(sure) // 2]
    marked = sum(c < middle for c in sure) + 1
    arguments = ["transcribe", *every, "--model", model, "--format", "csv", "--min-confidence", str(middle)]
    assert main(arguments) == 1
    out, err = capfd.readouterr()
    assert [line.rsplit(",", 1)[1] for line in out.splitlines()].count("true") == marked
    assert f"for review, below {middle:g} or not read: {marked} of {len(every)}" in err
    assert main(["transcribe", *every, "--model", model, "--min-confidence", "1.5"]) == 2
    assert "--min-confidence is 1.5: give a probability from 0 to 1" in capfd.readouterr().err


def test_paths_from_stdin(model, lines, texts, capfd, monkeypatch):
    listed = b"\n".join(os.fsencode(path) for path in lines[:4]) + b"\r\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    assert main(["transcribe", "-", str(lines[5]), "--model", model]) == 0
    assert capfd.readouterr().out.splitlines() == [*texts[:4], texts[5]]


def test_an_image_on_stdin_is_no_list_of_paths(model, lines, texts, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(lines[0]) + b"\n\xff\xd8\0\nmore\n")))
    assert main(["transcribe", "-", "--model", model]) == 1
    output, messages = capfd.readouterr()
    assert output == f"{texts[0]}\n\n"
    assert "-: stdin holds a NUL; give paths one a line" in messages


def test_urls_are_for_jobs(model, capfd):
    assert main(["transcribe", "s3://lines/*.png", "gs://lines/1.png", "--model", model]) == 1
    messages = capfd.readouterr().err
    assert "s3://lines/*.png: no file matches this pattern; only `trocr-jax jobs run` reads URLs" in messages
    assert "gs://lines/1.png: no such file; only `trocr-jax jobs run` reads URLs" in messages


def test_a_closed_stdin_matters_only_where_it_is_read(model, lines, texts, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["transcribe", str(lines[0]), "-", "--model", model]) == 1
    output, messages = capfd.readouterr()
    assert output == f"{texts[0]}\n\n"
    assert "no paths on stdin" in messages


def test_a_name_that_is_not_unicode(model, tmp_path, capfd):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(name, "wb") as file:
        line_image(0).save(file, "PNG")
    (tmp_path / "folder").mkdir()
    with open(os.path.join(os.fsencode(tmp_path), b"n\xe9.png"), "wb") as file:
        file.write(b"bad")
    for format in ("jsonl", "csv", "txt"):
        assert main(["transcribe", str(tmp_path), "--model", model, "--format", format]) == 1
        output, messages = capfd.readouterr()
        assert "n\\udce9.png: not an image" in messages
        if format == "jsonl":
            assert [row["id"] for row in rows(output)] == [f"{tmp_path}/{name}\\udce9.png" for name in ("caf", "n")]


# --- files


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "parquet"])
def test_the_format_follows_the_name_of_the_output(model, lines, texts, tmp_path, capfd, suffix):
    output = tmp_path / f"lines.{suffix}"
    assert main(["transcribe", str(lines[0].parent), "--model", model, "--output", str(output)]) == 0
    assert capfd.readouterr().out == ""
    if suffix == "txt":
        found = output.read_text().splitlines()
    elif suffix == "jsonl":
        found = [row["text"] for row in rows(output.read_text())]
    elif suffix == "csv":
        found = [row["text"] for row in csv.DictReader(output.read_text().splitlines())]
    else:
        from pyarrow import parquet

        found = parquet.read_table(output).column("text").to_pylist()
    assert found == texts
    assert os.listdir(tmp_path) == [output.name]


@pytest.mark.parametrize("name", ["lines.json", "lines", "lines.txt", "-"])
def test_a_name_of_no_format_is_told_of(name, model, lines, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["transcribe", str(lines[0]), "--model", model, "--output", name]) == 0
    told = "lines.json: written as txt, the text alone" in capfd.readouterr().err
    assert told == (name == "lines.json")


def test_the_format_option_wins(model, lines, texts, tmp_path):
    output = tmp_path / "lines.csv"
    assert main(["transcribe", str(lines[0]), "--model", model, "--output", str(output), "--format", "txt"]) == 0
    assert output.read_text() == texts[0] + "\n"


# --- progress


def test_plain_lines_tell_how_far_it_is(model, lines, capfd, monkeypatch):
    monkeypatch.setattr("trocr_jax.cli.progress.INTERVAL", 0.0)
    main(["transcribe", str(lines[0].parent), "--model", model])
    messages = capfd.readouterr().err
    assert "3 of 7 images, 0 failed" in messages
    assert messages.count("7 of 7 images, 0 failed") == 1


def test_a_bar_on_a_terminal_and_rows_elsewhere(model, lines, texts, tmp_path):
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    with (tmp_path / "out").open("wb") as out:
        command = [*PROGRAM, "transcribe", str(lines[0].parent), "missing.png", "--model", model]
        process = subprocess.Popen(command, stdout=out, stderr=follower, cwd=ROOT)
    os.close(follower)
    shown = b""
    try:
        while block := os.read(leader, 4096):
            shown += block
    except OSError:  # how Linux tells that the other end has closed
        pass
    os.close(leader)
    assert process.wait() == 1
    assert b"8/8" in shown
    assert b"trocr-jax: missing.png: no such file" in shown
    assert (tmp_path / "out").read_text().splitlines() == [*texts, ""]


# --- decoding options


def asked(recognizer: Recognizer, *options: str) -> DecodeConfig:
    """The search that the command line asks for."""
    command = parse(["transcribe", "a.png", *options])
    assert isinstance(command, Transcribe)
    check_options(command)
    return decode_config(command, recognizer)


@pytest.fixture(scope="module")
def recognizer(model: str) -> Recognizer:
    return Recognizer.from_pretrained(model)


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ("", {}),
        (
            "--num-beams 4 --length-penalty 0.5 --early-stopping never --n-best 2 --mbr",
            {"num_beams": 4, "length_penalty": 0.5, "early_stopping": "never", "num_return_sequences": 2,
             "choose": "mbr"},
        ),
        (
            "--num-beams 4 --early-stopping true --num-beam-groups 2 --diversity-penalty 0.5",
            {"num_beams": 4, "early_stopping": True, "num_beam_groups": 2, "diversity_penalty": 0.5},
        ),
        (
            "--sample --temperature 0.7 --top-k 5 --top-p 0.9 --min-p 0.1 --typical-p 0.9 --epsilon-cutoff 0.1 "
            "--eta-cutoff 0.2 --seed 3 --n-best 5",
            {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9,
             "epsilon_cutoff": 0.1, "eta_cutoff": 0.2, "seed": 3, "num_return_sequences": 5},
        ),
        (
            "--repetition-penalty 1.5 --no-repeat-ngram-size 3 --min-new-tokens 2 --max-new-tokens 9",
            {"repetition_penalty": 1.5, "no_repeat_ngram_size": 3, "min_new_tokens": 2, "max_new_tokens": 9},
        ),
        (
            "--fairseq",
            {"num_beams": 10, "length_penalty": 1.0, "max_new_tokens": 200, "min_new_tokens": 1,
             "early_stopping": True},
        ),
        (
            "--fairseq --num-beams 5 --n-best 5 --length-penalty 2 --max-new-tokens 30 --early-stopping false",
            {"num_beams": 5, "num_return_sequences": 5, "length_penalty": 2.0, "max_new_tokens": 30,
             "min_new_tokens": 1},
        ),
        ("--allow 0123", {"constraint": constraints.Characters("0123")}),
        (
            "--regex [a-z]+ --prefix ab",
            {"constraint": constraints.All(constraints.Regex("[a-z]+"), constraints.Prefix("ab"))},
        ),
        ("--lexicon words.txt", {"constraint": constraints.Lexicon("words.txt")}),
    ],
)  # fmt: skip
def test_options_are_those_of_the_decode_config(recognizer, options, want):
    assert asked(recognizer, *options.split()) == DecodeConfig(**{"max_new_tokens": 32, **want})


def test_a_generation_config_is_honoured_when_asked_for(model, recognizer, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    written = {"num_beams": 3, "length_penalty": 2.0, "max_length": 11, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(written))
    found = asked(recognizer, "--model", str(folder), "--generation-config", "--length-penalty", "0.5")
    assert found == DecodeConfig(num_beams=3, length_penalty=0.5, max_new_tokens=10)
    assert asked(recognizer, "--model", str(folder)) == DecodeConfig(max_new_tokens=32)
    with pytest.raises(DecodeError, match="--n-best 4 needs --num-beams 4"):
        asked(recognizer, "--model", str(folder), "--generation-config", "--n-best", "4")
    written = {"num_beams": 4, "num_beam_groups": 2, "max_length": 11}  # not complete alone
    (folder / "generation_config.json").write_text(json.dumps(written))
    found = asked(recognizer, "--model", str(folder), "--generation-config", "--diversity-penalty", "0.5")
    assert (found.num_beam_groups, found.diversity_penalty) == (2, 0.5)
    for option in (["--length-penalty", "2"], ["--early-stopping", "true"], ["--seed", "3"], ["--mbr"]):
        with pytest.raises(DecodeError, match=f"{option[0]} needs"):
            asked(recognizer, "--generation-config", *option)


def test_a_language_model_and_the_columns_asked_for(model, lines, tmp_path, capfd):
    arpa = tmp_path / "lm.arpa"
    words = "".join(f"-2\t{word}\n" for word in ["<s>", "</s>", "a", "b", "▁"])
    arpa.write_text(f"\\data\\\nngram 1=5\n\n\\1-grams:\n{words}\n\\end\\\n", encoding="utf-8")
    decode = ["--num-beams", "3", "--n-best", "3", "--max-new-tokens", "9", "--lm", str(arpa), "--lm-weight", "0.2"]
    output = ["--format", "jsonl", "--confidences", "--batch-size", "4"]
    assert main(["transcribe", *map(str, lines[:4]), "--model", model, *decode, *output]) == 0
    for row in rows(capfd.readouterr().out):
        assert list(row)[5:] == ["confidence", "alternatives", "words", "characters"]
        assert row["alternatives"][0]["text"] == row["text"]
        assert row["alternatives"][0]["score"] == row["score"]
        assert sum(one["probability"] for one in row["alternatives"]) == pytest.approx(1)
        assert "".join(one["text"] for one in row["characters"]) == row["text"]
        assert [one["text"] for one in row["words"]] == row["text"].split()


# --- usage


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["transcribe", "a.png", "--temperature", "0.7"], "--temperature needs --sample"),
        (["transcribe", "a.png", "--seed", "1"], "--seed needs --sample"),
        (["transcribe", "a.png", "--length-penalty", "2"], "--length-penalty needs --num-beams"),
        (["transcribe", "a.png", "--num-beam-groups", "2"], "--num-beam-groups needs --num-beams"),
        (["transcribe", "a.png", "--num-beams", "4", "--diversity-penalty", "1"], "needs --num-beam-groups"),
        (
            [
                "transcribe",
                "a.png",
                "--num-beams",
                "4",
                "--num-beam-groups",
                "2",
                "--diversity-penalty",
                "1",
                "--sample",
            ],
            "--num-beam-groups and --sample",
        ),
        (["transcribe", "a.png", "--n-best", "2"], "--n-best 2 needs --num-beams 2 or more, or --sample"),
        (["transcribe", "a.png", "--n-best", "3", "--num-beams", "2", "--sample"], "--n-best 3 needs --num-beams 3"),
        (["transcribe", "a.png", "--mbr", "--num-beams", "3"], "--mbr needs --n-best"),
        (["transcribe", "a.png", "--lm-weight", "0.3"], "--lm-weight needs --lm"),
        (["transcribe", "a.png", "--sample", "--top-p", "1.5"], "top_p"),
        (["transcribe", "a.png", "--allow", "", "--model", "{model}"], "allowed characters is empty"),
        (["transcribe", "a.png", "--regex", "(", "--model", "{model}"], "regex '('"),
        (["transcribe", "a.png", "--lexicon", "/missing/words", "--model", "{model}"], "/missing/words"),
        (["transcribe", "a.png", "--allow", "ab", "--prefix", "x", "--model", "{model}"], "no text satisfies"),
        (["transcribe", "a.png", "--lm", "/missing/lm.arpa", "--model", "{model}"], "/missing/lm.arpa"),
        (["transcribe", "a.png", "--generation-config", "--model", "{model}", "--mbr"], "mbr"),
        (["transcribe", "a.png", "--fairseq", "--n-best", "11"], "--n-best 11 needs --num-beams 11"),
        (["transcribe", "a.png", "--fairseq", "--generation-config"], "--fairseq and --generation-config"),
        (["transcribe", "a.png", "--fairseq", "--model", "{model}"], "max_new_tokens is 200"),
        (["transcribe"], "no inputs"),
        (["transcribe", "a.png", "--num-beams", "0"], "num_beams"),
        (["transcribe", "a.png", "--max-new-tokens", "-3"], "max_new_tokens"),
        (["transcribe", "a.png", "--max-new-tokens", "33", "--model", "{model}"], "33"),
        (["transcribe", "a.png", "--batch-size", "0", "--model", "{model}"], "batch_size"),
        (["transcribe", "a.png", "--output", "/missing/folder/a.txt"], "/missing/folder/a.txt"),
        (["transcribe", "a.png", "--output", "{model}"], "is a folder"),
        (["transcribe", "a.png", "--format", "parquet"], "--output"),
        (["info", "nobody"], "nobody"),
    ],
)
def test_wrong_usage_is_status_2_and_says_why(arguments, named, model, capfd):
    assert main([argument.format(model=model) for argument in arguments]) == 2
    output, messages = capfd.readouterr()
    assert output == ""
    assert named in messages
    assert messages.startswith("trocr-jax: error: ")


def test_none_is_a_word_like_others():
    asked = ["--prefix", "None", "--allow", "None", "--lexicon", "None", "--output", "None", "--revision", "None"]
    command = parse(["transcribe", "a.png", *asked])
    assert isinstance(command, Transcribe)
    assert (command.constraint.prefix, command.constraint.allow, command.constraint.lexicon) == ("None",) * 3
    assert (command.output, command.revision) == ("None", "None")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["read"],
        ["transcribe", "a.png", "--format", "doc"],
        ["transcribe", "a.png", "--format", "None"],
        ["transcribe", "a.png", "--num-beams", "None"],
        ["transcribe", "--nonsense"],
        ["info"],
    ],
)
def test_arguments_that_cannot_be_parsed_are_status_2(arguments, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capfd.readouterr().out == ""


def test_version(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.strip()


def test_help_is_quick_to_import():
    code = """
        import sys
        from trocr_jax.cli import main
        try:
            main(["transcribe", "--help"])
        except SystemExit as stopped:
            assert stopped.code == 0
        slow = {"jax", "flax", "transformers", "torch", "PIL", "numpy", "pyarrow"} & set(sys.modules)
        assert not slow, slow
    """
    code = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    groups = [  # as one reads them, in their order
        ("options", ["--model", "--batch-size", "--output", "--format"]),
        ("search options", ["--num-beams", "--max-new-tokens", "--length-penalty", "--early-stopping"]),
        ("", ["--num-beam-groups", "--diversity-penalty", "--n-best", "--generation-config"]),
        ("sampling options", ["--sample", "--temperature", "--top-k", "--top-p", "--min-p", "--typical-p"]),
        ("", ["--epsilon-cutoff", "--eta-cutoff", "--seed"]),
        ("penalty options", ["--repetition-penalty", "--no-repeat-ngram-size", "--min-new-tokens"]),
        ("constraint options", ["--allow", "--regex", "--lexicon", "--prefix"]),
        ("language-model options", ["--lm", "--lm-weight", "--length-bonus"]),
        ("score options", ["--mbr", "--confidences"]),
    ]
    place = done.stdout.index("INPUT")
    for title, options in groups:
        for wanted in (title, *options):
            place = done.stdout.index(wanted, place)


def test_info(model, capfd):
    assert main(["info", model]) == 0
    said = dict(line.split(": ", 1) for line in capfd.readouterr().out.splitlines())
    assert said["parameters"] == "13,280 (decoder 4,704, encoder 8,576)"
    assert said["dtype"] == "float32"
    assert said["image"].startswith("16 x 64")
    assert said["vocabulary"].startswith("49 tokens")
    assert said["encoder.patch_size"] == "(16, 8)"
    assert said["decoder_start_token_id"] == "2"


# --- signals


def test_a_reader_that_goes_away_ends_it_quietly(model, lines):
    command = [*PROGRAM, "transcribe", *map(str, lines * 20), "--model", model, "--batch-size", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().splitlines()
        assert [line for line in said if not line.endswith(b"images/s")] == []  # a slow machine tells its progress
        assert process.wait() == -signal.SIGPIPE


# What a shell starts in the background ignores interrupts, and so does what that starts: the tests, for example.
HEARING_INTERRUPTS = (
    "import os, signal, sys; [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)]; "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_it_quietly_and_leaves_no_half_file(number, model, tmp_path):
    output = tmp_path / "lines.jsonl"
    command = [*PROGRAM, "transcribe", "-", "--model", model, "--batch-size", "1", "--output", str(output)]
    with subprocess.Popen(
        [sys.executable, "-c", HEARING_INTERRUPTS, *command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"missing.png\n" * 99)  # bad images alone are held back until there are sixteen
        process.stdin.flush()
        assert b"missing.png" in process.stderr.readline()  # it is at work, and will wait for more paths
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(number)
        try:
            assert process.wait(60) == -number  # stdin stays open
        finally:
            process.kill()
        assert b"Traceback" not in process.stderr.read()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [["--help"], ["transcribe", "--help"], ["--version"]])
def test_a_reader_of_help_that_has_gone(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run([*PROGRAM, *arguments], stdout=out, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGPIPE
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "stdout", "said"),
    [
        ("transcribe samples/line_1.png", ">&-", "stdout is closed; give --output FILE"),
        ("transcribe samples/line_1.png", "> /dev/full", "stdout: cannot be written (No space left on device)"),
        ("info tiny-printed", "> /dev/full", "stdout: cannot be written (No space left on device)"),
        ("--help", "> /dev/full", "stdout: cannot be written (No space left on device)"),
    ],
)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_stdout_that_cannot_be_written(arguments, stdout, said):
    for unbuffered in ("", "1") if arguments == "--help" else ("",):
        done = subprocess.run(
            ["sh", "-c", f"{shlex.join(PROGRAM)} {arguments} {stdout}"],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
            text=True,
        )
        assert (done.returncode, done.stderr) == (2, f"trocr-jax: error: {said}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info", "x" * 300], "no such model or folder"),
        (["transcribe", "samples/line_1.png", "--model", "x" * 300], "no such model or folder"),
    ],
)
def test_a_name_that_is_too_long_is_not_blamed_on_the_output(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in (error := capsys.readouterr().err)
    assert "cannot be written" not in error


def test_a_stdin_that_cannot_be_read_is_named(tmp_path, capsys, monkeypatch):
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Broken())))
    assert main(["transcribe", "-", "--output", str(tmp_path / "x.jsonl")]) == 1
    assert "-: stdin cannot be read (Input/output error)" in capsys.readouterr().err
    (row,) = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert row["id"] == "-"


def test_what_nobody_foresaw_has_a_status_of_its_own(model, lines, capsys, monkeypatch):
    def lost(*arguments, **options):
        raise RuntimeError("the device was lost")

    monkeypatch.setattr(Recognizer, "read", lost)
    assert main(["transcribe", "--model", model, str(lines[0])]) == 4
    assert "RuntimeError: the device was lost" in capsys.readouterr().err


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
