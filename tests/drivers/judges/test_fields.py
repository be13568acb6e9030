"""Headers that are, or look like, structured fields (RFC 9651): the gate's reading against that of http-sf.

`Fencing-Token` is no structured field, since fences have names that are no keys and tokens more than 15 digits. But a client that
makes it with a library for structured fields must be read as it meant, and nothing that such a library reads may be read otherwise.
STRUCTURED_FIELD_TESTS may name a checkout of httpwg/structured-field-tests: then its test cases are judged, too.
"""

import http.client
import json
import os
import re
import unittest
from pathlib import Path

import http_sf
from gate import Gate
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from world import Breaking, ask

# The gate's own grammar, as docs/http.md has it. OWS is what HTTP calls so.
TOKEN = "[1-9][0-9]{0,18}"
NAMED = f"[A-Za-z0-9._:@/-]{{1,255}}={TOKEN}"
GRAMMAR = re.compile(f"{TOKEN}|{NAMED}(?:[ \t]*,[ \t]*{NAMED})*", re.ASCII)
TOKEN_MAX = 2**63 - 1

# The types of error of RFC 9209, section 2.3.
PROXY_ERRORS = set("""
    dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited destination_ip_unroutable
    connection_refused connection_terminated connection_timeout connection_read_timeout connection_write_timeout
    connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received http_request_error http_request_denied
    http_response_incomplete http_response_header_section_size http_response_header_size http_response_body_size
    http_response_trailer_section_size http_response_trailer_size http_response_transfer_coding http_response_content_coding
    http_response_timeout http_upgrade_failed http_protocol_error proxy_internal_response proxy_internal_error
    proxy_configuration_error proxy_loop_detected
""".split())

CONFIG = """
[[resource]]
name = "any"
kind = "http"
path = "/any"
upstream = "{upstream}"
fence = "{{1}}"

"""

TABLES = """
[[resource]]
name = "app"
kind = "sqlite"
file = "app.db"
tables = { "a" = "a-1", "b" = "b_2.x" }
"""


def by_grammar(text):
    """What the gate's grammar makes of a value: fence (none for a bare token) and token, in order; None: nothing."""
    text = text.strip(" \t")
    if not GRAMMAR.fullmatch(text):
        return None
    parts = [part.strip(" \t") for part in text.split(",")]
    found = [(part.split("=")[0], int(part.split("=")[1])) if "=" in part else (None, int(part)) for part in parts]
    names = [name for name, _ in found]
    is_one = len(set(names)) == len(names) <= 64 and all(token <= TOKEN_MAX for _, token in found)
    return found if is_one else None


def by_library(text):
    """What http-sf makes of it, in the same form; None where that is nothing that a token could be."""
    try:
        value, parameters = http_sf.parse(text.encode(), tltype="item")
        if not parameters and type(value) is int and value > 0:
            return [(None, value)]
    except http_sf.StructuredFieldError:
        pass
    try:
        members = http_sf.parse(text.encode(), tltype="dictionary")
    except http_sf.StructuredFieldError:
        return None
    found = [(name, value) for name, (value, parameters) in members.items() if type(value) is int and value > 0 and not parameters]
    return found if found and len(found) == len(members) else None


class Tokens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.upstream = Breaking()
        cls.addClassCleanup(cls.upstream.stop)
        cls.gate = Gate(CONFIG.format(upstream=cls.upstream.url))
        cls.addClassCleanup(cls.gate.stop)

    def read(self, *lines):
        """What the gate reads in these header lines; None where that is nothing."""
        try:
            headers = [("Fencing-Token", line.encode("latin-1")) for line in lines]
            status, answered, body = ask(self.gate.address, "POST", "/-/fences/some-fence/claim", headers, b"")
        except (UnicodeEncodeError, ValueError, http.client.HTTPException):
            # Not even a header: nobody can send it.
            return None
        # Not HTTP for the gate, or a fence of that name that can't be.
        if status == 400 and not body:
            return None
        problem = json.loads(body)
        if problem.get("code") == "TOKEN_MALFORMED":
            return None
        self.assertIn(problem.get("code", "OK"), ["OK", "STALE_TOKEN", "WRONG_FENCE"], problem)
        return problem.get("presented") or problem.get("token") or problem["code"]

    def judge(self, text):
        """The gate reads what its grammar says and nothing else; and where a library reads the same text, it reads the same."""
        grammar, library, gate = by_grammar(text), by_library(text), self.read(text)
        self.assertEqual(gate is not None, grammar is not None, f"{text!r}: {gate}")
        if grammar and len(grammar) == 1 and grammar[0][0] in (None, "some-fence"):
            self.assertEqual(gate, str(grammar[0][1]), repr(text))
        if grammar and library:
            self.assertEqual(dict(grammar), dict(library), repr(text))

    PIECES = ["some-fence", "a", "B/c:d@e", "=", ",", ", ", "\t,", " ", "7", "12", "0", "07", "-1", "+1", "1.5", "?1", '"x"', ":YQ==:"]
    PIECES += [";x", ";q=1", "(1 2)", "*a", "999999999999999", "1000000000000000", "9223372036854775807", "9223372036854775808", "@1"]

    @seed(1)
    @settings(max_examples=1000, deadline=None, database=None)
    @given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.from_regex(GRAMMAR, fullmatch=True)))
    def test_the_gate_reads_its_grammar_and_what_a_library_reads_it_reads_the_same(self, text):
        self.judge(text)

    KEY = st.from_regex(re.compile("[a-z*][a-z0-9_.*-]{0,20}", re.ASCII), fullmatch=True).filter(lambda key: "*" not in key)

    @seed(2)
    @settings(max_examples=300, deadline=None, database=None)
    @given(st.one_of(st.integers(1, 10**15 - 1), st.dictionaries(KEY, st.integers(1, 10**15 - 1), min_size=1, max_size=64)))
    def test_what_a_library_writes_the_gate_reads(self, value):
        text = http_sf.ser(value)
        self.assertEqual(by_library(text), by_grammar(text))
        self.judge(text)

    def test_several_lines_are_never_joined(self):
        """A library reads two lines as one value; a token that stands twice is malformed, since one of them may be somebody else's."""
        for lines in [("a=1", "b=2"), ("7", "7"), ("some-fence=3", "some-fence=3")]:
            self.assertIsNone(self.read(*lines), lines)

    def test_what_is_answered_for_several_fences_is_a_dictionary(self):
        """Names that are keys, tokens below 10^15: a library writes the request, and reads the same in the answer."""
        gate = Gate(TABLES)
        self.addCleanup(gate.stop)
        for number in range(1, 20):
            tokens = {"app": number, "a-1": 10**15 - 100 + number, "b_2.x": 50 + number}
            body = json.dumps({"requests": [{"type": "execute", "stmt": {"sql": "SELECT 1"}}, {"type": "close"}]}).encode()
            token = [("Fencing-Token", http_sf.ser(tokens))]
            status, headers, answer = ask(gate.address, "POST", "/v3/pipeline", token, body)
            self.assertEqual(status, 200, answer)
            read = http_sf.parse(headers["fencing-highest"].encode(), tltype="dictionary")
            self.assertEqual({name: value for name, (value, _) in read.items()}, tokens)
            verdict, _ = http_sf.parse(headers["fencing-verdict"].encode(), tltype="item")
            self.assertEqual((type(verdict), str(verdict)), (http_sf.Token, "advanced"))

    def the_working_groups_test_cases(self):
        judged = 0
        for file in sorted(Path(os.environ["STRUCTURED_FIELD_TESTS"]).glob("*.json")):
            for case in json.loads(file.read_text()):
                if case["header_type"] not in ("item", "dictionary"):
                    continue
                with self.subTest(file.name, case=case["name"]):
                    if len(case["raw"]) != 1:
                        self.assertIsNone(self.read(*case["raw"]))
                        continue
                    text = case["raw"][0]
                    self.judge(text)
                    # Where the cases say what it is, that is what the gate has read, if it has read it.
                    grammar = by_grammar(text)
                    if grammar and not case.get("must_fail"):
                        expected = case["expected"]
                        items = [(None, expected)] if case["header_type"] == "item" else expected
                        self.assertEqual(grammar, [(name, value) for name, (value, parameters) in items])
                    judged += 1
        self.assertGreater(judged, 500)

    if os.environ.get("STRUCTURED_FIELD_TESTS"):
        test_the_working_groups_test_cases = the_working_groups_test_cases


class ProxyStatus(unittest.TestCase):
    """RFC 9209: a list of proxies, each with what went wrong there."""

    def test_whatever_the_gate_answers_for_a_service(self):
        upstream = Breaking()
        gate = Gate(CONFIG.format(upstream=upstream.url))
        self.addCleanup(gate.stop)
        token = lambda value: [("Fencing-Token", value)]
        self.assertEqual(ask(gate.address, "POST", "/-/fences/held/claim", token("9"), b"")[0], 200)
        self.assertEqual(ask(gate.address, "POST", "/-/fences/wait/claim", token("9"), b"")[0], 200)
        requests = {
            "http_response_incomplete": ("PUT", "/any/wait", token("9")),
            "http_request_denied": ("PUT", "/any/held", token("8")),
            "http_request_error": ("PUT", "/any/held/%2e%2e", token("9")),
        }
        found = {error: self.answered(gate, *request) for error, request in requests.items()}
        found["quarantined"] = self.answered(gate, "PUT", "/any/wait", token("10"))
        found["missing"] = self.answered(gate, "PUT", "/any/held", [])
        upstream.stop()
        found["unreachable"] = self.answered(gate, "PUT", "/any/held", token("9"))
        for error in requests:
            self.assertEqual(found[error][0], error)
        self.assertEqual(
            {detail for _, detail in found.values()},
            {"OUTCOME_UNKNOWN", "STALE_TOKEN", "AMBIGUOUS_PATH", "QUARANTINED", "TOKEN_REQUIRED", "UPSTREAM_UNREACHABLE"},
        )

    def answered(self, gate, method, path, headers):
        _, answered, body = ask(gate.address, method, path, headers, b"x")
        members = http_sf.parse(answered["proxy-status"].encode(), tltype="list")
        [(proxy, parameters)] = members
        self.assertEqual((type(proxy), str(proxy)), (http_sf.Token, "fencegate"))
        self.assertEqual(set(parameters), {"error", "details"})
        self.assertIs(type(parameters["error"]), http_sf.Token)
        self.assertIn(str(parameters["error"]), PROXY_ERRORS)
        self.assertEqual(parameters["details"], json.loads(body)["code"])
        return str(parameters["error"]), parameters["details"]
