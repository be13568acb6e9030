"""Judges that no package registry has, run from where the user has them (docs/judges.md): h2spec, and libSQL clients' own test suites.

H2SPEC names h2spec's program, else one in PATH is taken. SUITE names checkouts of clients with tests for jest, separated by `:`, in
which their own tests can run already. What a judge finds must be what KNOWN says, no more and no less: a deviation is a decision.
"""

import datetime
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gate import Gate
from world import Nginx

# By judge: what it finds, and why that stays.
KNOWN = {
    # A connection whose first bytes are not HTTP/2's is one of HTTP/1.1: it is answered 400 there, and closed.
    "h2spec over TCP": {"http2/3.5: Sends invalid connection preface"},
    "h2spec over TLS": set(),
    "@libsql/hrana-client, Hrana 2": set(),
    "@libsql/hrana-client, Hrana 3": set(),
    "@libsql/client": set(),
}
# h2spec looks at what comes next, and sometimes that is an answer that was under way already: to a write without a token, which is
# refused before its body has come, as RFC 9113, section 8.1, lets a server do; to a request that is taken back just then. What it finds
# each time is found.
TIMES = 5


def certificate(folder):
    """A certificate for loopback that signs itself; the files of it and of its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = Path(folder, "certificate.pem"), Path(folder, "key.pem")
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(*private))
    return files


def h2spec(program):
    """Its suites `generic`, `hpack` and `http2` on a proxied page and on SQL, over TCP and over TLS."""
    with tempfile.TemporaryDirectory(prefix="fencegate-h2spec-") as folder:
        nginx = Nginx()
        nginx.put("page.html", b"<p>a paragraph of a page</p>\n" * 200)
        resources = f'''
            [[resource]]
            name = "files"
            path = "/files"
            kind = "http"
            upstream = "{nginx.url}"
            [[resource]]
            name = "app"
            path = "/app"
            kind = "sqlite"
            file = "app.db"
        '''
        chain, key = certificate(folder)
        for name, tls, extra in [
            ("h2spec over TCP", "", []),
            ("h2spec over TLS", f'[tls]\ncert = "{chain}"\nkey = "{key}"\n', ["-t", "-k"]),
        ]:
            gate = Gate(tls + resources)
            host, port = gate.address.split(":")
            for path in ["/files/page.html", "/app/v3/pipeline"]:
                report = Path(folder, "report.xml")
                command = [program, "-h", host, "-p", port, "-P", path, "-o", "10", "-j", report, *extra]
                found = []
                for _ in range(TIMES):
                    subprocess.run(command, stdout=subprocess.DEVNULL, check=False, timeout=600)
                    cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
                    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
                    found.append({f"{case.get('package')}: {case.get('classname')}" for case in failed})
                yield f"{name}, {path}", name, len(cases), set.intersection(*found)
            gate.stop()
        nginx.stop()


def suite(checkout):
    """A client's own tests, against a gate before an empty database, with token 7."""
    package = json.loads(Path(checkout, "package.json").read_text())["name"]
    runs = {
        # Its tests are told which version to expect; the client finds out which there is.
        "@libsql/hrana-client": [("@libsql/hrana-client, Hrana 2", {"VERSION": "2"}), ("@libsql/hrana-client, Hrana 3", {"VERSION": "3"})],
        # Over HTTP the client knows version 3 only in the encoding that isn't JSON: with the gate it speaks version 2.
        "@libsql/client": [("@libsql/client", {"SERVER": "test_v2"})],
    }
    for name, told in runs[package]:
        gate = Gate()
        with tempfile.TemporaryDirectory(prefix="fencegate-suite-") as folder:
            report = Path(folder, "report.json")
            environment = {**os.environ, **told, "URL": gate.url, "JWT": "fgt.7", "AUTH_TOKEN": "fgt.7"}
            command = ["npm", "test", "--", "--json", "--outputFile", report]
            subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False, timeout=600)
            tests = [test for file in json.loads(report.read_text())["testResults"] for test in file["assertionResults"]]
        gate.stop()
        ran = [test for test in tests if test["status"] in ("passed", "failed")]
        yield name, name, len(ran), {test["fullName"] for test in ran if test["status"] == "failed"}


def main():
    program = os.environ.get("H2SPEC") or shutil.which("h2spec")
    checkouts = [checkout for checkout in os.environ.get("SUITE", "").split(":") if checkout]
    runs = [h2spec(program)] if program else []
    runs += [suite(checkout) for checkout in checkouts]
    is_good = True
    for run in runs:
        for title, judge, ran, found in run:
            print(f"{title}: {ran} tests, {len(found)} failed", flush=True)
            for name in sorted(found - KNOWN[judge]):
                print(f"  new: {name}")
            for name in sorted(KNOWN[judge] - found):
                print(f"  known, and not found any more: {name}")
            is_good = is_good and ran > 0 and found == KNOWN[judge]
    if not program:
        print("SKIPPED: h2spec is not here: name its program in H2SPEC (docs/judges.md says where it comes from)", flush=True)
    if not checkouts:
        print("SKIPPED: no client's test suite: name checkouts in SUITE (docs/judges.md)", flush=True)
    return 0 if is_good and runs else 1


if __name__ == "__main__":
    sys.exit(main())
