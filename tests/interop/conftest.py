import os
import re
import subprocess
import time

import grpc
import library_pb2_grpc
import pytest

# Traffic stays on this machine.
os.environ.update(NO_PROXY="*", no_proxy="*")

PATIENCE = 20  # seconds; nothing here takes one


@pytest.fixture
def server(tmp_path):
    """The tonic server, and the target that leads to it."""
    said = tmp_path / "server.out"
    with said.open("wb") as out:
        process = subprocess.Popen([os.environ["EXAMPLES"] + "/tonic-server", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stdout=out)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (address := re.findall(r"http://(127\.0\.0\.1:\d+)\n", said.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.01)
        yield address[0]
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def library(server):
    with grpc.insecure_channel(server) as channel:
        yield library_pb2_grpc.LibraryStub(channel)
