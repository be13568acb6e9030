"""A real gate process for one test class, on free ports, with its data in a temporary folder."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = os.environ.get("FENCEGATE", str(ROOT / "target/debug/fencegate"))


class Gate:
    def __init__(self, config=None):
        """`config`: the text of its configuration; without it, the drivers' own."""
        self.dir = tempfile.mkdtemp(prefix="fencegate-python-")
        # Paths in it are relative to where it is.
        file = Path(self.dir, "gate.toml")
        file.write_text(config or (ROOT / "tests/drivers/gate.toml").read_text())
        args = ["--config", str(file), "--data-dir", f"{self.dir}/data", "--log", "warn"]
        args += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        self.process = subprocess.Popen([PROGRAM, "serve", *args], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.address, self.admin_address = re.search(r"data=(\S+) admin=(\S+)", line).groups()
        self.url, self.admin_url = f"http://{self.address}", f"http://{self.admin_address}"

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.dir)
