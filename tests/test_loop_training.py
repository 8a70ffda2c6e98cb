"""The training loop on a toy: stopped, resumed, refused, and what it writes down."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scripts.toy_training import Bars, FewBars, bars, recipe
from train import flops, loop, manifest
from train.checkpoints import Checkpoints
from train.codec import codec, vocabulary_sha256
from train.data.checks import TextLimit
from train.data.line import Line
from train.data.render import Renderer
from train.export import _write_assets, export
from train.flight import Flight
from train.input import padded
from train.loop import Outcome, _next, _scorer, describe_recipe, rendered, train
from train.objective import Losses
from train.optimizer import optimizer
from train.processes import Stop
from train.progress import Progress
from train.recipe import Recipe, Stage, check, spans
from train.step import TrainState, init_state
from trocr_jax.errors import CheckpointError, ConfigError, DataError, OutputError, TrOCRError
from trocr_jax.image import ImageProcessor
from trocr_jax.sharding import make_mesh
from trocr_jax.tokenizer import character_tokenizer, save_tokenizer

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
ROOT = Path(__file__).resolve().parent.parent
SHORT = replace(recipe(), stages=(Stage(steps=6, batch_size=4, width=64, max_chars=8),))
RELU = replace(SHORT.config, decoder=replace(SHORT.config.decoder, activation="relu"))


def state_of(folder: Path, what: Recipe = SHORT) -> list[np.ndarray]:
    like = jax.eval_shape(lambda: init_state(what, optimizer(what)))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        found = checkpoints.restore(like)
    assert found is not None
    return [np.asarray(x) for x in jax.tree.leaves(found[0])]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    outcome = train(SHORT, folder, workers=0, lines=bars)
    assert outcome == (6, True, False)
    return folder


def test_what_is_logged(whole: Path) -> None:
    steps = [row for row in rows(whole) if "total" in row]
    assert [row["step"] for row in steps] == list(range(1, 7))
    assert {"lines_per_second", "step_time", "input_wait", "eta", "gradient_norm", "time"} <= steps[0].keys()
    assert steps[-1]["eta"] == 0
    assert "mfu" not in steps[0]  # nobody publishes the peak of this CPU


def test_a_run_stopped_anywhere_ends_with_the_same_bits(tmp_path: Path, whole: Path) -> None:
    for until in (1, 4):
        assert train(SHORT, tmp_path, workers=0, lines=bars, until=until).step == until
    assert train(SHORT, tmp_path, workers=0, lines=bars).finished
    for a, b in zip(state_of(whole), state_of(tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_signal_while_a_step_is_awaited_saves_and_ends_the_run(tmp_path: Path, whole: Path) -> None:
    @dataclass(frozen=True)
    class Killing(FewBars):
        """Signals this process while the lines of the third step are drawn."""

        def __getitem__(self, index: int) -> Any:
            if index == 2 * 4:
                signal.raise_signal(signal.SIGTERM)
            return super().__getitem__(index)

    before = signal.getsignal(signal.SIGTERM)
    stopped = train(SHORT, tmp_path, workers=0, lines=lambda s: Killing(2**40, s.max_chars))
    assert signal.getsignal(signal.SIGTERM) is before
    assert not stopped.finished
    assert train(SHORT, tmp_path, workers=0, lines=lambda s: FewBars(2**40, s.max_chars)).finished
    for a, b in zip(state_of(whole), state_of(tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_second_interrupt_ends_a_run_at_once_wherever_it_is() -> None:
    code = """
import os, signal
from train.processes import Stop
with Stop() as stop:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
        os.kill(os.getpid(), number)
        print(stop.seen, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "True\n" * 3)
    assert done.stderr == "stops as soon as it is saved; Ctrl-C again ends it at once\n"


def test_a_signal_during_an_evaluation_saves_and_the_evaluation_is_made_good(tmp_path: Path) -> None:
    what, stop, seen = replace(SHORT, eval_every=2), Stop(), []

    def interrupted(state: TrainState, stopped: Callable[[], bool]) -> Mapping[str, float] | None:
        stop.seen = True
        assert stopped()
        return None

    assert train(what, tmp_path, workers=0, lines=bars, evaluate=interrupted, stop=stop).step == 2
    folder = tmp_path / "checkpoints/00000002"
    assert manifest.read(folder).metrics is None

    def whole(state: TrainState, stopped: Callable[[], bool]) -> Mapping[str, float] | None:
        seen.append(int(state.step))
        return {"cer": 0.5}

    train(what, tmp_path, workers=0, lines=bars, evaluate=whole, until=4)
    assert seen == [2, 4]
    assert manifest.read(folder).metrics == {"cer": 0.5}


def test_a_signal_during_the_last_evaluation_does_not_finish_the_run(tmp_path: Path) -> None:
    what, stop = replace(SHORT, eval_every=3, keep_best=1, patience=1), Stop()

    def run(*, interrupted: bool) -> Outcome:
        def evaluate(state: TrainState, stopped: Callable[[], bool]) -> Mapping[str, float] | None:
            stop.seen = interrupted and int(state.step) == 6
            return None if stopped() else {"cer": 1 / int(state.step)}

        stop.seen = False
        return train(what, tmp_path, workers=0, lines=bars, evaluate=evaluate, stop=stop)

    assert run(interrupted=True) == Outcome(6, finished=False, compiling=False)
    assert run(interrupted=True) == Outcome(6, finished=False, compiling=False)  # while it makes good what it owes
    assert run(interrupted=False) == Outcome(6, finished=True, compiling=False)


def test_a_second_run_in_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.progress.HELD", 1)
    with (tmp_path / "log.jsonl").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match=r"log\.jsonl: another run is training in this folder"):
            train(SHORT, tmp_path, workers=0, lines=bars)
    assert train(SHORT, tmp_path, workers=0, lines=bars, until=1).step == 1


def test_a_signal_during_compilation_ends_the_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path
) -> None:
    release, stop = threading.Event(), Stop()

    def slow(lowered: jax.stages.Lowered) -> None:
        stop.seen = True
        release.wait(60)

    monkeypatch.setattr(jax.stages.Lowered, "compile", slow)
    assert train(SHORT, tmp_path, workers=0, lines=bars, stop=stop) == (0, False, True)
    release.set()


def test_evaluation_reads_held_out_lines_and_keeps_the_best(tmp_path: Path) -> None:
    what = replace(SHORT, eval_every=2, keep_best=1, keep_last=1)
    held_out = [Bars().line(i, max_chars=8) for i in range(6)]  # no multiple of the batch of 4
    train(what, tmp_path, workers=0, lines=bars, held_out=held_out)
    found = [row for row in rows(tmp_path) if "cer" in row]
    assert [row["step"] for row in found] == [2, 4, 6]
    assert all(row["cer"] > 0 and row["wer"] > 0 for row in found)
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {6, min(found, key=lambda row: row["cer"])["step"]}


def test_a_run_ends_when_its_score_has_long_not_become_better(tmp_path: Path) -> None:
    scores = {1: 0.5, 2: 0.4, 3: 0.6, 4: 0.45, 5: 0.3, 6: 0.2}
    read: list[int] = []

    def evaluate(state: TrainState, stopped: Callable[[], bool]) -> dict[str, float]:
        read.append(int(state.step))
        return {"cer": scores[read[-1]]}

    def run(**changes: Any) -> Outcome:
        what = replace(SHORT, eval_every=1, keep_best=1, **changes)
        return train(what, tmp_path, workers=0, lines=bars, evaluate=evaluate)

    assert run(patience=2) == Outcome(4, finished=True, compiling=False)
    assert run(patience=2) == Outcome(4, finished=True, compiling=False)  # and stays so
    ended = replace(SHORT, eval_every=1, keep_best=1, patience=2)
    assert export(ended, tmp_path, tmp_path / "best") == 2
    assert export(ended, tmp_path, tmp_path / "last", step=4) == 4
    assert read == [1, 2, 3, 4]
    assert run(patience=3) == Outcome(6, finished=True, compiling=False)
    assert read == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ConfigError, match="patience is 2; set eval_every and keep_best, which it counts by"):
        check(replace(SHORT, patience=2))


def test_a_set_that_does_not_divide_is_read_to_its_last_line() -> None:
    groups = list(padded(list(range(10)), 4))
    assert [len(group) for group, _ in groups] == [4, 4, 4]
    assert [item for group, count in groups for item in group[:count]] == list(range(10))
    assert groups[-1] == ([8, 9, 9, 9], 2)
    assert list(padded([], 4)) == []


def test_a_loss_that_is_not_finite_stops_the_run_and_is_kept(tmp_path: Path) -> None:
    what = replace(SHORT, optimizer=replace(SHORT.optimizer, learning_rate=1e30, warmup_steps=1, clip_norm=None))
    with pytest.raises(FloatingPointError, match=r"step \d: the loss is .*nonfinite.json"):
        train(what, tmp_path, workers=0, lines=bars)
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert found["samples"] == list(range(4 * found["step"], 4 * found["step"] + 4))
    assert found["losses"]["total"] in ("nan", "inf") or found["losses"]["gradient_norm"] in ("nan", "inf")
    steps = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert max(steps, default=0) <= found["step"]
    assert all(np.isfinite(leaf).all() for leaf in (state_of(tmp_path, what) if steps else []))


@pytest.mark.parametrize(
    ("change", "lines", "message"),
    [
        ({"seed": 1}, bars, r"recipe\.seed was 0 and is 1"),
        ({"config": RELU}, bars, r'recipe\.config\.decoder\.activation was "gelu" and is "relu"'),
        ({}, lambda s: FewBars(50, s.max_chars), r"data\[0\]\.bars was 1099511627776 and is 50"),
    ],
)
def test_another_recipe_or_data_set_is_refused(
    whole: Path, change: dict[str, Any], lines: Callable[[Stage], Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        train(replace(SHORT, **change), whole, workers=0, lines=lines)


def test_the_checkpoint_of_another_recipe_is_not_exported(whole: Path, tmp_path: Path) -> None:
    encoder = replace(SHORT.config.encoder, num_heads=4)  # the same numbers of parameters, read otherwise
    other = replace(SHORT, config=replace(SHORT.config, encoder=encoder))
    with pytest.raises(CheckpointError, match=r"recipe\.config\.encoder\.num_heads was 2 and is 4"):
        export(other, whole, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_that_has_changed_is_another_run(whole: Path, tmp_path: Path) -> None:
    numbers = set()
    for alphabet in ("ab", "ba"):
        save_tokenizer(character_tokenizer(alphabet), tmp_path)
        numbers.add(vocabulary_sha256(replace(SHORT, tokenizer=str(tmp_path))))
    assert len(numbers) == 2
    folder = shutil.copytree(whole, tmp_path / "run")
    saved = manifest.read(folder / "checkpoints/00000006")
    older = {name: value for name, value in saved.run.items() if name != "vocabulary"}  # as runs were described before
    assert saved.run == older | {"vocabulary": vocabulary_sha256(SHORT)}
    manifest.write(replace(saved, run=older), folder / "checkpoints/00000006")
    assert train(SHORT, folder, workers=0, lines=bars).finished
    manifest.write(replace(saved, run=older | {"vocabulary": "0"}), folder / "checkpoints/00000006")
    with pytest.raises(CheckpointError, match='of another run: vocabulary was "0" and is'):
        train(SHORT, folder, workers=0, lines=bars)
    with pytest.raises(CheckpointError, match='of another run: vocabulary was "0" and is'):
        export(SHORT, folder, tmp_path / "model")


def test_a_model_takes_the_place_of_another_and_reads_lines_as_long_as_those_it_learnt(
    whole: Path, tmp_path: Path
) -> None:
    for name in ("processor_config.json", "vocab.json", "merges.txt"):  # of the one before
        (tmp_path / name).write_text("{}", encoding="utf-8")
    export(SHORT, whole, tmp_path)
    names = {"config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"}
    assert {p.name for p in tmp_path.iterdir()} == names | {"model.safetensors", "tokenizer_config.json"}

    def tokens(max_chars: int, positions: int) -> int:
        decoder = replace(SHORT.config.decoder, max_position_embeddings=positions)
        stages = (replace(SHORT.stages[0], max_chars=max_chars), SHORT.stages[0])
        _write_assets(replace(SHORT, config=replace(SHORT.config, decoder=decoder), stages=stages), tmp_path)
        return int(json.loads((tmp_path / "generation_config.json").read_text())["max_new_tokens"])

    assert [tokens(8, 16), tokens(8, 300), tokens(200, 300), tokens(200, 150)] == [16, 128, 201, 150]


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"log.jsonl: cannot be written \(No space left on device\); make room"):
        train(SHORT, tmp_path, workers=0, lines=bars)


def test_how_often_is_saved_is_no_other_run(whole: Path) -> None:
    what = replace(SHORT, save_every=100, keep_last=5, log_every=3, eval_every=0)
    assert train(what, whole, workers=0, lines=bars).finished


def test_a_batch_that_the_mesh_does_not_divide_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    stage = replace(SHORT.stages[0], batch_size=6)
    mesh = jax.sharding.AbstractMesh((4, 1, 1), ("data", "fsdp", "model"))
    from trocr_jax.sharding import check_batch_size

    with pytest.raises(ConfigError, match="use a batch of 4 or 8"):
        check_batch_size(stage.batch_size, mesh)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="8 devices are asked for"):
        train(replace(SHORT, mesh="data=8"), tmp_path / "new", workers=0, lines=bars)
    assert not (tmp_path / "new").exists()


def test_a_text_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrOCRError, match=r"tokens, and the stage takes 8"):
        train(SHORT, tmp_path, workers=0, lines=lambda s: FewBars(2**40, 30))


def test_the_steps_before_a_line_that_cannot_be_read_are_saved(tmp_path: Path) -> None:
    class Failing(FewBars):
        def __getitem__(self, index: int) -> Any:
            if index == 13:  # of the fourth step
                raise DataError("13.png: no such file")
            return super().__getitem__(index)

    with pytest.raises(DataError, match=r"13\.png: no such file"):
        train(SHORT, tmp_path, workers=0, lines=lambda s: Failing(2**40, s.max_chars))
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "00000003"


def test_lines_drawn_without_data_are_those_that_the_tokenizer_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawing:
        """Says the first of some texts that is within the limit."""

        def line(self, index: int, *, max_chars: int, limit: TextLimit | None = None) -> Line:
            texts = ("12 34", "abc")
            text = next(text for text in texts if limit is None or limit.refusal(text) is None)
            return Line(np.zeros((8, 8), np.uint8), text)

    monkeypatch.setattr(Renderer, "create", lambda **_: Drawing())
    save_tokenizer(character_tokenizer("abcdef "), tmp_path)
    for tokenizer, expected in ((str(tmp_path), "abc"), (None, "12 34")):
        what = replace(SHORT, tokenizer=tokenizer, eval_lines=1)
        assert rendered(what)(what.stages[0])[0].text == expected
        scorer: Any = _scorer(what, None, make_mesh(), lambda step, lines: None)
        assert [line.text for line in scorer._lines] == [expected]


def test_the_codec_goes_both_ways() -> None:
    text = codec(SHORT)
    assert text.decode([*text.encode("Fuchs 12 %"), 1, 1]) == "Fuchs 12 %"


def test_flops_are_those_that_xla_counts() -> None:
    """XLA counts the same forward pass, element-wise work included, which is little beside wide layers."""
    import jax.numpy as jnp
    from flax import nnx

    from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
    from trocr_jax.model import TrOCR

    size: dict[str, Any] = {"hidden_size": 1024, "num_layers": 2, "num_heads": 4, "intermediate_size": 4096}
    config = TrOCRConfig(
        encoder=EncoderConfig(image_size=(32, 32), patch_size=(8, 8), **size),
        decoder=DecoderConfig(vocab_size=500, max_position_embeddings=16, cross_attention_hidden_size=1024, **size),
    )
    shapes = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((1, 12), jnp.int32)
    lowered = jax.jit(lambda model, *x: model(*x)).lower(nnx.eval_shape(lambda: TrOCR(config)), *shapes)
    analysis = lowered.cost_analysis()
    assert analysis is not None
    counted = flops.encoder_flops(config) + flops.decoder_flops(config, tokens=12)
    assert counted == pytest.approx(analysis["flops"], rel=0.015)


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The short version of what scripts/kill_training does fifty times."""
    command = [
        sys.executable,
        "-m",
        "scripts.kill_training",
        "--kills",
        "3",
        "--terms",
        "1",
        "--steps",
        "24",
        "--cold",
        "0",
    ]
    environment = os.environ | {"TOY_CACHE": str(jax.config.jax_compilation_cache_dir)}  # type: ignore[attr-defined]
    done = subprocess.run([*command, "--folder", str(tmp_path)], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert "every bit is the same" in done.stdout.decode()


def test_a_loss_is_looked_at_two_steps_later_however_seldom_is_logged(tmp_path: Path) -> None:
    (span,) = spans(SHORT)
    flight, zeros = Flight(tmp_path, span), {name: jnp.float32(0) for name in Losses._fields}
    for step in range(2):
        flight.add(step, Losses(**zeros | {"finite": jnp.bool_(step > 0)}))
    with pytest.raises(FloatingPointError, match="step 1: the loss is"):
        flight.add(2, Losses(**zeros | {"finite": jnp.bool_(True)}))


def test_no_state_is_saved_whose_losses_nobody_has_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flights: list[Flight] = []
    in_the_air: list[int] = []

    class Watched(Flight):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            flights.append(self)

    save = Checkpoints.save

    def watched(self: Checkpoints, state: Any) -> None:
        in_the_air.append(len(flights[-1]._steps))
        save(self, state)

    monkeypatch.setattr(loop, "Flight", Watched)
    monkeypatch.setattr(Checkpoints, "save", watched)
    train(replace(SHORT, log_every=100, save_every=2), tmp_path, workers=0, lines=bars, until=3)
    assert in_the_air == [0, 0]  # after the second step, and at the end


def test_the_last_step_of_a_stage_is_logged_and_held_out_lines_are_read_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    counted_from: list[int] = []
    begin = Progress.begin

    def began(self: Progress, step: int) -> None:
        counted_from.append(step)
        begin(self, step)

    monkeypatch.setattr(Progress, "begin", began)

    def evaluate(state: Any, stopped: Any) -> dict[str, float]:
        read.append(int(state.step))
        return {"cer": 0.5}

    train(replace(SHORT, log_every=5, eval_every=4, keep_best=1), tmp_path, workers=0, lines=bars, evaluate=evaluate)
    found = [row for row in rows(tmp_path) if "total" in row]
    assert [row["step"] for row in found] == [5, 6]
    assert read == [4, 6]
    assert counted_from == [0, 0, 4, 5, 6, 6]  # what is read after step 4 takes no time of step 5


def test_a_signal_that_ends_the_workers_too_is_no_error() -> None:
    class Ending:
        def __init__(self, said: str) -> None:
            self.said = said

        def __next__(self) -> None:
            raise ValueError(self.said)

    stop = Stop()
    with pytest.raises(DataError, match="has died, perhaps because memory was short"):
        _next(Ending("Worker process 0 was terminated unexpectedly with exit code -9"), stop)
    with pytest.raises(ValueError, match="other"):
        _next(Ending("other"), stop)
    stop.seen = True
    assert _next(Ending("other"), stop) is None


def test_a_terminal_that_goes_ends_a_run_as_sigterm_does_unless_nohup_says_otherwise() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, seen in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
            signal.signal(signal.SIGHUP, handler)
            with Stop() as stop:
                signal.raise_signal(signal.SIGHUP)
                assert stop.seen is seen
            assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_lines_to_be_scored_on_are_drawn_from_what_training_never_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Drawing:
        def line(self, index: int, **_: Any) -> Line:
            return Line(np.zeros((8, 8), np.uint8), "abc")

    monkeypatch.setattr(Renderer, "create", lambda **options: asked.append(options) or Drawing())  # type: ignore[func-returns-value]
    loop.rendered(SHORT)
    _scorer(replace(SHORT, eval_lines=1), None, make_mesh(), lambda step, lines: None)
    assert [options["split"] for options in asked] == ["train", "heldout"]


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"mesh": "data=1"}, {"keep_every": 3}, {"keep_last": 3}, {"keep_best": 1}, {"save_every": 7},
     {"log_every": 7}, {"eval_every": 3}, {"eval_lines": 3}, {"eval_beams": 2}, {"eval_worst": 3},
     {"eval_every": 3, "keep_best": 1, "patience": 2}],
    ids=str,
)  # fmt: skip
def test_what_decides_only_what_one_sees_is_no_other_run(change: dict[str, Any]) -> None:
    assert describe_recipe(replace(SHORT, **change)) == describe_recipe(SHORT)


def test_the_averaged_model_is_scored_on_pictures_of_the_image_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = ImageProcessor(
        height=8, width=64, keep_aspect_ratio=True, image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6)
    )
    what, given = replace(SHORT, processor=processor), list[Any]()

    class Seen(Exception):
        pass

    def generate(model: Any, pixels: Any, *_: Any, **__: Any) -> None:
        given.extend((model, pixels))
        raise Seen

    monkeypatch.setattr("train.scoring.generate", generate)
    like = jax.eval_shape(lambda: init_state(what, optimizer(what)))
    state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), like)
    state = state._replace(ema=jax.tree.map(lambda x: 2 * x, state.ema))
    line = Bars().line(0, max_chars=8)
    with pytest.raises(Seen):
        _scorer(what, [line], make_mesh(), lambda step, lines: None)(state, lambda: False)
    model, pixels = given
    assert float(model.decoder.embed_tokens[0, 0]) == 2
    expected = np.asarray(processor.normalize(processor.pixels(line.image)[None]))
    np.testing.assert_allclose(pixels[:1], expected, atol=2e-6)


def test_a_signal_at_the_end_of_a_stage_does_not_begin_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, lowered, add, lower = Stop(), list[int](), Flight.add, loop.lower

    def adding(self: Flight, step: int, losses: Losses) -> None:
        add(self, step, losses)
        stop.seen = step == 1

    monkeypatch.setattr(Flight, "add", adding)

    def lowering(*given: Any) -> Any:
        lowered.append(1)
        return lower(*given)

    monkeypatch.setattr(loop, "lower", lowering)
    stages = (replace(SHORT.stages[0], steps=2), replace(SHORT.stages[0], batch_size=2))
    found = train(replace(SHORT, stages=stages), tmp_path, workers=0, lines=bars, stop=stop)
    assert (found.step, found.finished, found.compiling) == (2, False, False)
    assert lowered == [1]
