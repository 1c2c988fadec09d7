"""Who gets whose answer, and which answers nobody gets twice."""

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import openai
import processes
import pytest
from clients import anthropic_client, async_openai_client, openai_client, outcome
from processes import PATIENCE

ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Why is the sea salty?"}]}


def ask(client, **request):
    response = client.chat.completions.with_raw_response.create(**{**ASK, **request})
    return outcome(response.headers), response.parse()


def test_clients_with_the_same_key_share_and_others_do_not(router):
    first = ask(openai_client(router, "sk-one"))
    router.wait(stored=1)
    same = ask(openai_client(router, "sk-one"))
    other = ask(openai_client(router, "sk-two"))
    assert (first[0], same[0], other[0]) == ("miss", "hit", "miss")
    assert first[1] == same[1] != other[1]


def test_two_clients_at_once_share_one_upstream_call(tmp_path):
    async def both(router):
        calls = [ask_async(async_openai_client(router)) for _ in range(2)]
        return await asyncio.gather(*calls)

    async def ask_async(client):
        async with client:
            response = await client.chat.completions.with_raw_response.create(**ASK)
            return outcome(response.headers), response.parse()

    # Half a second and more until the first token: time enough for both to ask.
    with processes.router(tmp_path, "--simulator-pace", "realistic") as router:
        (one, answer), (other, same) = asyncio.run(both(router))
        assert sorted([one, other]) == ["collapsed", "miss"]
        assert answer == same
        router.wait(misses=1, coalesced=1, stored=1)


def test_a_client_that_comes_late_joins_the_live_stream_from_its_start(tmp_path):
    with held_stream() as upstream, processes.router(tmp_path, "--upstream", upstream.url) as router:
        one = openai_client(router).chat.completions.create(**ASK, stream=True)
        begun = [next(one)]
        # The provider has not said the rest: what the second client reads comes from the first one's stream.
        other = openai_client(router).chat.completions.create(**ASK, stream=True)
        joined = [next(other)]
        assert begun == joined and begun[0].choices[0].delta.content == "The"

        upstream.go_on.set()
        assert begun + list(one) == joined + list(other)
        assert upstream.calls == 1
        router.wait(misses=1, coalesced=1, stored=1)


@pytest.mark.parametrize(
    "status, error",
    [(400, "BadRequestError"), (401, "AuthenticationError"), (429, "RateLimitError"), (500, "InternalServerError")],
)
def test_errors_arrive_as_the_exceptions_of_the_sdk_and_are_not_stored(router, status, error):
    for _ in range(2):
        with pytest.raises(getattr(openai, error)) as raised:
            ask(openai_client(router), model=f"sim-error-{status}")
        assert raised.value.status_code == status and outcome(raised.value.response.headers) == "miss"

        with pytest.raises(getattr(anthropic, error)) as raised:
            anthropic_client(router).messages.create(**ASK | {"model": f"sim-error-{status}"}, max_tokens=100)
        assert raised.value.status_code == status and outcome(raised.value.response.headers) == "miss"
    router.wait(misses=4, not_stored=4, stored=0, hits=0)


def test_a_stream_that_ends_in_an_error_raises_it_each_time_and_is_not_stored(router):
    for _ in range(2):
        happened, stream = ask(openai_client(router), model="sim-error-in-stream", stream=True)
        assert happened == "miss"
        with pytest.raises(openai.APIError):
            list(stream)
    router.wait(misses=2, not_stored=2, stored=0, hits=0)


@pytest.mark.parametrize("model", ["sim-cut", "sim-refusal"])
def test_half_an_answer_and_no_answer_are_not_stored(router, model):
    for _ in range(2):
        happened, stream = ask(openai_client(router), model=model, stream=True)
        list(stream)
        assert happened == "miss"
    router.wait(misses=2, not_stored=2, stored=0, hits=0)


def test_a_path_that_does_not_exist_is_not_found_and_not_cached(router):
    for _ in range(2):
        with pytest.raises(openai.NotFoundError) as raised:
            openai_client(router).post("/nothing/here", cast_to=object, body=ASK)
        assert outcome(raised.value.response.headers) in (None, "bypass")
    router.wait(misses=0, stored=0, hits=0)


class HeldStream(BaseHTTPRequestHandler):
    """Says the first word of a chat answer, and the rest when it is told to go on."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.calls += 1
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.say(chunk({"role": "assistant", "content": "The"}))
        assert self.server.go_on.wait(PATIENCE)
        self.say(chunk({"content": " rivers bring it."}))
        self.say(chunk({}, "stop"))
        self.say("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def say(self, event):
        self.wfile.write(f"{len(event):x}\r\n{event}\r\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        pass


def chunk(delta, finish_reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": ASK["model"], "choices": [choice]}
    return f"data: {json.dumps(body)}\n\n"


@contextmanager
def held_stream():
    with ThreadingHTTPServer(("127.0.0.1", 0), HeldStream) as server:
        server.calls = 0
        server.go_on = threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join(PATIENCE)
