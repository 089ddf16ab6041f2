"""Calls that come together are committed together, each with its own outcome."""

import gc
import threading
import weakref
from contextlib import suppress

import pytest

from gallery.commits import GroupCommit, _Pending

PATIENCE_S = 10.0


class Disk:
    """Commits numbers, doubled; a group that comes while the gate is closed waits there. Negative ones fail alone."""

    def __init__(self):
        self.groups = []
        self.gate = threading.Event()
        self.gate.set()
        self.is_at_gate = threading.Event()
        self.fails_with = None

    def commit(self, calls):
        self.is_at_gate.set()
        assert self.gate.wait(PATIENCE_S)
        self.groups.append(calls)
        if self.fails_with is not None:
            raise self.fails_with
        return [ValueError(f"no {call}") if call < 0 else 2 * call for call in calls]


@pytest.fixture
def disk():
    return Disk()


def run_all(disk, first, others):
    """Runs `first` alone until it is being committed, then the others meanwhile; returns every outcome by its call."""
    commits, outcomes = GroupCommit(disk.commit), {}

    def run(call):
        try:
            outcomes[call] = commits.run(call)
        except BaseException as error:
            outcomes[call] = error

    def start(call):
        thread = threading.Thread(target=run, args=(call,), daemon=True)
        thread.start()
        return thread

    disk.gate.clear()
    threads = [start(first)]
    assert disk.is_at_gate.wait(PATIENCE_S)
    for number, call in enumerate(others, start=1):
        threads.append(start(call))
        while len(commits._waiting) < number:
            pass
    disk.gate.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    return outcomes


def test_lone_call_is_committed_alone(disk):
    commits = GroupCommit(disk.commit)
    assert [commits.run(call) for call in (1, 2)] == [2, 4]
    assert disk.groups == [[1], [2]]


def test_calls_that_come_during_a_commit_share_the_next_in_order(disk):
    assert run_all(disk, 1, [2, 3, 4, 5]) == {1: 2, 2: 4, 3: 6, 4: 8, 5: 10}
    assert disk.groups == [[1], [2, 3, 4, 5]]


def test_failing_call_fails_alone(disk):
    outcomes = run_all(disk, 1, [2, -3, 4])
    assert str(outcomes.pop(-3)) == "no -3"
    assert outcomes == {1: 2, 2: 4, 4: 8}


def test_failing_commit_fails_every_call_of_its_group(disk):
    disk.fails_with = OSError("disk full")
    outcomes = run_all(disk, 1, [2, 3])
    assert set(outcomes.values()) == {disk.fails_with}
    assert disk.groups == [[1], [2, 3]]


def test_commits_go_on_after_a_failure_and_an_interrupt(disk):
    commits = GroupCommit(disk.commit)
    for error in (OSError("disk full"), KeyboardInterrupt()):
        disk.fails_with = error
        with pytest.raises(type(error)):
            commits.run(1)
    disk.fails_with = None
    assert commits.run(1) == 2


class Call:
    """Something to commit."""


@pytest.mark.parametrize(
    "commit",
    [
        lambda calls: [2 for _ in calls],
        lambda calls: [ValueError("no") for _ in calls],
        lambda calls: 1 / 0,
    ],
    ids=["committed", "refused", "failed"],
)
def test_call_is_held_no_longer_than_until_its_answer(commit):
    commits, held = GroupCommit(commit), []
    gc.disable()
    try:
        for _ in range(2):
            call = Call()
            held.append(weakref.ref(call))
            with suppress(ValueError, ZeroDivisionError):
                commits.run(call)
            del call
        assert [one() for one in held] == [None, None]
    finally:
        gc.enable()


class Stop(BaseException):
    """Raised in a thread that waits, as Ctrl-C is in the main one."""


class Interrupted:
    """The lock that a call waits on; the wait is interrupted, once something has happened meanwhile."""

    def __init__(self, meanwhile):
        self.meanwhile = meanwhile

    def acquire(self):
        self.meanwhile()
        raise Stop

    def release(self):
        raise RuntimeError("release unlocked lock")


def interrupt(commits, call, meanwhile, monkeypatch):
    """Runs a call while another thread leads; its wait is interrupted after `meanwhile`."""

    def pending(call):
        monkeypatch.undo()  # of later calls the waiting is not interrupted
        made = _Pending(call)
        made.woken = Interrupted(meanwhile)
        return made

    commits._is_led = True
    monkeypatch.setattr("gallery.commits._Pending", pending)
    with pytest.raises(Stop):
        commits.run(call)


def lead(commits):
    """What the leading thread does, with call 1."""
    leader = _Pending(1)
    leader.leads = True
    commits._waiting.append(leader)
    commits._lead(leader)
    commits._leave(leader)


def test_call_that_is_interrupted_while_it_waits_is_not_committed(disk, monkeypatch):
    commits = GroupCommit(disk.commit)
    interrupt(commits, 7, lambda: None, monkeypatch)
    lead(commits)
    assert (disk.groups, commits._is_led) == ([[1]], False)


def test_interrupted_call_that_is_being_committed_stays_committed(disk, monkeypatch):
    commits = GroupCommit(disk.commit)
    interrupt(commits, 7, lambda: lead(commits), monkeypatch)
    assert commits.run(2) == 4
    assert disk.groups == [[7, 1], [2]]


def test_call_that_is_interrupted_when_it_was_to_lead_lets_the_next_one_lead(disk, monkeypatch):
    outcomes = []
    commits = GroupCommit(disk.commit)
    follower = threading.Thread(target=lambda: outcomes.append(commits.run(2)), daemon=True)

    def chosen():
        commits._waiting[0].leads = True
        follower.start()
        while len(commits._waiting) < 2:
            pass

    interrupt(commits, 7, chosen, monkeypatch)
    follower.join(PATIENCE_S)
    assert (outcomes, disk.groups) == ([4], [[2]])
    assert commits.run(1) == 2


def test_interrupted_leader_leaves_nobody_waiting(disk):
    disk.fails_with = Stop()
    outcomes = run_all(disk, 1, [2, 3])
    assert outcomes[1] is outcomes[2] is disk.fails_with
    assert "interrupted, so it may or may not be kept" in str(outcomes[3])
