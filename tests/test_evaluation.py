"""From sources of every kind to metrics.json: protocols on small fakes of the published layouts, results of finished
runs, and the command."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.tables import main as draw_table
from benchmarks.tables import table
from scripts import score_check
from tests.tiny import save_tiny
from train.curves import plot_logs, read_log
from trocr_jax import jobs
from trocr_jax.cli import Evaluate, Transcribe, main, parse
from trocr_jax.cli.evaluate import _outer_model, _read, _runs, _samples
from trocr_jax.datasets import Folder
from trocr_jax.errors import DataError, OutputError, SourceError
from trocr_jax.evaluated import Outcome, Reading, Sample, Samples
from trocr_jax.evaluation.protocols import STR_SETS, open_protocol
from trocr_jax.evaluation.results import open_results
from trocr_jax.evaluation.samples import open_samples
from trocr_jax.evaluation.scores import evaluate
from trocr_jax.jobs.sources.manifest import Manifest
from trocr_jax.jobs.sources.tfds import Tfds
from trocr_jax.metrics import cer
from trocr_jax.report.figures import plot_bars, plot_curves, plot_evaluation
from trocr_jax.report.page import page


def picture(path: Path, size: tuple[int, int] = (60, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 200).save(path)


IAM = {
    "a01-000u-00": "A MOVE to stop Mr. Gaitskell",
    "a01-000u-01": "from nominating any more",
    "b02-045-03": "Labour life",
}


def fake_iam(folder: Path) -> Path:
    (folder / "splits").mkdir(parents=True)
    (folder / "splits" / "te.lst").write_text("\n".join(IAM) + "\n")
    (folder / "ascii").mkdir()
    rows = [f"{i} ok 154 1 408 768 27 51 {text.replace(' ', '|')}" for i, text in IAM.items()]
    (folder / "ascii" / "lines.txt").write_text("#--- lines.txt\n" + "\n".join(rows) + "\n")
    for name in IAM:
        form = name.rpartition("-")[0]
        picture(folder / "lines" / form.split("-")[0] / form / f"{name}.png")
    return folder


def read_as(samples: Samples, texts: list[str]) -> Reading:
    return Reading("run", [Outcome(text, confidence=0.9) for text in texts], 2.0)


def test_iam_gives_the_hand_computed_score(tmp_path):
    samples = open_protocol("iam", fake_iam(tmp_path), partial=True)
    assert {s.id: s.reference for s in samples.samples} == IAM
    # 1 of 28 characters, 2 of 24, 0 of 11
    texts = ["A MOVE to stop Mr, Gaitskell", "from nominating any mo", "Labour life"]
    scores = evaluate(samples, [read_as(samples, texts)], headline="cer")
    assert scores["runs"][0]["scores"]["cer"]["value"] == pytest.approx(3 / 63)
    assert scores["runs"][0]["scores"]["exact"]["value"] == pytest.approx(1 / 3)


def test_iam_names_exactly_what_is_missing(tmp_path):
    folder = fake_iam(tmp_path)
    with pytest.raises(DataError, match="lines of test: 3 instead of 2915"):
        open_protocol("iam", folder)
    gone = folder / "lines/a01/a01-000u/a01-000u-01.png"
    gone.unlink()
    with pytest.raises(DataError) as caught:
        open_protocol("iam", folder, partial=True)
    assert [line for line in str(caught.value).splitlines() if line.startswith("  - ")] == [f"  - {gone}"]
    (folder / "ascii/lines.txt").write_text("a01-000u-00 ok 1 1 1 1 1 1 A\n")
    with pytest.raises(DataError, match="a01-000u-01: its text is not in"):
        open_protocol("iam", folder, partial=True)
    (folder / "splits/te.lst").unlink()
    with pytest.raises(DataError, match=r"splits/te.lst or splits/test.txt") as caught:
        open_protocol("iam", folder, partial=True)
    assert "tr.lst" not in str(caught.value)  # training is not scored


def test_sroie_gives_the_hand_computed_score_and_names_missing_boxes(tmp_path):
    picture(tmp_path / "test/img/X1.jpg", (200, 100))
    (tmp_path / "test/box").mkdir()
    (tmp_path / "test/box/X1.txt").write_text("5,5,90,5,90,20,5,20,TOTAL 9.90\n5,30,90,30,90,50,5,50,CASH, 10\n")
    samples = open_protocol("sroie", tmp_path, partial=True)
    assert [s.reference for s in samples.samples] == ["TOTAL 9.90", "CASH, 10"]
    scores = evaluate(samples, [read_as(samples, ["9.90 TOTAL", "CASH 10 x"])], headline="word_f1")
    # 3 of 4 written, 3 of 5 read
    assert scores["runs"][0]["scores"]["word_f1"]["value"] == pytest.approx(6 / 9)
    with pytest.raises(DataError, match="receipts of test: 1 instead of 361"):
        open_protocol("sroie", tmp_path)
    picture(tmp_path / "test/img/X2.jpg")
    with pytest.raises(DataError, match=r"test/box/X2.txt"):
        open_protocol("sroie", tmp_path, partial=True)


def test_scene_text_is_scored_set_by_set_and_names_missing_sets(tmp_path):
    for name in STR_SETS:
        picture(tmp_path / name / "1.png")
        (tmp_path / name / "gt.txt").write_text("1.png Hello-1\n")
    with pytest.raises(DataError, match="words of svt: 1 instead of 647"):
        open_protocol("str", tmp_path)
    samples = open_protocol("str", tmp_path, partial=True)
    texts = ["hello1" if s.group != "svt" else "hell01" for s in samples.samples]
    run = evaluate(samples, [read_as(samples, texts)], headline="scene_text_accuracy")["runs"][0]
    assert run["scores"]["scene_text_accuracy"]["value"] == pytest.approx(7 / 8)
    assert {g: v["scores"]["scene_text_accuracy"]["value"] for g, v in run["groups"].items()} == {
        name: float(name != "svt") for name in STR_SETS
    }
    (tmp_path / "cute80" / "1.png").unlink()
    with pytest.raises(DataError, match=r"cute80/1.png"):
        open_protocol("str", tmp_path, partial=True)
    for file in (tmp_path / "cute80").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="words of") as caught:
        open_protocol("str", tmp_path)
    assert open_protocol("str", tmp_path, partial=True).name.count("cute80") == 0
    assert "cute80: 1" not in str(caught.value)


def test_a_missing_set_is_named(tmp_path):
    for name in STR_SETS[1:]:
        picture(tmp_path / name / "1.png")
        (tmp_path / name / "labels.txt").write_text("1.png\tA\n")
    for name in STR_SETS[1:]:
        (tmp_path / name / "labels.txt").rename(tmp_path / name / "unused")
    with pytest.raises(DataError, match="missing"):
        open_protocol("str", tmp_path, partial=True)


def folder_of(folder: Path, rows: dict[str, str]) -> Path:
    for name in rows:
        picture(folder / name)
    lines = [json.dumps({"image": name, "text": text}) for name, text in rows.items()]
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder


def test_a_folder_a_list_and_splits(tmp_path):
    folder = folder_of(tmp_path / "a", {"1.png": "one", "2.png": "two"})
    assert [s.reference for s in open_samples(folder).samples] == ["one", "two"]
    assert [s.reference for s in open_samples(folder / "manifest.jsonl", limit=1).samples] == ["one"]
    for split in ("train", "test", "validation"):
        (folder / f"{split}.tsv").write_text(f"1.png\t{split}\n")
    (folder / "manifest.jsonl").unlink()
    assert [s.reference for s in open_samples(folder).samples] == ["test"]
    assert [s.reference for s in open_samples(folder, split="validation").samples] == ["validation"]
    with pytest.raises(DataError, match="no split 'dev'; give --split with one of test, train, validation"):
        open_samples(folder, split="dev")
    with pytest.raises(DataError, match="no such folder"):
        open_samples(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="looked for a list"):
        open_samples(tmp_path / "empty")


def test_page_xml(tmp_path):
    picture(tmp_path / "p.png", (300, 200))
    line = (
        '<TextLine id="l{0}"><Coords points="10,{1} 200,{1} 200,{2} 10,{2}"/>'
        "<TextEquiv><Unicode>{3}</Unicode></TextEquiv></TextLine>"
    )
    lines = line.format(1, 10, 40, "first") + line.format(2, 60, 90, "second")
    region = f'<Page imageFilename="p.png"><TextRegion>{lines}</TextRegion></Page>'
    (tmp_path / "p.xml").write_text(f"<PcGts>{region}</PcGts>")
    samples = open_samples(tmp_path).samples
    assert [(s.id, s.reference) for s in samples] == [("p/l1", "first"), ("p/l2", "second")]
    assert all(isinstance(s.image, bytes) for s in samples)
    assert [s.row for s in samples] == [line.id for line in jobs.open_source([str(tmp_path)], "pages").inputs()]


def test_urls_are_for_jobs_alone(tmp_path):
    picture(tmp_path / "0.png")
    (tmp_path / "test.tsv").write_text("0.png\tline 0\ns3://bucket/1.png\tline 1\n")
    (bad,) = open_samples(tmp_path).left_out
    assert bad.reason == "the picture is s3://bucket/1.png; only `trocr-jax jobs run` reads URLs; copy the files here"
    for url in ("http://127.0.0.1/lines", "s3://bucket/lines"):
        with pytest.raises(DataError, match="no such folder or file; only `trocr-jax jobs run` reads URLs"):
            open_samples(Path(url))
        with pytest.raises(DataError, match="not a folder; only `trocr-jax jobs run` reads URLs"):
            Folder(source=Path(url)).check()


def test_array_records(tmp_path):
    data = pytest.importorskip("train.data.build")
    source = folder_of(tmp_path / "source", {f"{i}.png": f"line {i}" for i in range(5)})
    data.build(Folder(source=source), tmp_path / "built")
    samples = open_samples(tmp_path / "built").samples
    assert sorted(s.reference for s in samples) == [f"line {i}" for i in range(5)]
    assert {s.id for s in samples} == {f"{i}.png" for i in range(5)}
    assert all(isinstance(s.image, bytes) for s in samples)
    (folder,) = {path.parent for path in (tmp_path / "built").rglob("dataset_info.json")}
    assert [s.row for s in samples] == [line.id for line in Tfds((str(folder),)).inputs()]  # as jobs call them
    for split, part in (("train", samples), ("all", samples), ("train[1:3]", samples[1:3])):
        rows = Tfds((str(folder),), split=split)
        assert [rows.read(line.place) for line in rows.inputs()] == [s.image for s in part]


def test_damage_to_array_records_is_named_and_costs_the_lines_in_it(tmp_path):
    data = pytest.importorskip("train.data.build")
    source = folder_of(tmp_path / "source", {f"{i}.png": f"line {i}" for i in range(5)})
    built = data.build(Folder(source=source), tmp_path / "built").folder
    (shard,) = built.glob("*.array_record-*")
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"line 3", b"line \xff"))  # each record is compressed by itself, or not at all
    damaged = open_samples(built)
    assert [bad.id for bad in damaged.left_out] == ["train-000003"]
    assert "damaged" in damaged.left_out[0].reason
    assert [s.reference for s in damaged.samples] == [f"line {i}" for i in (0, 1, 2, 4)]
    shard.write_bytes(content[: len(content) // 2])
    for attempt in (lambda: open_samples(built), lambda: list(Tfds((str(built),)).inputs())):
        with pytest.raises((DataError, SourceError), match=rf"{shard.name}: missing or damaged \(it is cut off\)"):
            attempt()
    for split in ("train", "all", "train[:2]"):
        with pytest.raises(SourceError, match=rf"{shard.name}: missing or damaged"):
            list(Tfds((str(built),), split=split).inputs())
    with pytest.raises(SourceError, match=r"no split 'nope' \(.*\); it has train"):
        list(Tfds((str(built),), split="nope").inputs())
    shard.write_bytes(content)
    (built / "features.json").unlink()
    with pytest.raises(DataError, match=r"1.0.0: cannot be opened .*; copy or build the data set again"):
        open_samples(built)


def test_results_belong_to_references_by_path_or_by_a_file_name_that_occurs_once(tmp_path):
    samples = [Sample(name, "x", tmp_path / name) for name in ("a/1.png", "b/1.png", "c/2.png")]
    rows = [
        {"id": str(tmp_path / "b/1.png"), "text": "b", "confidence": 0.5, "truncated": True},
        {"id": "a/1.png", "text": "a", "words": [{"text": "a", "confidence": 0.25}]},
        {"id": "elsewhere/2.png", "text": None, "error": "gone"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = open_results(path, samples)
    assert [o.text for o in found] == ["a", "b", ""]
    assert found[1].truncated
    assert found[0].words == [("a", 0.25)]
    assert found[2].error == "gone"
    with pytest.raises(DataError, match=r"1 of 4 references have no row in it:\n  - d/3.png"):
        open_results(path, [*samples, Sample("d/3.png", "x", None)])
    path.write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    with pytest.raises(DataError, match="came before"):
        open_results(path, samples)
    path.write_text("text only\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:1"):
        open_results(path, samples)


def test_references_have_the_ids_that_a_job_gives_the_same_manifest(tmp_path):
    path = tmp_path / "list.jsonl"
    written = ["0", "1", "2.50", "123456789012345678901234567890", '"a"', '""', "null"]
    rows = [f'{{"id": {id}, "image": "{n}.png", "text": "x"}}' for n, id in enumerate(written)]
    path.write_text("\n".join(rows))
    of_the_job = [line.id for line in Manifest((str(path),)).inputs()]
    assert of_the_job == ["0", "1", "2.50", "123456789012345678901234567890", "a", "5.png", "6.png"]
    assert [sample.id for sample in open_samples(path).samples] == of_the_job


def test_scores_are_kept_where_the_report_fails(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "lines", {"1.png": "one"})
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "1.png", "text": "one"}\n')
    monkeypatch.setattr("trocr_jax.cli.evaluate.page", lambda *given: 1 / 0)
    out = tmp_path / "out"
    command = ["evaluate", str(rows), "--references", str(folder / "manifest.jsonl"), "--output", str(out)]
    assert main(command) == 4
    assert json.loads((out / "metrics.json").read_text())["lines"] == 1


def test_a_report_is_no_url(tmp_path, capsys):
    folder = folder_of(tmp_path / "lines", {"1.png": "one"})
    for options in (["--output", "s3://bucket/eval"], ["--output", str(tmp_path), "--plot", "gs://bucket/plot.png"]):
        assert main(["evaluate", str(folder), *options]) == 2
        assert f"{options[-1]}: a report is written to a local folder" in capsys.readouterr().err


@pytest.mark.parametrize("confidence", ["1.5", "-0.1", "NaN"])
def test_a_confidence_that_is_no_probability_is_named(confidence, tmp_path, capsys):
    folder = folder_of(tmp_path / "lines", {"1.png": "one"})
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": "1.png", "text": "one", "confidence": {confidence}}}\n')
    out = str(tmp_path / "out")
    assert main(["evaluate", str(path), "--references", str(folder / "manifest.jsonl"), "--output", out]) == 2
    message = capsys.readouterr().err
    said = f"{path}: the row '1.png' cannot be used (its confidence is {float(confidence)}, and not between 0 and 1)"
    assert said in message


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('"text": ["a"]', r"the row '1.png' cannot be used \(its text is \['a'\], and no text\)"),
        ('"text": "a", "confidence": 1' + 400 * "0", "the row '1.png' cannot be used"),
        ('"text": "a", "characters": [{"text": "a", "confidence": NaN}]', "its confidence is nan, and not between"),
        ('"text": "a", "words": [{"text": "a", "confidence": 7}]', "its confidence is 7, and not between"),
        ('"text": ' + 100_000 * "[", "rows.jsonl:1: not a row"),
    ],
    ids=["list", "large", "nan", "seven", "deep"],
)
def test_damaged_rows_of_results_are_named(row, why, tmp_path):
    (tmp_path / "rows.jsonl").write_text(f'{{"id": "1.png", {row}}}\n')
    with pytest.raises(DataError, match=why):
        open_results(tmp_path / "rows.jsonl", [Sample("1.png", "x", None)])


def test_results_by_other_spellings_of_a_path_and_behind_a_byte_order_mark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = [Sample(name, "x", Path("d") / name) for name in ("a/1.png", "b/1.png")]
    ids = ["./d/../d/b/1.png", str(tmp_path / "d/a/1.png")]
    rows = "\n".join(json.dumps({"id": name, "text": name}) for name in ids)
    Path("rows.jsonl").write_text(rows, encoding="utf-8-sig")
    assert [o.text for o in open_results(Path("rows.jsonl"), samples)] == ids[::-1]


def test_lines_of_one_script_that_are_read_in_another_are_reported(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"id": "1.png", "text": "opqrstuvwxyz{|"}\n')
    (tmp_path / "references.jsonl").write_text('{"image": "1.png", "text": "abcdefghijklmn"}\n')
    command = ["evaluate", str(tmp_path / "rows.jsonl"), "--references", str(tmp_path / "references.jsonl")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert "CER 100.00 %" in capsys.readouterr().out


def test_a_row_of_results_ends_at_a_newline_alone(tmp_path):
    text = "a\u2028b\u0085c"
    rows = [json.dumps({"id": name, "text": text}, ensure_ascii=False) for name in ("1.png", "2.png")]
    (tmp_path / "rows.jsonl").write_bytes("\r\n".join([*rows, ""]).encode())
    samples = [Sample(name, "x", None) for name in ("1.png", "2.png")]
    assert [o.text for o in open_results(tmp_path / "rows.jsonl", samples)] == [text, text]


def test_a_list_has_no_splits(tmp_path, capsys):
    path = folder_of(tmp_path / "a", {"1.png": "one"}) / "manifest.jsonl"
    for command in (["evaluate", str(path), "--output", str(tmp_path / "out")], ["calibrate", str(path)]):
        assert main([*command, "--split", "test"]) == 2
        assert f"{path}: a list has no splits; leave --split test out" in capsys.readouterr().err


def test_a_run_without_a_model_has_the_one_outside_and_its_revision():
    def found(run: str) -> tuple[str, str | None]:
        outside = ["--output", "out", "--model", "one", "--revision", "r1"]
        command = parse(["evaluate", "samples", *outside, "--run", f"run: {run}"])
        assert isinstance(command, Evaluate)
        (options,) = _runs(command).values()
        return options.model, options.revision

    assert found("--num-beams 4") == ("one", "r1")
    assert found("--revision r2") == ("one", "r2")
    assert found("--model two") == ("two", None)
    assert found("--model=two --revision=r2") == ("two", "r2")


def test_results_of_pages_belong_to_references_by_page_and_line(tmp_path):
    ids = ["a/l0", "b/l0", "deep/b/l1"]
    samples = [Sample(name, "x", b"picture") for name in ids]
    rows = [{"id": f"scans/page/{n}", "text": n} for n in ("b.xml#l0", "b.xml#l1", "a.xml#l0")]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [o.text for o in open_results(path, samples)] == ["a.xml#l0", "b.xml#l0", "b.xml#l1"]
    with pytest.raises(DataError, match=r"2 of 3 references have no row in it:\n  - a/l0\n  - c/a/l0"):
        open_results(path, [*samples[:2], Sample("c/a/l0", "x", b"picture")])
    known = [Sample(f"{n}/p/l0", "x", b"picture", row=str(tmp_path / n / "p.xml#l0")) for n in "ab"]
    path.write_text("\n".join(json.dumps({"id": s.row, "text": s.id}) for s in known[::-1]))
    assert [o.text for o in open_results(path, known)] == ["a/p/l0", "b/p/l0"]  # of one name in two books


def test_what_is_infinite_is_drawn_nowhere(tmp_path):
    references, read = ["", "", "abcdefghij" * 3], ["invented", "invented", "abcdefghij" * 3]
    samples = Samples("three", [Sample(str(i), text, None) for i, text in enumerate(references)])
    outcomes = [Outcome(text, confidence=0.9 - 0.1 * i) for i, text in enumerate(read)]
    scores = evaluate(samples, [Reading("a", outcomes, None)])
    run = scores["runs"][0]
    assert [p["cer"] for p in run["confidence"]["risk_coverage"]] == [None, None, pytest.approx(16 / 30)]
    assert [b["cer"] for b in run["errors_by_length"]] == [None, 0.0]
    page("three", samples, [Reading("a", outcomes, None)], scores)
    pytest.importorskip("matplotlib")
    plot_evaluation(scores, tmp_path / "x.png")


def test_outputs_that_cannot_be_written_are_found_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trocr_jax.cli.evaluate.load", lambda *_: pytest.fail("a model is loaded"))
    folder = str(folder_of(tmp_path / "lines", {"1.png": "one"}))
    (tmp_path / "out" / "metrics.json").mkdir(parents=True)
    assert main(["evaluate", folder, "--output", str(tmp_path / "out")]) == 2
    assert "metrics.json: is a folder" in capsys.readouterr().err
    assert main(["evaluate", folder, "--output", "/dev/null/out"]) == 2
    assert "/dev/null/out/metrics.json: cannot be written" in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    assert main(["evaluate", folder, "--output", str(tmp_path / "new"), "--plot", "/dev/null/x.png"]) == 2
    assert "/dev/null/x.png: cannot be written" in capsys.readouterr().err


def test_a_list_with_deep_json_is_named(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text('{"image": "a", "text": ' + "[" * 100_000 + "\n")
    assert main(["evaluate", str(tmp_path / "x.jsonl"), "--output", str(tmp_path / "out")]) == 2
    assert "x.jsonl:1: not JSON" in capsys.readouterr().err


def many(count: int = 300) -> tuple[Samples, list[Reading]]:
    pairs = [(r[:20], h[:20]) for r, h in score_check.random_pairs(count, seed=3)]
    samples = Samples("many", [Sample(str(i), r, None) for i, (r, _) in enumerate(pairs)])
    sure = np.random.default_rng(0).random(count)
    one = Reading("one", [Outcome(h, confidence=float(c)) for (_, h), c in zip(pairs, sure, strict=True)], 3.0)
    other = Reading("other", [Outcome(h if i % 3 else r) for i, (r, h) in enumerate(pairs)], None)
    return samples, [one, other]


def test_the_values_of_metrics_json():
    samples, readings = many()
    scores = evaluate(samples, readings, min_confidence=0.5)
    one, other = scores["runs"]
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert one["scores"]["cer"]["low"] < one["scores"]["cer"]["value"] < one["scores"]["cer"]["high"]
    assert one["throughput"]["lines_per_second"] == 100
    assert other["throughput"] is None
    assert other["confidence"] is None
    assert sum(b["lines"] for b in one["errors_by_length"]) == 300
    assert one["confidence"]["risk_coverage"][-1]["coverage"] == 1.0
    assert one["confidence"]["risk_coverage"][-1]["wrong_lines"] == pytest.approx(1 - one["scores"]["exact"]["value"])
    review = one["confidence"]["review"]
    assert review["lines_to_review"] == sum((o.confidence or 0) < 0.5 for o in readings[0].outcomes)
    comparison = scores["comparisons"][0]
    assert comparison["value"] == pytest.approx(other["scores"]["cer"]["value"] - one["scores"]["cer"]["value"])
    assert comparison["high"] < 0
    assert comparison["p"] < 0.01
    assert one["confusions"]["characters"][0]["count"] >= one["confusions"]["characters"][-1]["count"]


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    samples, readings = many(60)
    for name in ("e.png", "e.svg", "e.pdf"):
        plot_evaluation(evaluate(samples, readings), tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    log = Path("trocr_jax/models/tiny-printed/training_log_2.jsonl")
    assert read_log(log)[-1]["step"] == 3200
    plot_logs([log], tmp_path / "log.png")
    plot_curves({"a": {"price_$5_$x^": [(0, 1), (1, 2)]}}, tmp_path / "dollars.png")
    rows = table(Path("benchmarks/README.md").read_text(encoding="utf-8"), "Base shapes beside transformers")
    assert rows["encoder"]["trocr_jax"] > 0
    plot_bars(rows, tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as bars:
        assert bars.size[0] > 500
    with pytest.raises(OutputError, match="cannot be written"):
        plot_curves({"a": {"b": [(0, 1)]}}, tmp_path / "x.unknown")
    (tmp_path / "bad.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(DataError, match="has no step"):
        read_log(tmp_path / "bad.jsonl")
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.5}]


def test_a_table_of_several_is_read_alone_and_whole():
    text = "# One\n\n| a | b | c |\n|---|---|---|\n| x | 1 | 2 |\n| x | 3 | - |\n\n| d | e |\n|---|---|\n| y | 4 |\n"
    assert table(text, "One") == {"x": {"b": 1.0, "c": 2.0}, "x (2)": {"b": 3.0}}


@pytest.mark.parametrize(("options", "told"), [(["--columns", "z"], "there are: b; c"), ([], "cannot be written")])
def test_a_table_that_cannot_be_drawn(options, told, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "a.md").write_text("# One\n| a | b | c |\n|---|---|---|\n| x | 1 | 2 |\n")
    given = ["tables", "One", "--file", str(tmp_path / "a.md"), "--plot", str(tmp_path / "none" / "x.png"), *options]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit):
        draw_table()
    assert told in capsys.readouterr().err


def test_the_command_writes_scores_and_a_report(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", "samples", "--output", str(out), "--limit", "3", "--min-confidence", "0.5"]
    runs = ["--run", "greedy: --max-new-tokens 64", "--run", "few: --max-new-tokens 8"]
    assert main([*arguments, *runs, "--batch-size", "3"]) == 0
    scores = json.loads((out / "metrics.json").read_text())
    assert [run["name"] for run in scores["runs"]] == ["greedy", "few"]
    assert scores["runs"][1]["truncated"] == 3
    assert scores["runs"][0]["scores"]["cer"]["value"] < scores["runs"][1]["scores"]["cer"]["value"]
    assert scores["seconds"]["scoring"] >= 0
    first, second = (run["throughput"] for run in scores["runs"])
    assert first is None  # it has looked where the text is, too
    assert 0 < second["seconds"] < scores["seconds"]["reading"]
    report = (out / "report.html").read_text()
    assert report.startswith("<!doctype html>")
    assert "greedy: CER" in capsys.readouterr().out
    rows = json.loads(report.split('id="data">')[1].split("</script>")[0])["rows"]
    read = "".join(part if isinstance(part, str) else part[1] for part in rows[0]["o"][0]["d"])
    assert len(rows[0]["o"][0]["b"]) == len(read.split()) > 5  # boxes of the first run alone
    assert "b" not in rows[0]["o"][1]


def test_finished_runs_are_compared(tmp_path, capsys):
    folder = folder_of(tmp_path / "lines", {"1.png": "one", "2.png": "two"})
    for name, texts in (("first", ["one", "two"]), ("second", ["one", "twa"])):
        rows = [{"id": f"{i + 1}.png", "text": text, "confidence": 0.9} for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = [str(tmp_path / f"{name}.jsonl") for name in ("first", "second")]
    out = str(tmp_path / "out")
    assert main(["evaluate", *sources, "--references", str(folder / "manifest.jsonl"), "--output", out]) == 0
    assert "second: CER 16.67 %" in capsys.readouterr().out


def test_texts_and_names_that_are_no_valid_unicode_are_written_with_escapes(tmp_path, capsys):
    folder = folder_of(Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9f")), {"1.png": "one", "2.png": "two"})
    (folder / "manifest.jsonl").write_text(json.dumps({"image": "1.png", "text": "one\ud83d"}))
    rows = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9ad.jsonl"))
    rows.write_text(json.dumps({"id": "1.png", "text": "on"}))
    out = tmp_path / "out"
    assert main(["evaluate", str(rows), "--references", str(folder), "--output", str(out)]) == 0
    scores = json.loads((out / "metrics.json").read_text())
    assert scores["runs"][0]["name"] == r"r\udce9ad"
    assert r"r\udce9f" in scores["source"]
    assert {entry["reference"] for entry in scores["runs"][0]["confusions"]["characters"]} == {"e", r"\ud83d"}


def test_a_finished_job_is_a_source(tmp_path, capsys):
    folder = folder_of(tmp_path / "lines", {"1.png": "one", "2.png": "two"})
    job, out = str(tmp_path / "job"), tmp_path / "out"
    model = ["--model", str(save_tiny(tmp_path / "tiny")), "--max-new-tokens", "6", "--decoders", "1"]
    options = ["--references", str(folder / "manifest.jsonl"), "--output", str(out)]
    assert main(["jobs", "run", str(folder), "--output", job, "--plan-only", *model]) == 0
    assert main(["evaluate", job, *options]) == 2
    assert "this job is not complete" in capsys.readouterr().err
    assert main(["jobs", "run", str(folder), "--output", job, *model]) == 0
    assert main(["evaluate", job, *options, "--min-confidence", "1"]) == 0
    (run,) = json.loads((out / "metrics.json").read_text())["runs"]
    assert run["name"] == "job"
    assert run["confidence"]["review"]["lines_to_review"] == 2
    texts = {"1.png": "one", "2.png": "two"}
    assert main(["jobs", "merge", job]) == 0
    rows = map(json.loads, capsys.readouterr().out.splitlines()[-2:])
    pairs = [(texts[Path(row["id"]).name], row["text"]) for row in rows]
    assert run["scores"]["cer"]["value"] == cer([r for r, _ in pairs], [h for _, h in pairs])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-folder"], "no-such-folder: no such folder"),
        ([], "no source"),
        (["a", "b"], "several sources need --references"),
        (["samples", "--partial"], "--partial needs --protocol"),
        (["samples", "--run", "beams 3"], "give a name, a colon and options"),
        (["samples", "--run", "a:", "--run", "a:"], "came before"),
        (["samples", "--run", "a: --output x"], "are those of evaluate"),
        (["samples", "--plot", "x.foo"], "x.foo: no picture has the suffix .foo; call it .png"),
        (["samples", "--run", "a: --format csv"], "has no --format"),
        (["samples", "--run", "a: --min-confidence 0.9"], "are those of evaluate"),
        (["samples", "--run", 'a: --allow "abc'], "'a: --allow \"abc': No closing quotation; quote its options"),
        (["samples", "--run", "a: --batch-size 0"], "batch_size is 0"),
        (["a", "--references", "b", "--num-beams", "2"], "leave --num-beams out"),
        (["a", "--references", "b", "--batch-size", "0"], "leave --batch-size out"),
        (["a", "--references", "b", "--model", "m"], "leave --model out"),
        (["a", "--references", "b", "--no-attention"], "leave --no-attention out"),
        (["samples", "--min-confidence", "2"], "--min-confidence is 2"),
        (["samples", "--level", "95"], "--level is 95"),
        (["samples", "--protocol", "iam"], "iam is not complete"),
        (["samples", "--protocol", "iam", "--split", "test"], "--protocol iam scores the test lines of its data set"),
        (["samples", "--limit", "0"], "--limit is 0: give a number of lines"),
        (["samples", "--n-best", "3"], "--n-best 3 needs --num-beams"),
    ],
)
def test_wrong_usage_is_named(arguments, message, tmp_path, capsys):
    assert main(["evaluate", *arguments, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "out").exists() == ("batch_size" in message)  # which the model is asked for


def test_what_is_left_to_review_by_hand():
    samples = Samples("five", [Sample(str(n), "abcd", None) for n in range(5)])
    outcomes = [
        Outcome("abcd", confidence=0.5),
        Outcome("abcD", confidence=0.5),  # kept: as sure as is asked for
        Outcome("x", confidence=0.4),
        Outcome("y", confidence=0.3),
        Outcome("", error="gone"),
    ]
    run = evaluate(samples, [Reading("run", outcomes, None)], min_confidence=0.5, resamples=10)["runs"][0]
    expected = {"min_confidence": 0.5, "lines_to_review": 3, "wrong_lines_kept": 1, "cer_kept": 1 / 8}
    assert run["confidence"]["review"] == expected


def test_every_score_is_of_its_own_definition():
    samples = Samples("one", [Sample("0", "A b\u0020\u0020c", None), Sample("1", "e\u0301 x", None)])
    outcomes = [Outcome(" A b\tc "), Outcome("\u00e9 X")]
    plain, form = (
        evaluate(samples, [Reading("run", outcomes, None)], unicode_form=form, resamples=10)["runs"][0]["scores"]
        for form in (None, "NFC")
    )
    found = {name: plain[name]["value"] for name in ("cer", "cer_jiwer", "wer", "wer_jiwer")}
    # " A b<tab>c " for "A b  c": 4 edits, 2 without the ends; one word less for jiwer, to whom a tab is no space
    assert found == pytest.approx({"cer": 7 / 10, "cer_jiwer": 5 / 10, "wer": 2 / 5, "wer_jiwer": 4 / 5})
    assert {name: form[name]["value"] for name in found} == pytest.approx(
        {"cer": 5 / 9, "cer_jiwer": 3 / 9, "wer": 1 / 5, "wer_jiwer": 3 / 5}
    )


def test_every_two_runs_are_compared():
    samples = Samples("two", [Sample("0", "a", None), Sample("1", "b", None)])
    readings = [Reading(name, [Outcome("a"), Outcome(name)], None) for name in "xyb"]
    pairs = [(c["first"], c["second"]) for c in evaluate(samples, readings, resamples=10)["comparisons"]]
    assert pairs == [pair for pair in (("x", "y"), ("x", "b"), ("y", "b")) for _ in range(2)]


def test_results_of_double_file_names_are_nobodys(tmp_path):
    from pathlib import Path

    from trocr_jax.errors import DataError
    from trocr_jax.evaluation.results import match

    samples = [Sample("a/1.png", "x", Path("a/1.png")), Sample("2.png", "x", Path("b/2.png"))]
    rows = [{"id": "p/1.png", "text": "p"}, {"id": "q/1.png", "text": "q"}, {"id": "r/2.png", "text": "r"}]
    with pytest.raises(DataError, match=r"1 of 2 references have no row in it:\n  - a/1.png"):
        match(rows, samples, Path("rows.jsonl"))
    samples = [Sample("a/1.png", "x", Path("a/1.png")), Sample("b/1.png", "x", Path("b/1.png"))]
    with pytest.raises(DataError, match=r"2 of 2 references have no row in it"):
        match(rows[:1], samples, Path("rows.jsonl"))


def test_lengths_are_those_of_the_unicode_form():
    samples = Samples("one", [Sample("0", unicodedata.normalize("NFD", "\u00e9" * 10), None)])
    run = evaluate(samples, [Reading("run", [Outcome("x")], None)], unicode_form="NFC", resamples=10)["runs"][0]
    assert [(b["from"], b["to"]) for b in run["errors_by_length"]] == [(10, 10)]


def test_a_path_counts_before_a_file_name():
    from pathlib import Path

    from trocr_jax.evaluation.results import match

    rows = [{"id": "x/a.png", "text": "by its path"}, {"id": "z/b.png", "text": "by a file name"}]
    found = match(rows, [Sample("x/a.png", "x", Path("y/b.png"))], Path("rows.jsonl"))
    assert [o.text for o in found] == ["by its path"]


def test_of_several_splits_the_test_is_scored(tmp_path):
    from trocr_jax.errors import DataError
    from trocr_jax.evaluation.samples import choose

    assert choose(tmp_path, {"train": 1, "test": 2}, None) == ("test", 2)
    with pytest.raises(DataError, match="several splits; give --split with one of train, dev"):
        choose(tmp_path, {"train": 1, "dev": 2}, None)


def test_other_sets_of_scene_text_are_not_scored(tmp_path):
    from trocr_jax.evaluation.protocols import open_protocol

    for name in ("svt", "ic03_860", "mine"):
        picture(tmp_path / name / "1.png")
        (tmp_path / name / "gt.txt").write_text("1.png Hello-1\n")
    assert [s.group for s in open_protocol("str", tmp_path, partial=True).samples] == ["svt"]


def test_a_line_is_scored_once(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "lines.tsv").write_text("1.png\tone\n1.png\ttwo\n")
    found = open_samples(tmp_path)
    assert [sample.reference for sample in found.samples] == ["one"]
    assert [(bad.id, bad.reason) for bad in found.left_out] == [("1.png", "its id came before")]


def test_the_status_says_whether_every_line_could_be_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "lines", {"1.png": "one", "2.png": "two"})
    for error, status in ((None, 0), ("2.png: bad", 1)):
        found = [{"id": "1.png", "text": "one"}, {"id": "2.png", "text": None if error else "two", "error": error}]
        (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, found)))
        options = ["--references", str(folder / "manifest.jsonl"), "--output", str(tmp_path / "out")]
        assert main(["evaluate", str(tmp_path / "x.jsonl"), *options]) == status


def test_options_of_scoring_are_those_of_the_command_and_equal_names_are_told_apart(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "lines", {"1.png": "caf\u00e9", "2.png": "two"})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = [{"id": "1.png", "text": "cafe\u0301"}, {"id": "2.png", "text": "twa"}]
        (tmp_path / name / "rows.jsonl").write_text("\n".join(map(json.dumps, found)))
    sources = [str(tmp_path / name / "rows.jsonl") for name in ("a", "b")]
    options = ["--references", str(folder / "manifest.jsonl"), "--output", str(tmp_path / "out")]
    assert main(["evaluate", *sources, *options, "--unicode-form", "NFC", "--level", "0.5"]) == 0
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [run["name"] for run in scores["runs"]] == sources
    assert (scores["level"], scores["unicode_form"]) == (0.5, "NFC")
    assert scores["runs"][0]["scores"]["cer"]["value"] == pytest.approx(1 / 7)


def test_a_protocol_may_be_limited(tmp_path: Path) -> None:
    command = Evaluate(sources=(str(fake_iam(tmp_path)),), output="out", protocol="iam", partial=True, limit=2)
    assert len(_samples(command).samples) == 2


def test_every_run_has_its_own_model_and_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    sizes: list[int | None] = []
    checked: list[Any] = []

    def load(run: Transcribe) -> Any:
        loaded.append(run.model)
        return SimpleNamespace(check=checked.append)

    def read(model: Any, samples: Any, decode: Any, batch_size: int | None, **more: Any) -> Any:
        sizes.append(batch_size)
        return [Outcome("a")], 1.0

    monkeypatch.setattr("trocr_jax.cli.evaluate.load", load)
    monkeypatch.setattr("trocr_jax.cli.evaluate.read", read)
    monkeypatch.setattr("trocr_jax.cli.evaluate.decode_config", lambda run, recognizer: None)
    command = Evaluate(sources=("x",), output="out", batch_size=7)
    runs = {"a": Transcribe(model="m"), "b": Transcribe(model="n"), "c": Transcribe(model="n", batch_size=2)}
    readings = _read(command, runs, Samples("s", [Sample("1", "a", None)]))
    assert loaded == ["n", "m", "n"], "one at a time, and that of the first run last before it"
    assert len(checked) == 3
    assert sizes == [7, 7, 2]
    assert [reading.attention for reading in readings] == [True, False, False]


def test_a_mistake_in_the_last_run_is_told_before_the_first_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trocr_jax.cli.evaluate.read", lambda *arguments, **more: pytest.fail("a run has been read"))
    runs = ["--run", "greedy:", "--run", f"fused: --num-beams 2 --lm {tmp_path / 'none.arpa'}"]
    assert main(["evaluate", "samples", *runs, "--output", str(tmp_path / "out")]) == 2
    assert "none.arpa" in capsys.readouterr().err


def test_a_revision_of_a_run_goes_before_that_outside() -> None:
    command = Evaluate(sources=("x",), output="out", model="m", revision="r")
    assert _outer_model(command, ["--revision=s"]) == ["--model", "m"]


def test_a_protocol_has_its_own_headline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trocr_jax.cli.evaluate._read", lambda c, r, s: [Reading("a", [Outcome("x")] * len(s.samples), 1.0)]
    )
    monkeypatch.setattr("trocr_jax.cli.evaluate.HEADLINE", {"iam": "wer"})
    options = ["--protocol", "iam", "--partial", "--output", str(tmp_path / "out")]
    assert main(["evaluate", str(fake_iam(tmp_path / "iam")), *options]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["headline"] == "wer"
    assert len(IAM) == 3
