"""REDbot, lint for HTTP, on what nginx answers: through the gate it finds nothing that it doesn't find without."""

import json
import subprocess
import sys
import unittest

from gate import Gate
from world import Nginx, ask

# What a resource's note may say more of behind the gate: nothing.
PATHS = ["/page.html", "/kept/style.css", "/kept/data.json", "/picture.png", "/private/page.html", "/stale/page.html"]
PATHS += ["/moved", "/nothing", "/empty.html"]

# One run of REDbot's event loop to a process.
NOTES = """
import json, sys
from configparser import ConfigParser
import thor
from redbot.resource import HttpResource

parser = ConfigParser()
parser.read_dict({"redbot": {"enable_local_access": "True"}})
headers = json.loads(sys.argv[3])
resources = []

def notes(resource):
    found = []
    for check in [resource, *resource.subreqs.values()]:
        for note in check.response.notes:
            for one in [note, *note.subnotes]:
                found.append([check.check_id if check is not resource else "", type(one).__name__, one.level.name, one.summary])
    return {"notes": found, "status": resource.response.status_code, "error": str(resource.fetch_error or "")}

def check(url):
    resource = HttpResource(parser["redbot"])
    resource.set_request(url, sys.argv[2], [tuple(header) for header in headers])
    resources.append(resource)
    done = lambda: thor.stop() if all(one.check_done for one in resources) else None
    resource.on("check_done", done)
    return resource

urls = json.loads(sys.argv[1])
for resource in [check(url) for url in urls]:
    resource.check()
thor.run()
print(json.dumps([notes(resource) for resource in resources]))
"""


def judge(urls, method="GET", headers=()):
    """REDbot's notes on each of these: what it was looking for, the note's name, its level, and its sentence."""
    arguments = [json.dumps(urls), method, json.dumps(headers)]
    run = subprocess.run([sys.executable, "-c", NOTES, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


class Proxied(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.nginx = Nginx()
        cls.addClassCleanup(cls.nginx.stop)
        page = b"<!doctype html><title>page</title>" + b"<p>a paragraph of a page</p>\n" * 200
        for path in ["page.html", "private/page.html", "stale/page.html"]:
            cls.nginx.put(path, page)
        cls.nginx.put("kept/style.css", b"p { color: black }\n" * 200)
        cls.nginx.put("kept/data.json", json.dumps(list(range(500))).encode())
        cls.nginx.put("picture.png", bytes(range(256)) * 40)
        cls.nginx.put("empty.html", b"")
        upstream = f'kind = "http"\nupstream = "{cls.nginx.url}"\nfence = "files"\n'
        cls.gate = Gate(f'[[resource]]\nname = "files"\n{upstream}')
        cls.addClassCleanup(cls.gate.stop)

    def compare(self, method="GET", headers=(), through=()):
        """`through`: headers that only the gate is sent."""
        direct = judge([self.nginx.url + path for path in PATHS], method, headers)
        proxied = judge([self.gate.url + path for path in PATHS], method, [*headers, *through])
        for path, before, behind in zip(PATHS, direct, proxied):
            with self.subTest(path, method=method):
                self.assertEqual((before["error"], behind["error"]), ("", ""))
                self.assertEqual(before["status"], behind["status"])
                known = {(check, name) for check, name, *_ in before["notes"]}
                new = [note for note in behind["notes"] if (note[0], note[1]) not in known]
                self.assertEqual([note for note in new if note[2] in ("BAD", "WARN")], [])
                lost = {(check, name) for check, name, level, _ in before["notes"] if level == "GOOD"}
                lost -= {(check, name) for check, name, *_ in behind["notes"]}
                self.assertEqual(lost, set(), "what was good before is not any more")
        return direct, proxied

    def test_nothing_new_is_found_behind_the_gate(self):
        direct, _ = self.compare()
        # REDbot looks at something: else this judges nothing.
        self.assertGreater(sum(len(one["notes"]) for one in direct), 50)
        self.assertTrue(any(check == "range" for one in direct for check, *_ in one["notes"]))

    def test_nor_with_a_token(self):
        self.compare(through=[("Fencing-Token", "7")])

    def test_nor_of_heads(self):
        self.compare("HEAD")

    def test_the_gates_own_answers(self):
        """Refusals and the state of a fence: REDbot finds nothing bad in them."""
        status, _, _ = ask(self.gate.address, "POST", "/-/fences/files/claim", [("Fencing-Token", "9")], b"")
        self.assertEqual(status, 200)
        own = ["/-/fences/files", "/-/nothing", "/-/healthz", "/-/openapi.json", "/-/elections/files"]
        admin = ["/v1/fences", "/v1/fences/files", "/v1/nothing", "/v1/openapi.json", "/metrics", "/", "/console/main.js"]
        urls = [self.gate.url + path for path in own] + [self.gate.admin_url + path for path in admin]
        stale = judge([self.gate.url + "/page.html"], "GET", [("Fencing-Token", "8")])
        self.assertEqual(stale[0]["status"], 412)
        for url, found in zip([*urls, "stale"], judge(urls) + stale):
            with self.subTest(url):
                self.assertEqual([note for note in found["notes"] if note[2] == "BAD"], [])
