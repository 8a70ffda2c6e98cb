"""`trocr-jax evaluate`: lines with a known text through models, to metrics.json and report.html."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import orjson

from trocr_jax.cli import Evaluate, Transcribe, parse, printing
from trocr_jax.cli.decode import check_options, decode_config, load
from trocr_jax.cli.options import check_share, flag, given
from trocr_jax.cli.output import printable_values
from trocr_jax.cli.output_file import check_file, replace_file
from trocr_jax.cli.progress import Progress
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import DataError, DecodeError, OutputError
from trocr_jax.evaluated import Outcome, Reading, Samples
from trocr_jax.evaluation.protocols import HEADLINE, open_protocol
from trocr_jax.evaluation.read import read
from trocr_jax.evaluation.results import match, open_results
from trocr_jax.evaluation.samples import check_limit, open_samples
from trocr_jax.evaluation.scores import evaluate as score
from trocr_jax.jobs.files import is_url
from trocr_jax.jobs.job import Job, read_success
from trocr_jax.metrics.titles import TITLES
from trocr_jax.recognizer import Recognizer
from trocr_jax.report.figures import check_picture, plot_evaluation
from trocr_jax.report.page import page
from trocr_jax.say import on_terminal, say

_MODEL = ("model", "revision", "batch_size", "dtype", "cross_attention", "mesh")
_GROUPS = ("search", "sampling", "penalty", "constraint", "language_model", "score")


def evaluate(command: Evaluate) -> int:
    """Returns the exit status. Raises TrOCRError for a model, option, data set or output that cannot be used."""
    runs = _runs(command)
    for run in runs.values():
        check_options(run)
    _check(command)
    samples = _samples(command)
    folder = Path(command.output)
    for path in (folder / "metrics.json", folder / "report.html", *([Path(command.plot)] if command.plot else [])):
        check_file(path)
    for bad in samples.left_out:
        say(f"left out: {bad.id}: {bad.reason}")
    readings = _finished(command, samples) if command.references else _read(command, runs, samples)

    begun = time.perf_counter()
    scores = printable_values(
        score(
            samples,
            readings,
            headline=HEADLINE.get(command.protocol or "", "cer"),
            unicode_form=command.unicode_form,
            min_confidence=command.min_confidence,
            level=command.level,
        )
    )
    scored = time.perf_counter()
    scores["seconds"] = {"reading": sum(r.seconds or 0.0 for r in readings), "scoring": scored - begun}
    _write(scores, folder)  # what took long first
    title = f"Evaluation: {samples.name}" if len(readings) > 1 else f"{readings[0].name} on {samples.name}"
    report = page(title, samples, readings, scores)
    scores["seconds"]["report"] = time.perf_counter() - scored
    _write(scores, folder)
    replace_file(folder / "report.html", report.encode("utf-8", "backslashreplace"))
    with printing():
        for run in scores["runs"]:
            found = run["scores"][scores["headline"]]
            value, low, high = ("∞" if v is None else f"{100 * v:.2f}" for v in found.values())
            print(f"{run['name']}: {TITLES[scores['headline']]} {value} % ({low} to {high}) on {scores['lines']} lines")
    say(folder / "report.html")
    if command.plot is not None:
        plot_evaluation(scores, Path(command.plot))
    return 1 if any(o.error is not None for r in readings for o in r.outcomes) else 0


def _write(scores: dict[str, Any], folder: Path) -> None:
    replace_file(folder / "metrics.json", orjson.dumps(scores, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _check(command: Evaluate) -> None:
    if not command.sources:
        raise DataError("no source: give a folder of lines, or the results of finished runs with --references")
    if len(command.sources) > 1 and command.references is None:
        raise DataError(
            "several sources need --references: they are results to be compared; models are compared by --run"
        )
    if command.references is not None and (command.protocol or command.run):
        raise DataError("--references is for finished runs: --protocol and --run read lines anew")
    if command.references is not None and (reading := _given(command)):
        raise DataError(f"--references is for finished runs: leave {flag(reading[0])} out, which is for reading")
    if command.partial and command.protocol is None:
        raise DataError("--partial needs --protocol: other sources have no published number of lines")
    if command.split is not None and command.protocol is not None:
        raise DataError(f"--protocol {command.protocol} scores the test lines of its data set: leave --split out")
    if not 0 < command.level < 1:
        raise DecodeError(f"--level is {command.level}: give a probability between 0 and 1")
    check_share("min_confidence", command.min_confidence)
    check_limit(command.limit)
    for path in (command.output, command.plot):
        if path is not None and is_url(str(path)):
            raise OutputError(f"{path}: a report is written to a local folder; give one, and copy it from there")
    if command.plot is not None:
        check_picture(Path(command.plot))


def _runs(command: Evaluate) -> dict[str, Transcribe]:
    """Name -> the options of transcribe that it stands for."""
    if not command.run:
        options = {name: getattr(command, name) for name in (*_GROUPS, *_MODEL)}
        return {Path(command.model).name or command.model: Transcribe(**options)}
    found: dict[str, Transcribe] = {}
    for text in command.run:
        name, colon, typed = text.partition(":")
        if not colon or not name.strip():
            raise DecodeError(f"--run {text!r}: give a name, a colon and options, such as 'beams: --num-beams 4'")
        try:
            words = shlex.split(typed)
        except ValueError as error:
            raise DecodeError(f"--run {text!r}: {error}; quote its options as in a shell") from None
        run = parse(["transcribe", *_outer_model(command, words), *words])
        assert isinstance(run, Transcribe)
        if run.inputs or any(value is not None for value in (run.output, run.format, run.min_confidence)):
            raise DecodeError(
                f"--run {text!r}: inputs, --output and --min-confidence are those of evaluate, which has no --format; "
                "give options of the search"
            )
        if name.strip() in found:
            raise DecodeError(f"--run {text!r}: the name {name.strip()!r} came before; give each run its own")
        found[name.strip()] = run
    return found


def _given(command: Evaluate) -> list[str]:
    """The options of reading that were given."""
    default = Transcribe()
    names = [name for name in _MODEL if getattr(command, name) != getattr(default, name)]
    names += [name for group in _GROUPS for name in given(getattr(command, group))]
    return [*names, *(["no_attention"] if command.no_attention else [])]


def _outer_model(command: Evaluate, words: list[str]) -> list[str]:
    """The model outside with its revision, for a run that names neither; a run with --model has its own."""
    named = {word.split("=")[0] for word in words}
    if "--model" in named:
        return []
    revision = [] if command.revision is None or "--revision" in named else ["--revision", command.revision]
    return ["--model", command.model, *revision]


def _samples(command: Evaluate) -> Samples:
    if command.references is not None:
        return open_samples(Path(command.references), split=command.split, limit=command.limit)
    (source,) = command.sources
    if command.protocol is None:
        return open_samples(Path(source), split=command.split, limit=command.limit)
    samples = open_protocol(command.protocol, Path(source), partial=command.partial)
    return samples if command.limit is None else Samples(samples.name, samples.samples[: command.limit])


def _finished(command: Evaluate, samples: Samples) -> list[Reading]:
    names = [Path(source).stem for source in command.sources]
    if len(set(names)) < len(names):
        names = list(command.sources)
    return [
        Reading(name, _outcomes(source, samples), None, decode=f"read before: {source}")
        for name, source in zip(names, command.sources, strict=True)
    ]


def _outcomes(source: str, samples: Samples) -> list[Outcome]:
    if not is_url(source) and not Path(source).is_dir():
        return open_results(Path(source), samples.samples)
    job = Job.open(source)
    if read_success(job.store) is None:
        raise DataError(
            f"{source}: this job is not complete; go on with it by `jobs run`, or evaluate what `jobs merge` gives"
        )
    rows = (row for unit in range(len(job.units)) for row in job.rows(unit))
    return match(rows, samples.samples, Path(source))


def _read(command: Evaluate, runs: dict[str, Transcribe], samples: Samples) -> list[Reading]:
    readings, bar, loaded = list[Reading](), on_terminal(), dict[tuple[Any, ...], Recognizer]()

    def recognizer_of(run: Transcribe) -> Recognizer:
        key = tuple(getattr(run, name) for name in _MODEL if name != "batch_size")
        if key not in loaded:
            loaded.clear()  # two models may be too much for the device
            loaded[key] = load(run)
        return loaded[key]

    decodes = dict[str, DecodeConfig]()
    for name, run in reversed(runs.items()):  # a mistake in the last would cost what those before it have read
        decodes[name] = decode_config(run, recognizer_of(run))
        recognizer_of(run).check(decodes[name])
    for name, run in runs.items():
        attention = not readings and not command.no_attention
        with Progress(len(samples.samples), bar=bar) as progress:
            outcomes, seconds = read(
                recognizer_of(run),
                samples.samples,
                decodes[name],
                command.batch_size if run.batch_size is None else run.batch_size,
                attention=attention,
                progress=lambda found, progress=progress: progress.update(failed=found.error is not None),  # type: ignore[misc]
            )
            for sample, found in zip(samples.samples, outcomes, strict=True):
                if found.error is not None:
                    progress.say(f"{sample.id}: {found.error}")
        described = _described(run)
        readings.append(Reading(name, outcomes, seconds, model=run.model, decode=described, attention=attention))
    return readings


def _described(run: Transcribe) -> str:
    """The options of a run that were given."""
    options = {k: v for group in _GROUPS for k, v in given(getattr(run, group)).items()}
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "greedy"
