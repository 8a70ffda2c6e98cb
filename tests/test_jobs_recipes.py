"""The recipes of docs/jobs.md for other people's schedulers, as far as they can be tried without one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.tiny import save_lines, save_tiny
from trocr_jax import jobs
from trocr_jax.cli import main
from trocr_jax.jobs.job import Job

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "jobs.md").read_text()


def recipe(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "tiny")
    save_lines(tmp_path / "scans", 6)
    return tmp_path


def test_the_job_of_kubernetes(place):
    spec = yaml.safe_load(recipe("yaml", "kind: Job"))["spec"]
    pod = spec["template"]["spec"]
    assert (spec["completionMode"], spec["parallelism"]) == ("Indexed", spec["completions"])
    assert pod["restartPolicy"] == "Never"  # which a podFailurePolicy needs
    (container,) = pod["containers"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    name, *arguments = container["command"] + container["args"]
    assert name == "trocr-jax"
    assert all(isinstance(argument, str) for argument in arguments)
    assert float(arguments[arguments.index("--grace") + 1]) < pod["terminationGracePeriodSeconds"]
    _, failed = spec["podFailurePolicy"]["rules"]
    assert int(arguments[arguments.index("--stopped-status") + 1]) not in (0, *failed["onExitCodes"]["values"])
    arguments = [argument.replace("/shared", str(place)) for argument in arguments]
    arguments[arguments.index("--decoders") + 1] = "1"
    assert main([*arguments, "--model", str(place / "tiny"), "--max-new-tokens", "12"]) == 0
    assert [*jobs.verify(Job.open(str(place / "job")))] == []


def test_two_tasks_of_a_slurm_array(place):
    script = place / "array.sbatch"
    # with a small model, and units small enough for two
    script.write_text(recipe("sh", "#SBATCH").rstrip() + " --model tiny --max-new-tokens 12 --unit-size 1\n")
    programs = place / "bin"
    programs.mkdir()
    (programs / "trocr-jax").write_text(f'#!/bin/sh\nexec {sys.executable} -m trocr_jax "$@"\n')
    (programs / "trocr-jax").chmod(0o755)
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script.read_text(), re.MULTILINE))
    assert float(asked["signal"].partition("@")[2]) > 100  # the grace of the command
    known = {"SLURM_SUBMIT_DIR": str(place), "SLURM_ARRAY_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
    tasks = [
        subprocess.Popen(
            ["bash", str(script)],
            env=os.environ | known | {"SLURM_ARRAY_TASK_ID": str(number), "PATH": f"{programs}:{os.environ['PATH']}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for number, task in enumerate(tasks):
        _, err = task.communicate(timeout=120)
        assert task.returncode == 0, err
        assert f"task {number} of job 7" in err
    job = Job.open(str(place / "job"))
    assert len(job.units) == 6
    assert [*jobs.verify(job)] == []
