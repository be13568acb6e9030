"""A worker that `fencegate lead … -- python3 worker.py` runs while it leads. The standard library is all it needs.

`lead` has claimed the fence already, and ends this process when the leadership is lost. What this process writes carries the
token, so that a write which comes too late all the same is refused.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

GATE = os.environ.get("FENCEGATE_URL", "http://127.0.0.1:7070")
FENCE = os.environ["FENCING_FENCE"]
HEADERS = {"Fencing-Token": f"{FENCE}={os.environ['FENCING_TOKEN']}", "Content-Type": "application/json"}
if os.environ.get("FENCING_HOLDER"):
    HEADERS["Fencing-Holder"] = os.environ["FENCING_HOLDER"]


class Replaced(Exception):
    """Somebody with a higher token has claimed the fence. Nothing was applied; stop."""


class NotApplied(Exception):
    """Surely not applied: it may be tried again."""


class Unknown(Exception):
    """It may or may not have been applied: look before trying again."""


def post(path, body):
    """Sends one request with the token; the answer's JSON."""
    request = urllib.request.Request(GATE + path, json.dumps(body).encode(), HEADERS, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            problem = json.load(error)
        except (OSError, ValueError):
            raise Unknown(f"status {error.code}") from error
        message = problem.get("message", f"status {error.code}")
        if error.headers.get("Fencing-Verdict") == "stale":
            raise Replaced(message) from error
        if problem.get("applied") == "no":
            raise NotApplied(message) from error
        raise Unknown(message) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            raise NotApplied(str(error)) from error
        raise Unknown(str(error)) from error
    except (OSError, ValueError) as error:
        raise Unknown(str(error)) from error


def value(of):
    """A value as Hrana has it. Whole numbers are texts there."""
    if of is None:
        return {"type": "null"}
    if isinstance(of, float):
        return {"type": "float", "value": of}
    if isinstance(of, int):
        return {"type": "integer", "value": str(of)}
    return {"type": "text", "value": str(of)}


def sql(statement, *args, path="/v3/pipeline"):
    """Runs one statement in a transaction of its own; its rows."""
    work = {"type": "execute", "stmt": {"sql": statement, "args": [value(arg) for arg in args]}}
    answer = post(path, {"requests": [work, {"type": "close"}]})
    result = answer["results"][0]
    if result["type"] == "error":
        raise RuntimeError(result["error"]["message"])
    return [[cell.get("value") for cell in row] for row in result["response"]["result"]["rows"]]


def main():
    sql("CREATE TABLE IF NOT EXISTS beats (who TEXT, token INTEGER)")
    for _ in range(int(os.environ.get("BEATS", "1000000000"))):
        try:
            who, token = os.environ.get("FENCING_HOLDER"), int(os.environ["FENCING_TOKEN"])
            sql("INSERT INTO beats VALUES (?, ?)", who, token)
            print("written", flush=True)
        except Replaced as why:
            sys.exit(f"replaced: {why}")
        except (NotApplied, Unknown) as why:
            # One beat more or less does no harm. A write that must come once is looked for first.
            print(f"trying again: {why}", flush=True)
        time.sleep(float(os.environ.get("EVERY", "1")))


if __name__ == "__main__":
    main()
