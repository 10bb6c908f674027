"""What is in the distribution, and that the three packages are its own."""

import json
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import distribution, entry_points
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("agents", "schemas", "streams")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as built:
        return built.namelist()


def test_the_wheel_holds_the_three_packages_and_nothing_beside_them(wheel: list[str]) -> None:
    """Tests, benchmarks and manifests stay out: an environment gets three top-level names."""
    assert {name.split("/")[0] for name in wheel if ".dist-info" not in name} == set(PACKAGES)


@pytest.mark.parametrize("suffix", [".avsc", ".json", ".toml", ".txt"])
def test_the_wheel_holds_every_data_file_of_the_packages(wheel: list[str], suffix: str) -> None:
    """Contracts, golden vectors, samples: an installed worker finds what a checkout has."""
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: which files belong to the packages is not known")
    wanted = {name for name in tracked.stdout.splitlines() if name.endswith(suffix)}
    assert wanted
    assert wanted <= set(wheel)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_comes_from_this_distribution(name: str) -> None:
    """Another distribution has a package named `agents`; what is imported here is ours."""
    installed = distribution("sentence-streams")
    where = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")
    ours = Path(unquote(urlparse(where).path)) if where else Path(str(installed.locate_file("")))
    module = Path(str(import_module(name).__file__))
    assert module == ours / name / "__init__.py"


def test_there_is_one_console_command() -> None:
    """`sentence-streams` is all that is put on the path."""
    ours = [point for point in entry_points(group="console_scripts") if point.value.startswith("agents.")]
    assert [(point.name, point.value) for point in ours] == [("sentence-streams", "agents.cli:main")]
