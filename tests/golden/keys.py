#!/usr/bin/env python3
"""Works out the keys in keys.json from the documented format alone, with none of the crate's code.

    python3 tests/golden/keys.py            checks the keys that are there
    python3 tests/golden/keys.py --write    writes them

An envelope is the domain tag and then fields: tag byte, length as big-endian u64, bytes. The key is its SHA-256.
A scope is the SHA-256 of its kind and parts, and the extra material a list of parts; these have a length each, but no tag.
"""

import hashlib
import json
import pathlib
import sys
from urllib.parse import urlsplit

DOMAIN = b"tower-response-cache/1"
NAMESPACE, SCOPE, METHOD, SCHEME, AUTHORITY, PATH, QUERY, NAME, VALUE, UPSTREAM, JSON, RAW, EXTRA, SLOT = range(1, 15)
KEYED = ["accept", "anthropic-version", "anthropic-beta", "openai-organization", "openai-project", "openai-beta", "referer", "x-origin"]
KEYED += ["x-forwarded-host", "x-forwarded-prefix", "x-forwarded-proto", "x-host", "x-http-method", "x-http-method-override"]
KEYED += ["x-method-override", "x-original-url", "x-rewrite-url"]
CREDENTIALS = ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"]
PARAMETERS = ["key", "api_key", "api-key", "access_token"]


class Lexeme(str):
    """A number as it was written."""


def no_duplicates(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("duplicate name")
    return dict(pairs)


def refuse(constant):
    raise ValueError(constant)


def canonical(body, ignore):
    """The canonical form, or None."""
    try:
        value = json.loads(body, parse_int=Lexeme, parse_float=Lexeme, parse_constant=refuse, object_pairs_hook=no_duplicates)
        if isinstance(value, dict):
            value = {name: member for name, member in value.items() if name not in ignore}
        return written(value).encode()
    except ValueError:
        return None


def written(value):
    if isinstance(value, Lexeme):
        return str(value)
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode())
        return "{" + ",".join(written(name) + ":" + written(value[name]) for name in names) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def scope(kind, parts):
    digest = hashlib.sha256()
    for part in [kind, *parts]:
        part = part.encode()
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def keys(case):
    policy, options = case.get("policy", {}), case.get("options", {})
    headers = [(name.lower(), value) for name, value in case.get("headers", [])]
    lines = lambda name: [value for other, value in headers if other == name]
    envelope = bytearray(DOMAIN)

    def add(tag, value):
        value = value if isinstance(value, bytes) else value.encode()
        envelope.extend(bytes([tag]) + len(value).to_bytes(8, "big") + value)

    def add_header(name, values):
        for i, value in enumerate(values):
            if i == 0:
                add(NAME, name)
            add(VALUE, value)

    uri = urlsplit(case["uri"])
    authority = uri.netloc if uri.scheme else (lines("host") or [""])[0]
    user, _, host = authority.rpartition("@")
    parameters = uri.query.split("&") if "?" in case["uri"] else []
    secret = [part for part in parameters if part.split("=")[0].lower() in PARAMETERS]
    public = [part for part in parameters if part not in secret]
    essence = (lines("content-type") or [""])[0].split(";")[0].strip()
    body = case.get("body", "")

    add(NAMESPACE, policy.get("namespace", ""))
    add(METHOD, case["method"])
    add(SCHEME, uri.scheme or ("https" if policy.get("assume_https") else "http"))
    add(AUTHORITY, host)
    add(PATH, uri.path)
    if public:
        add(QUERY, "&".join(public))
    parameters = (lines("content-type") or [""])[0].partition(";")[2].strip()
    is_json = essence.lower() == "application/json" or essence.lower().endswith("+json")
    add_header("content-type", [essence] + ([parameters] if parameters and not is_json else []))
    add_header("content-encoding", lines("content-encoding"))
    for name in KEYED + policy.get("key_headers", []):
        add_header(name, lines(name))
    if "upstream" in options:
        add(UPSTREAM, options["upstream"])
    form = canonical(body, policy.get("ignore", [])) if is_json and policy.get("canonical", True) else None
    add(RAW, body) if form is None else add(JSON, form)
    if "extra" in options:
        parts = [part.encode() for part in options["extra"]]
        add(EXTRA, b"".join(len(part).to_bytes(8, "big") + part for part in parts))

    if "tenant" in options:
        whose = scope("tenant", ["", options["tenant"]])
    elif "tenant_header" in policy:
        whose = scope("tenant", ["", lines(policy["tenant_header"])[0]])
    elif policy.get("shared"):
        whose = scope("shared", [])
    else:
        parts = [part for name in CREDENTIALS for value in lines(name) for part in (name, value)]
        parts += [part for parameter in secret for part in ("?", parameter)]
        parts += ["@", user] if user else []
        whose = scope("credentials", parts)

    for slot in range(policy.get("variants", 1)):
        before = bytes(envelope)
        if slot > 0:
            add(SLOT, slot.to_bytes(4, "big"))
        add(SCOPE, whose)
        yield hashlib.sha256(envelope).hexdigest()
        envelope[:] = before


def main():
    path = pathlib.Path(__file__).with_name("keys.json")
    cases = json.loads(path.read_text())
    wrong = 0
    for case in cases:
        right = list(keys(case))
        if "--write" in sys.argv:
            case["keys"] = right
        elif case.get("keys") != right:
            wrong += 1
            print(f"{case['name']}: {case.get('keys')} should be {right}")
    if "--write" in sys.argv:
        path.write_text(json.dumps(cases, indent=2) + "\n")
    return wrong


if __name__ == "__main__":
    sys.exit(main() > 0)
