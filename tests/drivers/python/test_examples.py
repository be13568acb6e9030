"""examples/python and examples/node: the token from the environment that `fencegate lead` gives, and from etcd directly."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

from gate import ROOT, Gate

PYTHON, NODE = [sys.executable, "-u"], ["node"]
WORKERS = {"python": PYTHON + [str(ROOT / "examples/python/worker.py")], "node": NODE + [str(ROOT / "examples/node/worker.mjs")]}
LEADERS = {
    "python": PYTHON + [str(ROOT / "examples/python/etcd_leader.py")],
    "node": NODE + [str(ROOT / "examples/node/etcd_leader.mjs")],
}


def post(url, body, headers=None):
    request = urllib.request.Request(url, json.dumps(body).encode(), headers or {}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


class Workers(unittest.TestCase):
    def setUp(self):
        self.gate = Gate()
        self.addCleanup(self.gate.stop)

    def run_worker(self, worker, token):
        environment = {
            **os.environ,
            "FENCEGATE_URL": self.gate.url,
            "FENCING_FENCE": "app",
            "FENCING_TOKEN": str(token),
            "FENCING_HOLDER": "node-a",
            "FENCEGATE_AUTH_TOKEN": f"fgt.{token}.bm9kZS1h",
            "BEATS": "2",
            "EVERY": "0",
        }
        return subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def test_a_worker_of_lead_writes_until_it_is_replaced(self):
        for token, (name, worker) in enumerate(WORKERS.items(), start=5):
            with self.subTest(name):
                led = self.run_worker(worker, 10 * token)
                self.assertEqual((led.returncode, led.stdout), (0, "written\nwritten\n"), led.stderr)
                post(f"{self.gate.url}/-/fences/app/claim", {}, {"Fencing-Token": str(10 * token + 1)})
                late = self.run_worker(worker, 10 * token)
                self.assertEqual((late.returncode, late.stdout), (1, ""), late.stderr)
                self.assertIn("You've been replaced", late.stderr)
        count = {"type": "execute", "stmt": {"sql": "SELECT group_concat(token) FROM beats"}}
        answer = post(f"{self.gate.url}/v3/pipeline", {"requests": [count, {"type": "close"}]})
        self.assertEqual(answer["results"][0]["response"]["result"]["rows"][0][0]["value"], "50,50,60,60")


class Etcd:
    """An etcd of one member."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="fencegate-etcd-")
        with socket.socket() as one, socket.socket() as two:
            ports = []
            for held in (one, two):
                held.bind(("127.0.0.1", 0))
                ports.append(held.getsockname()[1])
        self.url, peers = (f"http://127.0.0.1:{port}" for port in ports)
        arguments = ["--data-dir", self.dir, "--name", "one", "--initial-cluster", f"one={peers}", "--unsafe-no-fsync"]
        arguments += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url, "--log-level", "error"]
        arguments += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--logger", "zap"]
        arguments += ["--heartbeat-interval", "50", "--election-timeout", "500"]
        self.process = subprocess.Popen(["etcd", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not self.is_there():
            if self.process.poll() is not None:
                raise OSError("etcd did not start")

    def is_there(self):
        try:
            return bool(post(f"{self.url}/v3/kv/range", {"key": "YQ=="}))
        except OSError:
            return False

    def first_candidate(self, election):
        """The holder and the create revision of the key that leads."""
        prefix = f"{election}/".encode()
        after = prefix[:-1] + bytes([prefix[-1] + 1])
        body = {"key": base64.b64encode(prefix).decode(), "range_end": base64.b64encode(after).decode()}
        body |= {"sort_target": "CREATE", "sort_order": "ASCEND", "limit": "1"}
        found = post(f"{self.url}/v3/kv/range", body)["kvs"][0]
        return base64.b64decode(found["value"]).decode(), found["create_revision"]

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir)


@unittest.skipUnless(shutil.which("etcd"), "SKIPPED: etcd is not installed (scripts/ensure etcd)")
class Leaders(unittest.TestCase):
    def setUp(self):
        self.gate, self.etcd = Gate(), Etcd()
        self.addCleanup(self.gate.stop)
        self.addCleanup(self.etcd.stop)

    def start(self, name):
        environment = {**os.environ, "FENCEGATE_URL": self.gate.url, "ETCD": self.etcd.url, "ELECTION": "app"}
        environment |= {"FENCING_HOLDER": name, "LEASE_S": "2", "EVERY": "0.05"}
        process = subprocess.Popen(LEADERS[name], env=environment, stdout=subprocess.PIPE, text=True)

        def end():
            process.kill()
            process.wait()
            process.stdout.close()

        self.addCleanup(end)
        return process

    def until(self, process, start):
        """Reads until a line starts so; the rest of it."""
        said = []
        for line in process.stdout:
            if line.startswith(start):
                return line[len(start) :].strip()
            said.append(line)
        self.fail(f"it ended, and said {said[-20:]}")

    def test_each_takes_over_from_the_other_when_that_is_paused(self):
        for name, other in (("python", "node"), ("node", "python")):
            with self.subTest(name):
                first = self.start(name)
                token = self.until(first, "leading with token ")
                self.assertEqual(self.etcd.first_candidate("app"), (name, token))
                self.until(first, "written")
                second = self.start(other)
                first.send_signal(signal.SIGSTOP)
                next_token = self.until(second, "leading with token ")
                self.assertGreater(int(next_token), int(token))
                self.until(second, "written")
                first.send_signal(signal.SIGCONT)
                # By its own clock, or by the gate's refusal if its request was under way.
                lines = iter(first.stdout)
                ends = next(line for line in lines if line.startswith(("the leadership is lost", "replaced")))
                self.assertTrue(ends)
                # And it stands again.
                second.kill()
                self.assertGreater(int(self.until(first, "leading with token ")), int(next_token))
                first.kill()
        written = {"type": "execute", "stmt": {"sql": "SELECT token FROM beats ORDER BY rowid"}}
        answer = post(f"{self.gate.url}/v3/pipeline", {"requests": [written, {"type": "close"}]})
        tokens = [int(row[0]["value"]) for row in answer["results"][0]["response"]["result"]["rows"]]
        self.assertEqual(tokens, sorted(tokens), "no leader writes after its successor")


if __name__ == "__main__":
    unittest.main()
