"""Every kind of call: the first is a miss, the second a hit, and the SDK makes the same objects of both.

The simulated provider never gives the same answer twice, so equal answers are one answer.
"""

import json
import urllib.request
from typing import Any, NamedTuple

import pytest
from clients import anthropic_client, openai_client, outcome
from processes import PATIENCE, direct

QUESTION = [{"role": "user", "content": "What does a lighthouse keeper do all day?"}]
WEATHER = {
    "name": "weather",
    "description": "The weather in a town",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}


class Answer(NamedTuple):
    outcome: str
    said: Any  # the object of a plain call, the list of events of a streamed one
    text: str  # what of it a user reads


def raw(create, **request):
    response = create(**request)
    parsed = response.parse()
    return outcome(response.headers), list(parsed) if request.get("stream") else parsed


def chat(router):
    happened, said = raw(openai_client(router).chat.completions.with_raw_response.create, model="gpt-4o-mini", messages=QUESTION)
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens > 0
    return Answer(happened, said, said.choices[0].message.content)


def chat_streamed(router, **options):
    create = openai_client(router).chat.completions.with_raw_response.create
    happened, said = raw(create, model="gpt-4o-mini", messages=QUESTION, stream=True, **options)
    return Answer(happened, said, "".join(choice.delta.content or "" for chunk in said for choice in chunk.choices))


def chat_streamed_with_usage(router):
    answer = chat_streamed(router, stream_options={"include_usage": True})
    assert answer.said[-1].usage.total_tokens > 0
    return answer


def chat_with_a_tool(router):
    create = openai_client(router).chat.completions.with_raw_response.create
    tools = [{"type": "function", "function": WEATHER}]
    happened, said = raw(create, model="gpt-4o-mini", messages=QUESTION, tools=tools, tool_choice="required")
    call = said.choices[0].message.tool_calls[0].function
    assert call.name == "weather" and "town" in json.loads(call.arguments)
    return Answer(happened, said, call.arguments)


def responses(router):
    happened, said = raw(openai_client(router).responses.with_raw_response.create, model="gpt-4o-mini", input="Why do whales sing?")
    assert said.status == "completed" and said.usage.total_tokens > 0
    return Answer(happened, said, said.output_text)


def responses_streamed(router):
    create = openai_client(router).responses.with_raw_response.create
    happened, said = raw(create, model="gpt-4o-mini", input="Why do whales sing?", stream=True)
    assert said[0].type == "response.created" and said[-1].type == "response.completed"
    return Answer(happened, said, said[-1].response.output_text)


def embeddings(router):
    create = openai_client(router).embeddings.with_raw_response.create
    happened, said = raw(create, model="text-embedding-3-small", input=["a whale", "a lighthouse"])
    assert [len(item.embedding) > 0 for item in said.data] == [True, True]
    return Answer(happened, said, str(said.data[0].embedding))


def messages(router):
    create = anthropic_client(router).messages.with_raw_response.create
    happened, said = raw(create, model="claude-sonnet-4-5", max_tokens=1000, messages=QUESTION)
    assert said.stop_reason == "end_turn" and said.usage.output_tokens > 0
    return Answer(happened, said, said.content[0].text)


def messages_streamed(router):
    create = anthropic_client(router).messages.with_raw_response.create
    happened, said = raw(create, model="claude-sonnet-4-5", max_tokens=1000, messages=QUESTION, stream=True)
    assert said[0].type == "message_start" and said[-1].type == "message_stop"
    return Answer(happened, said, "".join(event.delta.text for event in said if event.type == "content_block_delta"))


def messages_with_a_tool(router):
    create = anthropic_client(router).messages.with_raw_response.create
    tool = {"name": WEATHER["name"], "description": WEATHER["description"], "input_schema": WEATHER["parameters"]}
    choice = {"type": "tool", "name": "weather"}
    happened, said = raw(create, model="claude-sonnet-4-5", max_tokens=1000, messages=QUESTION, tools=[tool], tool_choice=choice)
    assert said.stop_reason == "tool_use" and "town" in said.content[-1].input
    return Answer(happened, said, json.dumps(said.content[-1].input))


def gemini(router):
    happened, said = gemini_raw(router, "generateContent")
    said = json.loads(said)
    assert said["usageMetadata"]["totalTokenCount"] > 0
    return Answer(happened, said, said["candidates"][0]["content"]["parts"][0]["text"])


def gemini_streamed(router):
    happened, said = gemini_raw(router, "streamGenerateContent?alt=sse")
    events = [json.loads(line.removeprefix("data: ")) for line in said.splitlines() if line.startswith("data: ")]
    return Answer(happened, said, "".join(part.get("text", "") for event in events for part in event["candidates"][0]["content"]["parts"]))


def gemini_raw(router, method):
    request = urllib.request.Request(
        f"{router.url}/v1beta/models/gemini-2.5-flash:{method}",
        data=json.dumps({"contents": [{"role": "user", "parts": [{"text": "Why do whales sing?"}]}]}).encode(),
        headers={"content-type": "application/json", "x-goog-api-key": "one"},
    )
    with direct().open(request, timeout=PATIENCE) as answer:
        return outcome(answer.headers), answer.read().decode()


CALLS = [
    chat,
    chat_streamed,
    chat_streamed_with_usage,
    chat_with_a_tool,
    responses,
    responses_streamed,
    embeddings,
    messages,
    messages_streamed,
    messages_with_a_tool,
    gemini,
    gemini_streamed,
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_the_second_call_is_a_hit_with_the_same_answer(router, call):
    first = call(router)
    assert first.outcome == "miss" and first.text
    router.wait(stored=1)

    second = call(router)
    assert second.outcome == "hit"
    assert second.said == first.said and second.text == first.text
    router.wait(hits=1, misses=1, coalesced=0)


def test_streamed_and_plain_answers_are_different_entries(router):
    plain = chat(router)
    router.wait(stored=1)
    streamed = chat_streamed(router)
    assert (plain.outcome, streamed.outcome) == ("miss", "miss")
    assert plain.text != streamed.text
