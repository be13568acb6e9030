"""Leads an election in etcd and writes through a gate with the token of each term. The standard library is all it needs.

It speaks etcd's JSON gateway, and takes part in the same elections as `etcdctl elect` and `fencegate lead`. The token is the create
revision of the leader's key: never a header's revision, never the lease.
"""

import base64
import http.client
import json
import os
import sys
import threading
import time
import urllib.parse

ETCD = os.environ.get("ETCD", "http://127.0.0.1:2379")
GATE = os.environ.get("FENCEGATE_URL", "http://127.0.0.1:7070")


def now():
    """A clock that goes on while the machine is suspended: by any other, a laptop that was closed would lead on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def post(url, path, body, headers=None, timeout=None):
    """Sends one request; the answer's status and JSON."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


class Etcd:
    """What an election needs of etcd."""

    def __init__(self, url):
        self.url = url

    def ask(self, path, body, timeout=5):
        status, answer = post(self.url, path, body, timeout=timeout)
        if status != 200:
            raise OSError(f"etcd: {answer.get('error', answer)}")
        return answer

    def keep_alive(self, lease):
        """How many seconds the lease lasts from when this was sent; 0 where it is over. A dead lease is no error to etcd."""
        answer = self.ask("/v3/lease/keepalive", {"ID": lease})
        return int(answer.get("result", {}).get("TTL", 0))


class Leadership:
    """One term. `alive()` is asked before and after everything that is done for it."""

    def __init__(self, etcd, election, holder, ttl):
        self.etcd, self.ended = etcd, threading.Event()
        # A new lease for every term: on an old one etcd would give the old term's token again.
        sent = now()
        granted = etcd.ask("/v3/lease/grant", {"TTL": ttl})
        self.lease, self.ttl = granted["ID"], int(granted["TTL"])
        self.until = sent + 0.98 * self.ttl
        # The lease is kept while this waits for its turn, too.
        threading.Thread(target=self._keep, daemon=True).start()
        try:
            won = self._campaign(election, holder)
            self.key, self.token = won["leader"]["key"], int(won["leader"]["rev"])
            # The wait may have been long: whether the key is still there is asked again before anybody believes in it.
            found = etcd.ask("/v3/kv/range", {"key": self.key}).get("kvs", [])
            if not self.alive() or not found or int(found[0]["create_revision"]) != self.token:
                raise OSError("the election was won and lost at once")
        except BaseException:
            self.resign()
            raise

    def _campaign(self, election, holder):
        name, value = (base64.b64encode(of.encode()).decode() for of in (election, holder))
        while True:
            try:
                # Bounded, since a connection can break without a sign. Asked again, it stands at the end of the queue.
                return self.etcd.ask("/v3/election/campaign", {"name": name, "lease": self.lease, "value": value}, 240)
            except TimeoutError:
                if not self.alive():
                    raise

    def _keep(self):
        while not self.ended.wait(self.ttl / 3):
            try:
                # Counted from before it was sent: etcd starts its own count later, and so ends it later.
                sent = now()
                left = self.etcd.keep_alive(self.lease)
                if left == 0 or now() >= self.until:
                    self.ended.set()
                self.until = max(self.until, sent + 0.98 * left)
            except OSError:
                pass  # The next try may come through; until then the clock runs.

    def alive(self):
        """Whether the lease is known to be alive at this moment. Once it isn't, it never is again."""
        if now() >= self.until:
            self.ended.set()
        return not self.ended.is_set()

    def resign(self):
        """The next candidate leads at once, instead of when the lease runs out."""
        self.ended.set()
        try:
            self.etcd.ask("/v3/lease/revoke", {"ID": self.lease})
        except OSError:
            pass  # It runs out by itself.


def lead(leadership, fence, holder):
    """Claims the fence, then writes until the leadership is over."""
    headers = {"Fencing-Token": f"{fence}={leadership.token}", "Fencing-Holder": holder}
    status, answer = post(GATE, f"/-/fences/{urllib.parse.quote(fence, '')}/claim", {}, headers, timeout=60)
    if status != 200:
        sys.exit(f"the claim was refused: {answer.get('message', status)}")
    print(f"leading with token {leadership.token}", flush=True)
    statements = ["CREATE TABLE IF NOT EXISTS beats (who TEXT, token INTEGER)"]
    while leadership.alive():
        insert = {"sql": "INSERT INTO beats VALUES (?, ?)"}
        insert["args"] = [{"type": "text", "value": holder}, {"type": "integer", "value": str(leadership.token)}]
        requests = [{"type": "execute", "stmt": {"sql": sql}} for sql in statements]
        requests += [{"type": "execute", "stmt": insert}, {"type": "close"}]
        try:
            status, answer = post(GATE, "/v3/pipeline", {"requests": requests}, headers, timeout=60)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Whether it was applied isn't known. One beat more or less does no harm.
            status, answer = 0, {"message": str(error)}
        if answer.get("code") == "STALE_TOKEN":
            print(f"replaced: {answer['message']}", flush=True)
            return
        print("written" if status == 200 else f"not known to be written: {answer.get('message', status)}", flush=True)
        leadership.ended.wait(float(os.environ.get("EVERY", "1")))
    print("the leadership is lost", flush=True)


def main():
    election = os.environ.get("ELECTION", "main")
    holder = os.environ.get("FENCING_HOLDER", f"python-{os.getpid()}")
    while True:
        leadership = Leadership(Etcd(ETCD), election, holder, int(os.environ.get("LEASE_S", "10")))
        try:
            lead(leadership, election, holder)
        finally:
            leadership.resign()


if __name__ == "__main__":
    main()
