"""The SDKs, set up to show what happened instead of hiding it."""

import anthropic
import openai
from processes import PATIENCE


def openai_client(router, key="sk-one"):
    return openai.OpenAI(base_url=f"{router.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)


def async_openai_client(router, key="sk-one"):
    return openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)


def anthropic_client(router, key="sk-ant-one"):
    return anthropic.Anthropic(base_url=router.url, api_key=key, max_retries=0, timeout=PATIENCE)


def outcome(headers):
    """`hit`, `miss`, `collapsed` or `bypass`: what the cache says of itself (RFC 9211); `None` if it is silent."""
    said = headers.get("cache-status")
    if said is None:
        return None
    parameters = [parameter.strip() for parameter in said.split(",")[-1].split(";")]
    for parameter, word in [("hit", "hit"), ("collapsed", "collapsed"), ("fwd=miss", "miss"), ("fwd=bypass", "bypass")]:
        if parameter in parameters:
            return word
    return said
