"""The commands of `trocr-jax jobs` and their options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from trocr_jax.cli.options import REVIEW, Reading, argument

_SOURCE = (
    "What to read, all of one kind: folders, quoted patterns or image files; manifests (.jsonl, .csv, .tsv) with a "
    "column of paths; archives (.tar, .zip); .parquet with images; folders of Hugging Face datasets or TFDS; "
    "PAGE XML or ALTO."
)
_JOB = "The job folder: a path, or a URL of fsspec."
_KIND = "What it is: folder, manifest, tar, zip, parquet, huggingface, tfds, tiff (a line a page), pages."
_DECODERS = "Processes that decode images."
_MAX_ERRORS = (
    "Stop, with status 2, when more than this share of the lines that a process has read has no text; looked at from "
    "100 lines on, or when it has read all that was left."
)
_METRICS = "Serve the figures to Prometheus on this port."
_UNIT = "Lines a unit: what is committed together, and lost at most when a process is killed."
_FORMAT = "Rows as jsonl, csv or parquet; pages: the PAGE XML or ALTO files that were read, with the texts in them."
_MERGED = "File to write, which appears when complete; for pages, a folder."
_ENGINE = "Who reads: this process, or actors of a Ray cluster."
_ADDRESS = "A running Ray cluster that this machine is part of, such as auto or host:6379."
_MOST = "Actors at most: Ray adds them while there is work and room."
_CPUS = "CPUs of an actor; as many processes decode images, unless --decoders says otherwise."
_RESOURCES = "Other resources of an actor, such as TPU=4."
_ROOM = "Seconds to wait for room in the cluster, or for a sign of life of what had room."
_STOPPED = (
    "Exit status after SIGTERM or SIGHUP if lines are left; one that a scheduler takes for a failure has it start "
    "another."
)
_HANG = "Seconds without a line after which the process ends itself, status 3."


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where the lines are."""

    source: Annotated[str | None, argument("KIND", _KIND, "(default: by the first name)")] = None
    path_column: Annotated[
        str | None,
        argument("NAME", "Column of paths in a manifest.", "(default: path, image, file_name, file or image_path)"),
    ] = None
    id_column: Annotated[
        str | None, argument("NAME", "Column of ids in a manifest.", "(default: id if there is one, else the path)")
    ] = None
    image_column: Annotated[
        str | None,
        argument(
            "NAME", "Column of images in Parquet and data sets.", "(default: image, img, picture, image_bytes or bytes)"
        ),
    ] = None
    split: Annotated[str | None, argument("NAME", "Split of a TFDS data set.", "(default: train)")] = None
    root: Annotated[
        str | None, argument("DIR", "What paths in a manifest are relative to.", "(default: its own folder)")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ResourceOptions:
    """How a process works; none of these changes a byte of the output."""

    decoders: Annotated[int | None, argument("N", _DECODERS, "(default: cores, at most 8)")] = None
    decode_seconds: Annotated[float, argument("S", "Time limit for an image.", "(default: 30)")] = 30.0
    decode_memory: Annotated[int, argument("MIB", "Memory limit for an image.", "(default: 2048)")] = 2048
    lease_timeout: Annotated[
        float, argument("S", "Silence after which a unit of another host is taken over.", "(default: 60)")
    ] = 60.0
    grace: Annotated[
        float, argument("S", "Time that units get to end after a signal; then they are given back.", "(default: 20)")
    ] = 20.0
    stopped_status: Annotated[int, argument("N", _STOPPED, "(default: 0)")] = 0
    hang: Annotated[float, argument("S", _HANG, "(default: 1800)")] = 1800.0
    max_error_rate: Annotated[float, argument("X", _MAX_ERRORS, "(default: 1, never)")] = 1.0
    metrics_port: Annotated[int | None, argument("PORT", _METRICS, "(default: not served)")] = None
    stats: Annotated[bool, argument(None, "Print figures at the end, as JSON on stdout.", "(default: no)")] = False


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Actors of --engine ray; each of them is a process that reads."""

    ray_address: Annotated[str | None, argument("ADDRESS", _ADDRESS, "(default: RAY_ADDRESS, else this machine)")] = (
        None
    )
    actors: Annotated[int | None, argument("N", "Actors at least.", "(default: 1)")] = None
    max_actors: Annotated[int | None, argument("N", _MOST, "(default: as --actors)")] = None
    actor_cpus: Annotated[float | None, argument("X", _CPUS, "(default: 1)")] = None
    actor_gpus: Annotated[float | None, argument("X", "GPUs of an actor.", "(default: 0)")] = None
    actor_resources: Annotated[tuple[str, ...] | None, argument("NAME=X...", _RESOURCES, "(default: none)")] = None
    room_seconds: Annotated[float | None, argument("S", _ROOM, "(default: 600)")] = None


@dataclass(frozen=True, kw_only=True)
class Run(Reading):
    """Read everything in a source into a job folder, or go on with that, beside whoever else does.

    Exit status: 0 the job is complete, or was stopped by SIGTERM or SIGHUP (stderr says what is left); 1 complete, but
    some lines have no text; 2 wrong usage, another configuration than planned, or a disk, source or model that cannot
    be used; 3 the device did nothing for --hang seconds; 4 the process failed, as the traceback says: another may do
    better.
    """

    inputs: tyro.conf.Positional[Annotated[tuple[str, ...], argument("SOURCE...", _SOURCE, "(required)")]] = ()
    output: Annotated[str, argument("JOBDIR", _JOB, "(required)")]
    engine: Annotated[Literal["local", "ray"], argument("{local,ray}", _ENGINE, "(default: local)")] = "local"
    unit_size: Annotated[int | None, argument("N", _UNIT, "(default: 512)")] = None
    token_log_probs: Annotated[bool, argument(None, "Columns token_ids and token_log_probs.", "(default: no)")] = False
    plan_only: Annotated[bool, argument(None, "List the source, write the plan, and end.", "(default: no)")] = False
    where: SourceOptions = field(default_factory=SourceOptions)
    resources: ResourceOptions = field(default_factory=ResourceOptions)
    ray: RayOptions = field(default_factory=RayOptions)


@dataclass(frozen=True, kw_only=True)
class RetryFailed(Run):
    """Read the lines of a job that have no text once more. Takes what `jobs run` took."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Write the rows of a job to one file, in the order of the source, or its texts into copies of its pages."""

    job: tyro.conf.Positional[Annotated[str, argument("JOBDIR", _JOB, "(required)")]]
    output: Annotated[str | None, argument("FILE", _MERGED, "(default: stdout)")] = None
    format: Annotated[
        Literal["jsonl", "csv", "parquet", "pages"] | None,
        argument("{jsonl,csv,parquet,pages}", _FORMAT, "(default: as the name of --output ends, else jsonl)"),
    ] = None
    min_confidence: Annotated[float | None, argument("P", REVIEW, "(default: no column)")] = None
    incomplete: Annotated[bool, argument(None, "Also of a job that is not complete.", "(default: refused)")] = False


@dataclass(frozen=True, kw_only=True)
class Status:
    """Say how far a job is, at what speed, and who works on it."""

    job: tyro.conf.Positional[Annotated[str, argument("JOBDIR", _JOB, "(required)")]]
    json: Annotated[bool, argument(None, "As JSON.", "(default: as text)")] = False


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check that a job folder has every line once, in order and unchanged, and nothing else. Status 1 if not."""

    job: tyro.conf.Positional[Annotated[str, argument("JOBDIR", _JOB, "(required)")]]


JobCommand = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[RetryFailed, tyro.conf.subcommand("retry-failed")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)
