"""Google's Bigtable emulator, where it is installed."""

import os
import pathlib
import re
import shutil
import subprocess
import threading


def find():
    """The emulator's program, or nothing."""
    told = os.environ.get("CBTEMULATOR")
    candidates = [told] if told else []
    gcloud = shutil.which("gcloud")
    roots = ["/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk", str(pathlib.Path.home() / "google-cloud-sdk")]
    if gcloud:
        roots.insert(0, str(pathlib.Path(gcloud).resolve().parents[1]))
    candidates += [f"{root}/platform/bigtable-emulator/cbtemulator" for root in roots]
    candidates.append(shutil.which("cbtemulator") or "")
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


class Emulator:
    """A running emulator."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program, "-host", "127.0.0.1", "-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        line = self.process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found, line
        self.address = found[0]
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def stop(self):
        self.process.kill()
        self.process.wait()
