"""`trocr-jax calibrate`: what a model's confidences mean, fitted on lines whose text is known."""

from __future__ import annotations

import os
from pathlib import Path

from trocr_jax import checkpoint
from trocr_jax.calibration import FILE
from trocr_jax.cli import Calibrate, printing
from trocr_jax.cli.output_file import open_bytes, replace_file
from trocr_jax.cli.progress import Progress
from trocr_jax.errors import CheckpointError, DataError, ImageError, OutputError
from trocr_jax.evaluation.fitting import calibrate as fitted
from trocr_jax.evaluation.fitting import check_enough, judge
from trocr_jax.evaluation.samples import check_limit, open_samples
from trocr_jax.metrics import calibration_error_by_chance, expected_calibration_error
from trocr_jax.recognizer import Recognition, Recognizer
from trocr_jax.say import on_terminal, printable, say

_ELSEWHERE = "name another file by --output"


def calibrate(command: Calibrate) -> int:
    """Returns the exit status. Raises TrOCRError for a model, data set or output that cannot be used."""
    if len(command.sources) != 1:
        raise DataError("give one source: a folder of lines with a list of what they say, as for evaluate")
    check_limit(command.limit)
    folder = checkpoint.resolve(command.model, revision=command.revision)
    samples = open_samples(Path(command.sources[0]), split=command.split, limit=command.limit)
    for bad in samples.left_out:
        say(f"left out: {bad.id}: {bad.reason}")
    check_enough(len(samples.samples))
    path = Path(command.output) if command.output else folder / FILE
    _check_place(path)
    recognizer = Recognizer.from_pretrained(command.model, revision=command.revision)
    references, results = list[str](), list[Recognition]()
    images = (s.image if isinstance(s.image, bytes) else str(s.image) for s in samples.samples)
    with Progress(len(samples.samples), bar=on_terminal()) as progress:
        for sample, found in zip(samples.samples, recognizer.read(images, None, command.batch_size), strict=True):
            if isinstance(found, ImageError):
                progress.say(str(found))
            else:
                references.append(sample.reference)
                results.append(found)
            progress.update(failed=isinstance(found, ImageError))
    judged = judge(references, results)
    calibration = fitted(judged, method=command.method, fitted_on=f"{len(results)} lines of {samples.name}")
    try:
        if command.output:
            with open_bytes(str(path.absolute())) as write:
                write(calibration.to_json().encode())
        elif checkpoint.is_native(folder):
            checkpoint.put_file(folder, FILE, calibration.to_json())
        else:
            replace_file(path, calibration.to_json().encode())
    except (OutputError, CheckpointError) as error:
        raise OutputError(f"{error}; {_ELSEWHERE}") from None
    after = [calibration.line(p) for p in judged.line.log_probs]
    distance = expected_calibration_error(after, judged.line.right)
    said = (
        f"{path}: {command.method}, {len(results)} lines, {100 * distance:.2f} % calibration error on these same lines "
        f"({100 * calibration_error_by_chance(after):.2f} % by chance alone)"
    )
    with printing():
        print(printable(said))
    return 1 if progress.failed else 0


def _check_place(path: Path) -> None:
    """Before anything is read: raises OutputError if no file can be made there."""
    if str(path) == "-":
        raise OutputError("--output -: a calibration is a file beside a model; give its name")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give the name of a file to --output")
    folder = path.absolute().parent
    special = path.exists() and not path.is_file()  # a pipe, which needs no place
    if not special and not os.access(folder, os.W_OK | os.X_OK):
        what = "is not writable" if folder.is_dir() else "is no folder"
        raise OutputError(f"{path}: cannot be written ({folder} {what}); {_ELSEWHERE}")
