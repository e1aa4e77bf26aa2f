"""The soak program finds faults, and says which case was it."""

import os
import random
import signal

import numpy as np
import pytest

from experiments import soak
from experiments.soak_cases import CASES, components, damage


@pytest.mark.parametrize("kind", ["losses", "groups", "modes", "files"])
def test_a_few_cases_hold(kind):
    assert soak.run_cases(kind, range(3)) == []


@pytest.mark.slow
def test_a_killed_training_ends_as_an_undisturbed_one():
    assert soak.run_cases("kills", [1]) == []


def test_a_case_that_fails_or_ends_the_process_or_hangs_is_named(monkeypatch):
    def fails(seed):
        assert seed != 2, "two"
        if seed == 4:
            os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setitem(CASES, "losses", fails)
    failed = soak.run_cases("losses", range(10))
    assert [seed for seed, _ in failed] == [2, 4]
    assert "two" in failed[0][1] and "status 11" in failed[1][1]
    monkeypatch.setitem(CASES, "losses", lambda seed: signal.pause())
    monkeypatch.setitem(soak.LIMIT, "losses", 0.1)
    ((seed, text),) = soak.run_cases("losses", [7, 8])
    assert seed == 7 and "more than 0.1 seconds" in text


def test_the_program_prints_the_case_and_exits_with_1(monkeypatch, capsys):
    monkeypatch.setitem(CASES, "groups", lambda seed: [][seed])
    with pytest.raises(SystemExit) as ended:
        soak.main(["--minutes", "0.001", "--kinds", "groups", "--seed", "5"])
    assert ended.value.code == 1 and "FAILED: --case groups 5" in capsys.readouterr().out


def test_flooding_and_damage():

    labels = np.float32([[2.0, 2.2, 0.0], [2.6, 0.0, 2.0]])
    assert {np.frombuffer(mask, bool).tolist().__str__() for mask in components(labels)} == {
        "[True, True, False, True, False, False]",
        "[False, False, False, False, False, True]",
    }
    for seed in range(50):
        damage({"a": [1, {"b": "text"}], "c": 2.5}, random.Random(seed))
