"""Inputs that something is wrong with, made from good ones."""

import json
import resource
import time
from contextlib import contextmanager

WORDS = [
    b"NaN", b"Infinity", b"1e999", b"-1", b"0", b"9223372036854775807", b"18446744073709551616", b"1" * 400, b"null", b"true",
    b"[]", b"{}", b'""', b'"\\u0000"', b'"\\ud800"', b"[" * 2000, b'{"a":' * 2000, b'"' + b"x" * 5000 + b'"', b"0.1",
    b'"../../etc/passwd"', b'"trust_remote_code"', b'"__class__"', b'"os.system"', b"\xff\xfe", b"\xef\xbb\xbf", b",", b":",
    b"}", b"]",
]  # fmt: skip


@contextmanager
def quiet(seconds=2.0, megabytes=100, length=1500, names=""):
    """Ends well or in our one sentence, which has `names` in it, soon, and without taking memory."""
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    except (ValueError, OSError) as error:
        assert type(error).__module__ in ("builtins", "langevin.files", "langevin.data.cache"), type(error)
        said = str(error)
        assert said and "\n" not in said and len(said) < length and str(names) in said, said[:2000]
    assert time.process_time() - began < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < megabytes * 1024


def mutated(rng, data: bytes) -> bytes:
    """`data` with a few bytes changed, cut, doubled, or replaced by something awkward."""
    made = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        place = rng.randrange(len(made) + 1)
        kind = rng.randrange(7)
        if kind == 0 and made:
            made[place % len(made)] ^= 1 << rng.randrange(8)
        elif kind == 1 and made:
            made[place % len(made)] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            del made[place:]
        elif kind == 3:
            del made[place : place + rng.randrange(1, 20)]
        elif kind == 4:
            start = rng.randrange(len(made) + 1)
            made[place:place] = made[start : start + rng.randrange(1, 200)]
        elif kind == 5:
            made[place:place] = rng.randbytes(rng.randrange(1, 20))
        else:
            made[place : place + rng.randrange(1, 12)] = rng.choice(WORDS)[:10_000]
    return bytes(made)


def rearranged(rng, text: bytes) -> bytes:
    """JSON that parses, with a value somewhere replaced, removed, added or moved: what reaches the checks behind the parser."""
    tree = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 5])):
        holder, key = rng.choice(_places(tree, []) or [({"": tree}, "")])
        odd = [
            None,
            True,
            -1,
            0,
            1.5,
            1e308,
            2**63,
            10**400,
            "",
            "x" * 3000,
            "../x",
            "\0",
            [],
            {},
            [[]],
            {"a": 1},
            "float64",
            [1] * 99,
        ]
        kind = rng.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(["trust_remote_code", "auto_map", "kind", "class", "", "__proto__"])] = rng.choice(odd)
        elif kind == 2:
            other, there = rng.choice(_places(tree, []) or [(holder, key)])
            if json.dumps(other[there]) and len(json.dumps(tree)) < 100_000:
                holder[key] = json.loads(json.dumps(other[there]))
        else:
            holder[key] = rng.choice(odd)
    return json.dumps(tree).encode()


def _places(tree, found):
    """Every (container, key) of a tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        found.append((tree, key))
        _places(value, found)
    return found
