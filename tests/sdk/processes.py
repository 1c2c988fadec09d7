"""The processes of a test: a router, and a Redis of its own. Each is ended by whoever started it."""

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

PATIENCE = 20  # seconds; nothing here takes one


class Router:
    """A running router: its address, and what its admin listener says."""

    def __init__(self, url, admin):
        self.url = url
        self.admin = admin

    def stats(self):
        with direct().open(f"{self.admin}/cache/stats", timeout=PATIENCE) as answer:
            return json.load(answer)

    def wait(self, **counts):
        """Until the statistics say so. What was streamed is stored and counted off the caller's path, so a moment later."""
        eventually(lambda: counts.items() <= self.stats().items(), lambda: f"{counts} in {self.stats()}")


@contextmanager
def router(directory, *arguments):
    command = [os.environ["ROUTER"], "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *arguments]
    said = directory / "router.out"
    with said.open("wb") as out, (directory / "router.err").open("wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment())
    try:
        def addresses():
            assert process.poll() is None, (directory / "router.err").read_text()
            return re.findall(r"http://127\.0\.0\.1:\d+", said.read_text())

        eventually(lambda: len(addresses()) == 2, lambda: said.read_text())
        yield Router(*addresses())
        process.terminate()
        assert process.wait(PATIENCE) == 0, "SIGTERM drains and ends it well"
    finally:
        process.kill()
        process.wait()


class Redis:
    """A redis-server that keeps nothing on disk."""

    def __init__(self, directory):
        self.directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        with (self.directory / "redis.out").open("ab") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.directory)
        eventually(self.answers, lambda: (self.directory / "redis.out").read_text())

    def answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16) == b"+PONG\r\n"
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextmanager
def redis(directory):
    server = Redis(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def direct():
    """Opens URLs through no proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def environment():
    """This process's, less what would set the router up."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ROUTER_", "REDIS_", "CACHE_"))}


def eventually(holds, otherwise):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {otherwise()}"
        time.sleep(0.01)
