"""What many tests share: the one real vLLM engine of a session, and a server of vLLM's own over it.

Importing and starting vLLM takes many seconds, so it is done once, when the first test asks for it. There is no
skipping: a missing vLLM makes these tests fail.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling

from quire.chat import ChatModel
from tests import tiers
from tests.engines.vllm.forking import forked_engines
from tests.engines.vllm.serving import serve

# How long an example takes, or is made, is the machine's business.
hypothesis.settings.register_profile(
    "no deadline", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("no deadline")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need vLLM, torch, a browser or Ray; see `tiers.py`."""
    for item in items:
        if isinstance(item, pytest.Function):
            definitions = item._fixtureinfo.name2fixturedefs
            fixtures = [one.func for each in definitions.values() for one in each]
            needs = frozenset[str]().union(
                *map(tiers.needs_of_function, [item.function, *fixtures])
            )
            if tiers.STARTING_VLLM & set(definitions):
                needs |= {"vllm"}
            for mark in needs:
                item.add_marker(mark)
        for mark in tiers.TOGETHER:
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.xdist_group(mark))
                break


class FilesAndGroups(LoadGroupScheduling):
    """Gives each process a file of tests at a time, and one of them all that need vLLM, or Ray.

    vLLM's engines and Ray's clusters take a while to start and much memory.
    """

    def _split_scope(self, nodeid: str) -> str:
        group = super()._split_scope(nodeid)
        return nodeid.partition("::")[0] if group == nodeid else group


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling:
    """How tests are spread where they run in several processes."""
    return FilesAndGroups(config, log)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files whose import needs what `-m "not ..."` does without."""
    left_out = {
        mark
        for mark in ("vllm", "torch", "browser", "ray")
        if f"not {mark}" in config.option.markexpr
    }
    conftest = collection_path / "conftest.py"
    file = conftest if conftest.is_file() else collection_path
    if not left_out or not file.is_file() or file.suffix != ".py":
        return None
    return True if left_out & tiers.needs_of_import(file) else None


@pytest.fixture(autouse=True)
def log_as_found() -> Iterator[None]:
    """quire's log as a program has it that sets nothing: libraries and our own CLI change levels."""
    logging.getLogger().setLevel(logging.WARNING)
    ours = logging.getLogger("quire")
    before = (ours.handlers[:], ours.level, ours.propagate)
    yield
    ours.handlers[:], ours.propagate = before[0], before[2]
    ours.setLevel(before[1])


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, which is not there yet."""
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def forked_vllm() -> Iterator[None]:
    """vLLM is imported, and its engines start in a few seconds each; see `forking.py`."""
    with forked_engines():
        yield


@pytest.fixture(scope="session")
def vllm_model(forked_vllm: None) -> Iterator[ChatModel]:
    """The demo model on VllmEngine, in float32, with both demo adapters; the pirate's by default."""
    from quire.demo import demo_adapter_path, demo_model_path

    arguments = {
        "model_name_or_path": str(demo_model_path()),
        "infer_backend": "vllm",
        "infer_dtype": "float32",
        "vllm_enforce_eager": True,
        "vllm_maxlen": 1024,
        "adapter_name_or_path": str(demo_adapter_path("pirate")),
        "adapter_folder": str(demo_adapter_path("pirate").parent),
    }
    with ChatModel(arguments) as model:
        model.load_adapter(demo_adapter_path("butler"))
        yield model


@pytest.fixture(scope="session")
def vllm_server_url(vllm_model: ChatModel) -> Iterator[str]:
    """The address of vLLM's own API server, over the same engine."""
    with serve(vllm_model) as address:
        yield address
