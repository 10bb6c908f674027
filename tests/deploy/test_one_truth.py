"""The chart and the overlays are two ways to say the same: what one renders, the other does."""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import pytest

from tests.deploy.manifests import Manifest, built, rendered

#: Written by the tool that renders, not by us.
OURS_NOT = ("argocd.argoproj.io/", "helm.sh/", "checksum/", "app.kubernetes.io/managed-by")
PAIRS = {
    "production": ("k8s/overlays/production", ()),
    "dev": ("k8s/overlays/dev", ("--values", "k8s/helm/values-dev.yaml")),
}
#: A cluster's own affair for Helm: the namespace, and the broker that dev brings along.
NOT_IN_THE_CHART = {"Namespace", "StatefulSet"}


def plain(value: Any) -> Any:
    """The same without what differs by tool: hashes in names, hooks, the order of named lists."""
    if isinstance(value, Mapping):
        kept = {key: plain(item) for key, item in value.items() if not key.startswith(OURS_NOT)}
        return {key: item for key, item in kept.items() if (key, item) != ("annotations", {})}
    if isinstance(value, list):
        items = [plain(item) for item in value]
        named = all(isinstance(item, Mapping) and "name" in item for item in items)
        return sorted(items, key=lambda item: item["name"]) if named else items
    return value


def by_name(manifests: Iterable[Manifest]) -> dict[tuple[str, str], Any]:
    """Kind and name -> object, with each pod's settings in place of where they come from."""
    maps, found = {}, {}
    manifests = deepcopy(tuple(manifests))
    for item in manifests:
        if item["kind"] == "ConfigMap":
            item["metadata"]["name"] = re.sub(r"-[a-z0-9]{10}$", "", item["metadata"]["name"])
            maps[item["metadata"]["name"]] = item["data"]
    for item in manifests:
        if item["kind"] in NOT_IN_THE_CHART or item["metadata"]["namespace"] != "sentence-streams":
            continue
        spec = item.get("spec", {})
        pod = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec")
        for container in pod["containers"] if pod else ():
            for source in container.pop("envFrom", ()):
                data = maps[re.sub(r"-[a-z0-9]{10}$", "", source["configMapRef"]["name"])]
                container.setdefault("env", []).extend({"name": name, "value": text} for name, text in data.items())
        found[item["kind"], item["metadata"]["name"]] = plain(item)
    return found


@pytest.mark.parametrize("overlay", PAIRS)
def test_the_chart_renders_what_the_overlay_builds(overlay: str) -> None:
    """Every object, field by field; a change in one of the two has to be made in the other."""
    folder, values = PAIRS[overlay]
    expected, got = by_name(built(folder)), by_name(rendered(*values))
    assert got.keys() == expected.keys()
    for name, item in expected.items():
        assert got[name] == item, name


def test_the_chart_refuses_a_value_it_does_not_know() -> None:
    """A mistyped value is an error, not a default."""
    with pytest.raises(AssertionError, match=r"[Aa]dditional propert|not allowed"):
        rendered("--set", "workloads.worker.scaling.maxReplicas=3")
