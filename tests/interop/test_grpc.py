"""What gRPC's own client sees of the cache in the tonic server, and the cache around tonic's client of gRPC's own server."""

import os
import queue
import subprocess
from concurrent import futures

import grpc
import library_pb2 as pb
import library_pb2_grpc
import pytest

TIMEOUT = 20  # seconds


def fields(metadata):
    return {key: value for key, value in metadata}


def shared(metadata):
    """Did the answer come from an earlier call, stored or still on its way into the store?"""
    status = fields(metadata)["cache-status"]
    return "; hit" in status or "; collapsed" in status


def get(library, title, **options):
    return library.GetBook.with_call(pb.BookRequest(title=title), timeout=TIMEOUT, **options)


def test_a_unary_call_comes_back_with_its_metadata_and_status(library):
    first, first_call = get(library, "Emma")
    again, again_call = get(library, "Emma")
    assert first == again == pb.Book(title="Emma", call=1)
    assert [shared(call.initial_metadata()) for call in (first_call, again_call)] == [False, True]
    for call in (first_call, again_call):
        assert call.code() is grpc.StatusCode.OK
        assert fields(call.initial_metadata())["x-shelf"] == "north"
        assert "content-length" not in fields(call.initial_metadata())
    assert first_call.trailing_metadata() == again_call.trailing_metadata()
    other, _ = get(library, "Persuasion")
    assert other.call == 2


@pytest.mark.parametrize("books", [0, 1, 3, 200])
def test_a_stream_comes_back_message_by_message(library, books):
    request = pb.ShelfRequest(shelf="south", books=books)
    calls = []
    for _ in range(2):
        call = library.ListBooks(request, timeout=TIMEOUT)
        assert list(call) == [pb.Book(title=f"south {n}", call=1) for n in range(1, books + 1)]
        assert call.code() is grpc.StatusCode.OK
        calls.append(shared(call.initial_metadata()))
    assert calls == [False, True]


def test_a_failure_is_never_cached(library):
    for n in (1, 2):
        with pytest.raises(grpc.RpcError) as failure:
            get(library, "lost")
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        assert failure.value.details() == f"call {n} found no such book"


def test_callers_with_other_credentials_share_nothing(library):
    of = lambda token: get(library, "Emma", metadata=[("authorization", f"Bearer {token}")])[0].call
    assert [of("one"), of("two"), of("one"), of("two")] == [1, 2, 1, 2]


def test_compressed_and_plain_calls_are_both_answered_and_right(server):
    answers = []
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with grpc.insecure_channel(server, compression=compression) as channel:
            library = library_pb2_grpc.LibraryStub(channel)
            for _ in range(2):
                book, call = get(library, "Emma" * 500)
                assert book.title == "Emma" * 500
                # The client would fail at a message that is flagged as compressed and is not.
                assert call.code() is grpc.StatusCode.OK
                answers.append((book.call, shared(call.initial_metadata())))
    assert answers == [(1, False), (1, True), (2, False), (2, True)]


def test_what_the_client_streams_passes_through(library):
    for _ in range(2):
        receipt, call = library.Donate.with_call(iter([pb.Book(title="a"), pb.Book(title="b")]), timeout=TIMEOUT)
        assert receipt.books == 2
        assert "fwd=bypass" in fields(call.initial_metadata())["cache-status"]

    # Each note is answered before the next is sent.
    notes = queue.Queue()
    answers = library.Talk(iter(notes.get, None), timeout=TIMEOUT)
    for text in ("one", "two", "three"):
        notes.put(pb.Note(text=text))
        assert next(answers).text == text
    notes.put(None)
    assert list(answers) == []


class Library(library_pb2_grpc.LibraryServicer):
    """Answers as the tonic server does, and with trailing metadata."""

    def __init__(self):
        self.calls = 0

    def call(self, context):
        self.calls += 1
        context.set_trailing_metadata([("x-cost", "7"), ("x-proof-bin", b"\x00\xff")])
        return self.calls

    def GetBook(self, request, context):
        call = self.call(context)
        if request.title == "lost":
            context.abort(grpc.StatusCode.NOT_FOUND, f"call {call} found no such book")
        return pb.Book(title=request.title, call=call)

    def ListBooks(self, request, context):
        call = self.call(context)
        for n in range(1, request.books + 1):
            yield pb.Book(title=f"{request.shelf} {n}", call=call)

    def Talk(self, requests, context):
        self.call(context)
        yield from requests


def test_trailing_metadata_of_another_server_survives_the_cache_around_a_channel():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    library_pb2_grpc.add_LibraryServicer_to_server(Library(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        client = [os.environ["EXAMPLES"] + "/tonic-client", f"http://127.0.0.1:{port}"]
        said = subprocess.run(client, check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout.splitlines()
    finally:
        server.stop(None)
    lists = [line for line in said if "trailers" in line]
    assert "fwd=miss" in lists[0] and ("hit" in lists[1] or "collapsed" in lists[1]), said
    for line in lists:
        assert line.endswith("trailers: grpc-message , grpc-status 0, x-cost 7, x-proof-bin AP8"), said
    assert [line for line in said if line.startswith("north 3")] == ["north 3 (call 4)"] * 2
    assert [line for line in said if line.startswith("lost")] == [
        "lost: NotFound, call 2 found no such book",
        "lost: NotFound, call 3 found no such book",
    ]
