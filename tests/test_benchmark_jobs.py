"""`benchmarks.jobs --hosts`: a host with a stub in the place of model and decoders works as the reader asks it to."""

from __future__ import annotations

from pathlib import Path

from benchmarks import jobs_hosts
from trocr_jax.jobs.finish import finish
from trocr_jax.recognizer import Recognition

READ = Recognition(
    text="abc",
    score=-0.3,
    token_ids=[5] * 3,
    token_log_probs=[-0.1] * 3,
    truncated=False,
    model_log_probs=[-0.1] * 3,
    spellings=None,
    alternatives=(),
)


def test_a_simulated_host_reads_a_job_to_its_end(tmp_path: Path) -> None:
    job = jobs_hosts.planned(tmp_path / "job", 2, 32)
    jobs_hosts.work(job, jobs_hosts.Stub([0.0], [READ], 0))
    counts = finish(job)
    assert counts is not None
    assert counts.ok == 64
    assert jobs_hosts.last_commit(job) > 0
