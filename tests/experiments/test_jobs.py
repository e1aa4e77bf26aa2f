"""Jobs of experiments.jobs as real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.jobs import Job, run_jobs, write_result

ROOT = Path(__file__).parents[2]
MODULE = "tests.experiments.small_job"


@pytest.fixture
def job(tmp_path):
    return lambda name, *arguments: Job(MODULE, tmp_path / name / "result.json", arguments)


def pid(job):
    path = job.result.with_suffix(".pid")
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def is_running(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_finished_job_is_not_run_again(job):
    first = job("a", "once")
    assert run_jobs([first], at_once=1)[0]["arguments"] == ["once"]
    again = Job(MODULE, first.result, ("fail",))
    assert [r["arguments"] for r in run_jobs([again, job("b", "two")], at_once=2)] == [["once"], ["two"]]


@pytest.mark.slow
def test_so_many_at_once_with_one_thread_each(job):
    results = run_jobs([job(name, "wait") for name in "abcd"], at_once=2)
    times = [result["times"] for result in results]
    together = [sum(start <= other < end for start, end in times) for other, _ in times]
    assert max(together) == 2 and {result["threads"] for result in results} == {"1"}


def test_a_failure_shows_its_log_and_ends_the_others(job):
    good = job("good", "sleep")
    with pytest.raises(SystemExit, match="(?s)exit status 1.*no such data"):
        run_jobs([good, job("bad", "wait", "fail")], at_once=2)
    path = good.result.with_suffix(".pid")
    assert not good.result.exists() and not (path.exists() and is_running(int(path.read_text())))


@pytest.mark.slow
def test_a_failure_does_not_stop_the_others_if_they_keep_going(job, capsys):
    results = run_jobs([job("bad", "fail"), job("good")], at_once=1, keep_going=True)
    assert results[0] is None and results[1]["arguments"] == []
    assert "no such data" in capsys.readouterr().err


def test_a_job_without_a_result_failed(job):
    assert run_jobs([job("a", "forget")], at_once=1, keep_going=True) == [None]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_what_ends_the_parent_ends_the_job(job, number):
    sleeper = job("a", "sleep")
    program = "import signal, sys; from pathlib import Path; from experiments.jobs import Job, run_jobs; "
    program += "signal.signal(signal.SIGINT, signal.default_int_handler); "  # ignored below a shell's background job
    program += "run_jobs([Job(sys.argv[1], Path(sys.argv[2]), ('sleep',))], at_once=1)"
    command = [sys.executable, "-c", program, MODULE, str(sleeper.result)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    child = pid(sleeper)
    parent.send_signal(number)
    assert parent.wait() != 0 and not is_running(child)


def test_a_result_replaces_what_was_there(tmp_path):
    path = tmp_path / "result.json"
    write_result(path, {"a": 1})
    write_result(path, {"b": None})
    assert json.loads(path.read_text()) == {"b": None} and list(tmp_path.iterdir()) == [path]
