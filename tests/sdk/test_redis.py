"""What only a Redis can show: answers outlive a router, and routers outlive a Redis."""

import processes
from clients import openai_client, outcome

INSTANT = ["--simulator-pace", "instant"]


def ask(router, question="Where do swifts sleep?"):
    create = openai_client(router).chat.completions.with_raw_response.create
    response = create(model="gpt-4o-mini", messages=[{"role": "user", "content": question}])
    return outcome(response.headers), response.parse()


def test_one_router_hits_what_another_stored(redis, tmp_path):
    with processes.router(tmp_path, *INSTANT, "--redis-url", redis.url) as router:
        first = ask(router)
        router.wait(stored=1)
    with processes.router(tmp_path, *INSTANT, "--redis-url", redis.url) as router:
        second = ask(router)
    assert (first[0], second[0]) == ("miss", "hit")
    assert first[1] == second[1]


def test_calls_go_on_when_redis_is_killed_and_hit_again_when_it_is_back(redis, tmp_path):
    with processes.router(tmp_path, *INSTANT, "--redis-url", redis.url) as router:
        ask(router)
        router.wait(stored=1)
        assert ask(router)[0] == "hit"

        redis.kill()
        for number in range(10):
            happened, answer = ask(router, f"Question {number}?")
            assert happened == "miss" and answer.choices[0].message.content
        assert router.stats()["store_errors"] > 0

        redis.start()
        processes.eventually(lambda: ask(router)[0] == "hit", lambda: router.stats())


def test_a_router_starts_without_its_redis(redis, tmp_path):
    redis.kill()
    with processes.router(tmp_path, *INSTANT, "--redis-url", redis.url) as router:
        assert ask(router)[0] == "miss"

        redis.start()
        processes.eventually(lambda: ask(router)[0] == "hit", lambda: router.stats())
