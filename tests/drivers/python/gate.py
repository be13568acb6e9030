"""A real gate process for one test class, on a free port, with its data in a temporary folder."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = os.environ.get("FENCEGATE", str(ROOT / "target/debug/fencegate"))


class Gate:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="fencegate-python-")
        # Paths in it are relative to where it is.
        config = shutil.copy(ROOT / "tests/drivers/gate.toml", self.dir)
        args = ["--config", config, "--data-dir", f"{self.dir}/data", "--log", "warn"]
        args += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        self.process = subprocess.Popen([PROGRAM, "serve", *args], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.address = re.search(r"data=(\S+)", line).group(1)
        self.url = f"http://{self.address}"

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.dir)
