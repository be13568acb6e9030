"""schemathesis on both listeners' OpenAPI documents: requests made from the document, answers held against it."""

import base64
import copy
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import jsonschema_rs
from gate import Gate
from world import Breaking, ask, post

# A principal's secret: `fgs.` and 32 bytes in base64url.
SECRET = "fgs." + base64.urlsafe_b64encode(bytes([7]) * 32).decode().rstrip("=")
SECRET_HASH = "sha256:" + hashlib.sha256(bytes([7]) * 32).hexdigest()

RESOURCES = """
[[resource]]
name = "app"
kind = "sqlite"
file = "app.db"
path = "/app"

[[resource]]
name = "stock"
kind = "http"
path = "/stock"
upstream = "{upstream}"
fence = "stock/{{1}}"
on_unknown = "hold"
"""

PRINCIPAL = """
[[principal]]
name = "all"
secret_hash = "{hash}"
grants = [{{ rights = ["observe", "read", "claim", "write", "operate"] }}]
"""

CONFIG = """
seed = 1
color = false
[cache]
enabled = false
[generation]
database = "none"
max-examples = {examples}
[phases.fuzzing]
enabled = {random}
[phases.stateful]
enabled = {random}
max-steps = 6
[phases.coverage]
generate-duplicate-query-parameters = true
# That nothing is there for a name, or that the claim comes too late, is no refusal of what was sent.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "404", "409", "410", "412"]
[dictionaries.fences]
values = ["app", "stock/a", "stock/quarantined", "no-resource-has-it"]
[dictionaries.files]
values = ["main.js", "console.css", "icon.svg", "nothing.js"]
[parameters]
"path.fence" = {{ dictionary = "fences", probability = 0.8 }}
"path.election" = {{ dictionary = "fences", probability = 0.8 }}
"path.file" = {{ dictionary = "files", probability = 0.8 }}
# A HEAD is a GET whose body isn't sent: the cases that coverage makes are enough for it.
[[operations]]
include-method = "HEAD"
phases.fuzzing.enabled = false
phases.stateful.enabled = false
"""

# It has no end, which schemathesis would wait for.
WITHOUT_EVENTS = """
[[operations]]
include-operation-id = "events"
enabled = false
"""

# Waits are made short: what is to be judged is what the gate makes of the parameter. And of two parameters that can't stand
# together, which OpenAPI has no words for, one is taken away.
HOOKS = """
import schemathesis

def shortened(waits):
    if isinstance(waits, dict) and isinstance(waits.get("wait_ms"), int) and 0 <= waits["wait_ms"] <= 60000:
        waits["wait_ms"] = min(waits["wait_ms"], 20)

@schemathesis.hook
def before_call(context, case, kwargs):
    shortened(case.query)
    shortened(case.body)
    if isinstance(case.query, dict) and "after" in case.query:
        case.query.pop("while", None)
"""


def strict(document):
    """The document, where an answer may have no members but those that it names: what the gate says, it has to describe."""
    document = copy.deepcopy(document)

    def close(schema):
        if isinstance(schema, dict):
            if "properties" in schema and "additionalProperties" not in schema:
                schema["additionalProperties"] = False
            for value in schema.values():
                close(value)
        elif isinstance(schema, list):
            for value in schema:
                close(value)

    for name, schema in document["components"]["schemas"].items():
        # Of what it is sent, the gate ignores what it doesn't know.
        if not name.endswith("Request"):
            close(schema)
    return document


def guarded(document):
    """The document of a gate that has principals: without a secret, nobody gets anything."""
    document = copy.deepcopy(document)
    document["security"] = [{"bearer": []}]
    return document


class Judged(unittest.TestCase):
    LISTENERS = {"admin": "/v1/openapi.json", "data": "/-/openapi.json"}

    def start(self, principal=""):
        upstream = Breaking()
        self.addCleanup(upstream.stop)
        gate = Gate(RESOURCES.format(upstream=upstream.url) + principal)
        self.addCleanup(gate.stop)
        secret = [("Authorization", f"Bearer {SECRET}")] if principal else []
        # Something to see: marks, holders, refusals, and a fence that waits for an operator.
        for fence, token in [("app", 5), ("app", 7), ("stock%2Fa", 3)]:
            claim = [*secret, ("Fencing-Token", str(token)), ("Fencing-Holder", "node-a")]
            self.assertEqual(ask(gate.address, "POST", f"/-/fences/{fence}/claim", claim, b"")[0], 200)
        self.assertEqual(ask(gate.address, "POST", "/-/fences/app/claim", [*secret, ("Fencing-Token", "6")], b"")[0], 412)
        self.assertEqual(ask(gate.address, "PUT", "/stock/quarantined", [*secret, ("Fencing-Token", "1")], b"x")[0], 502)
        self.assertEqual(ask(gate.address, "PUT", "/stock/quarantined", [*secret, ("Fencing-Token", "2")], b"x")[0], 503)
        return gate, secret

    def document(self, gate, listener):
        address = gate.admin_address if listener == "admin" else gate.address
        status, headers, body = ask(address, "GET", self.LISTENERS[listener])
        self.assertEqual((status, headers["content-type"]), (200, "application/json"))
        return json.loads(body)

    def schemathesis(self, document, url, examples, config="", arguments=()):
        """`examples`: how many random cases for each path; with none, only those that the document itself suggests."""
        with tempfile.TemporaryDirectory(prefix="fencegate-schemathesis-") as folder:
            for name, text in [
                ("document.json", json.dumps(document)),
                ("schemathesis.toml", CONFIG.format(examples=max(examples, 1), random=str(examples > 0).lower()) + config),
                ("shortened.py", HOOKS),
            ]:
                Path(folder, name).write_text(text)
            program = Path(sys.executable).parent / "schemathesis"
            command = [program, "--config-file", "schemathesis.toml", "run", "document.json", "--url", url, *arguments]
            environment = {**os.environ, "SCHEMATHESIS_HOOKS": "shortened", "PYTHONPATH": folder}
            run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
        return run.returncode, run.stdout + run.stderr

    def judge(self, listener, gate, document, examples, config=""):
        url = gate.admin_url if listener == "admin" else gate.url
        config += WITHOUT_EVENTS if listener == "admin" else ""
        code, said = self.schemathesis(document, url, examples, config)
        self.assertEqual(code, 0, said)
        # It has sent something.
        generated = re.search(r"([0-9]+) generated", said)
        self.assertTrue(generated and int(generated.group(1)) > 200, said)


class Open(Judged):
    """A gate without principals."""

    def test_admin(self):
        gate, _ = self.start()
        self.judge("admin", gate, strict(self.document(gate, "admin")), 10)

    def test_data(self):
        gate, _ = self.start()
        self.judge("data", gate, strict(self.document(gate, "data")), 10)

    def test_a_gate_that_does_something_else_is_found_out(self):
        """The negative control: of a document that says otherwise, schemathesis says that it isn't so."""
        gate, _ = self.start()
        document = strict(self.document(gate, "admin"))
        document["paths"] = {path: document["paths"][path] for path in ["/v1/status", "/v1/fences"]}
        status = document["components"]["schemas"]["Status"]
        del status["properties"]["uptime_ms"]
        status["required"].remove("uptime_ms")
        responses = document["paths"]["/v1/fences"]["get"]["responses"]
        del responses["400"], responses["200"]["links"]
        code, said = self.schemathesis(document, gate.admin_url, 5)
        self.assertEqual(code, 1, said)
        for found in ["Response violates schema", "Undocumented status code"]:
            self.assertIn(found, said)

    def test_events(self):
        gate, _ = self.start()
        document = strict(self.document(gate, "admin"))
        schemas = {
            name: jsonschema_rs.validator_for({**document["components"]["schemas"][name], "components": document["components"]})
            for name in ["Event", "Lost"]
        }
        host, port = gate.admin_address.split(":")
        with socket.create_connection((host, int(port))) as stream:
            stream.sendall(f"GET /v1/events HTTP/1.1\r\nhost: {gate.admin_address}\r\n\r\n".encode())
            lines = stream.makefile(encoding="utf-8", newline="\n")
            head = []
            while (line := next(lines).strip()) != ": watching":
                head.append(line.lower())
            self.assertIn("200", head[0])
            self.assertIn("content-type: text/event-stream", head)
            for token, status in [(8, 200), (7, 412)]:
                claim = [("Fencing-Token", str(token)), ("Fencing-Holder", "node-b")]
                self.assertEqual(ask(gate.address, "POST", "/-/fences/app/claim", claim, b"")[0], status)
            reset = {"highest": None, "reason": "the judges look at it"}
            self.assertEqual(post(gate.admin_address, "/v1/fences/app/reset", reset)[0], 200)
            release = {"reason": "nothing is on its way"}
            self.assertEqual(post(gate.admin_address, "/v1/fences/stock%2Fquarantined/release", release)[1]["released"], True)
            missing = {"advanced", "stale", "reset", "released"}
            while missing:
                line = next(lines).strip()
                if line.startswith("event: "):
                    event, data = line.removeprefix("event: "), json.loads(next(lines).strip().removeprefix("data: "))
                    schemas["Lost" if event == "lost" else "Event"].validate(data)
                    self.assertEqual(data["event"], event)
                    missing.discard(event)
        for method in ["POST", "HEAD", "OPTIONS", "DELETE"]:
            status, headers, _ = ask(gate.admin_address, method, "/v1/events")
            self.assertEqual((status, headers["allow"]), (405, "GET"))


class Guarded(Judged):
    """A gate with principals."""

    def start(self):
        return super().start(PRINCIPAL.format(hash=SECRET_HASH))

    CONFIG = f'\n[auth.openapi.bearer]\nbearer = "{SECRET}"\n'

    def test_admin(self):
        gate, _ = self.start()
        self.judge("admin", gate, guarded(self.document(gate, "admin")), 0, self.CONFIG)

    def test_data(self):
        gate, _ = self.start()
        self.judge("data", gate, guarded(self.document(gate, "data")), 0, self.CONFIG)

    def test_what_needs_nobody_says_so(self):
        """What the document calls open is open, and nothing else: each path asked without a secret."""
        gate, _ = self.start()
        for listener in self.LISTENERS:
            address = gate.admin_address if listener == "admin" else gate.address
            for path, methods in self.document(gate, listener)["paths"].items():
                for method, operation in methods.items():
                    asked = path.replace("{fence}", "app").replace("{election}", "app").replace("{file}", "main.js")
                    status, _, _ = ask(address, method.upper(), asked, [("Fencing-Token", "9")], b"{}" if method == "post" else None)
                    with self.subTest(path, method=method):
                        self.assertEqual(status, 200 if operation.get("security") == [] else 401)
