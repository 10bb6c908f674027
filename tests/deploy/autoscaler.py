"""The rule of a ScaledObject, as KEDA 2.21 and Kubernetes' autoscaler follow it, to be played without them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Wishes so near to what there is change nothing: --horizontal-pod-autoscaler-tolerance.
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Trigger:
    """A kafka trigger: what it wishes for a topic's lags."""

    threshold: int
    even: bool = False
    only_with_lag: bool = False

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Trigger":
        """Reads a trigger's metadata."""
        return cls(
            int(metadata["lagThreshold"]),
            metadata.get("ensureEvenDistributionOfPartitions") == "true",
            metadata.get("limitToPartitionsWithLag") == "true",
        )

    def metric(self, lags: Sequence[int]) -> int:
        """Returns the lag that KEDA reports for these partitions (`getTotalLag` of its kafka scaler)."""
        total, bound = sum(lags), len(lags)
        if self.even:
            factors = [each for each in range(1, len(lags) + 1) if len(lags) % each == 0]
            total = self.threshold * next((each for each in factors if each * self.threshold >= total), len(lags))
        if self.only_with_lag:
            bound = sum(lag > 0 for lag in lags)
        return min(total, bound * self.threshold) if total // self.threshold > bound else total

    def wish(self, lags: Sequence[int], replicas: int) -> int:
        """Returns how many replicas the autoscaler concludes from it."""
        ratio = self.metric(lags) / (self.threshold * max(1, replicas))
        return replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(self.metric(lags) / self.threshold)


@dataclass(frozen=True, slots=True)
class Policy:
    """So many pods, or percent, in so many seconds."""

    percent: bool
    value: int
    seconds: float

    def bound(self, before: int, *, up: bool) -> int:
        """Returns the most (or least) replicas, from those at the beginning of the period."""
        if self.percent:
            return math.ceil(before * (1 + self.value / 100)) if up else int(before * (1 - self.value / 100))
        return before + self.value if up else before - self.value


@dataclass(slots=True)
class Autoscaler:
    """Decides how many replicas there should be; `pace` is how much faster than its manifest it lives."""

    spec: Mapping[str, Any]
    triggers: Sequence[Trigger]
    pace: float = 1.0
    _wishes: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def decide(self, now: float, replicas: int, lags: Iterable[Sequence[int]]) -> int:
        """Returns the replicas wanted now, from each trigger's lags by partition."""
        wish = max(trigger.wish(each, replicas) for trigger, each in zip(self.triggers, lags, strict=True))
        wish = min(max(wish, self.spec["minReplicaCount"], 1), self.spec["maxReplicaCount"])
        self._wishes.append((now, wish))
        wanted = self._limited(now, replicas, self._stable(now, replicas, wish))
        if wanted != replicas:
            self._changes.append((now, wanted - replicas))
        return wanted

    def _behavior(self, way: str) -> Any:
        return self.spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"][way]

    def _stable(self, now: float, replicas: int, wish: int) -> int:
        """The highest wish of the window where it would go down, the lowest of its window where it would go up."""
        up, down = (
            [each for at, each in self._wishes if now - at <= self._window(way)] for way in ("scaleUp", "scaleDown")
        )
        return max(min(replicas, max(down)), min(up)) if up and down else wish

    def _window(self, way: str) -> float:
        return float(self._behavior(way)["stabilizationWindowSeconds"]) / self.pace

    def _limited(self, now: float, replicas: int, wanted: int) -> int:
        if wanted == replicas:
            return wanted
        up = wanted > replicas
        rules = self._behavior("scaleUp" if up else "scaleDown")
        bounds = []
        for rule in rules["policies"]:
            policy = Policy(rule["type"] == "Percent", rule["value"], rule["periodSeconds"] / self.pace)
            recent = sum(change for at, change in self._changes if now - at < policy.seconds and (change > 0) == up)
            bounds.append(policy.bound(replicas - recent, up=up))
        most = (max if up else min) if rules["selectPolicy"] == "Max" else (min if up else max)
        return min(wanted, most(bounds)) if up else max(wanted, most(bounds))
