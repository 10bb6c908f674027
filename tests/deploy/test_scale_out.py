"""Workers follow the lag by the ScaledObject's rule: the rule itself, and then a short play of it."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.deploy.autoscaler import Autoscaler, Trigger
from tests.deploy.manifests import keda, of_kind
from tests.deploy.scale_out import Plan, simulate
from tests.deploy.slow_worker import RATE
from tests.support.kafka import HasBrokers

SPEC = of_kind("ScaledObject", keda())["sentence-streams-worker"]["spec"]
WORKER = Trigger(12_000, even=True)


@pytest.mark.parametrize(
    ("trigger", "lags", "metric"),
    [
        (WORKER, [1250] * 24, 36_000),  # 2.5 workers wished for: 3 of 24 partitions is an even share
        (WORKER, [100] * 24, 12_000),
        (WORKER, [12_600] * 24, 288_000),  # no more than partitions
        (WORKER, [0] * 24, 12_000),
        (Trigger(60_000, only_with_lag=True), [5] + [0] * 23, 5),
        (Trigger(10, only_with_lag=True), [500] + [0] * 23, 10),  # one partition lags: one worker helps
    ],
)
def test_the_metric_is_kedas(trigger: Trigger, lags: list[int], metric: int) -> None:
    """The first four and the fifth are what KEDA 2.21's own scaler answered over a Kafka 4.3.1 with these lags."""
    assert trigger.metric(lags) == metric


def scaler() -> Autoscaler:
    return Autoscaler(SPEC, [WORKER, Trigger(1_000, even=True)])


def decisions(lags: list[int], step: float = 15.0) -> list[int]:
    """What is decided every so many seconds while the bulk lane lags so much."""
    autoscaler, replicas, decided = scaler(), 1, []
    for number, lag in enumerate(lags):
        replicas = autoscaler.decide(number * step, replicas, [[lag // 24] * 24, [0] * 24])
        decided.append(replicas)
    return decided


def test_a_backlog_is_met_at_once() -> None:
    """From one to the most within a minute: at least four more, and then twice as many, every 15 s."""
    assert decisions([600_000] * 5) == [5, 10, 20, 24, 24]


def test_a_lag_that_comes_and_goes_moves_nobody_in() -> None:
    """Within ten minutes the highest wish counts: a group that is about to be needed again is not torn apart."""
    assert set(decisions([120_000, 0] * 18)[4:]) == {12}


def test_quiet_takes_workers_away_in_few_steps() -> None:
    """After ten quiet minutes they are halved every five: each step is a rebalance."""
    decided = decisions([600_000] * 5 + [0] * 160)
    steps = [after for before, after in pairwise(decided) if after < before]
    assert steps == [12, 6, 3, 1]


def test_the_larger_of_two_wishes_counts() -> None:
    """Interactive requests scale as well as bulk ones do."""
    assert scaler().decide(0.0, 1, [[0] * 24, [200] * 24]) == 5


def test_workers_follow_the_lag_and_lose_nothing(
    kafka: HasBrokers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst brings workers, quiet takes them away; every sentence is answered once, and nobody flaps."""
    plan = Plan(burst=1_500)
    monkeypatch.setenv(RATE, str(plan.rate))
    report = simulate(kafka.bootstrap_servers, tmp_path, plan)
    print(f"drained in {report.drained:.0f} s, {report.ideal:.0f} s without any loss")
    assert (report.lost, report.repeated) == (0, 0)
    assert report.most == plan.workers
    assert report.moments[-1].replicas == 1
    assert report.turns == 1
