import os

import processes
import pytest

# Traffic stays on this machine.
os.environ.update(NO_PROXY="*", no_proxy="*")


@pytest.fixture
def redis(tmp_path):
    with processes.redis(tmp_path) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def router(request, tmp_path):
    """A router over each store, with a provider that answers at once."""
    store = ["--redis-url", request.getfixturevalue("redis").url] if request.param == "redis" else []
    with processes.router(tmp_path, "--simulator-pace", "instant", *store) as running:
        yield running
