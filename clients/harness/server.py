"""A `claviger serve` process for tests: started on a free port, waited for, stopped, killed, started again.

A server that is stopped must exit with 0 and must not have panicked; `stop` asserts both.
"""

import os
import pathlib
import queue
import signal
import subprocess
import threading
import time

READY = "claviger ready "
READY_WITHIN = 30
STOP_WITHIN = 30
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def binary():
    """The server's program: CLAVIGER_BIN, or the release build of this repository."""
    told = os.environ.get("CLAVIGER_BIN")
    if told:
        return pathlib.Path(told)
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")
    return pathlib.Path(target) / "release" / "claviger"


def environment(**more):
    """This process's variables without those that would configure a server or a command."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CLAVIGER_")}
    return {**plain, **more}


class NotReady(Exception):
    """The server ended, or said nothing, before it was ready."""

    def __init__(self, why, status, log):
        super().__init__(f"{why} (status {status}):\n{log[-4000:]}")
        self.status = status
        self.log = log


class Server:
    """One data directory and KMS directory, and the process that serves them, if it runs."""

    def __init__(self, folder, *flags, data_dir=None, kms_dir=None, listen="127.0.0.1:0"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = pathlib.Path(data_dir or self.folder / "data")
        self.kms_dir = pathlib.Path(kms_dir or self.folder / "data-keys")
        self.flags = [str(flag) for flag in flags]
        self.listen = listen
        self.log_file = self.folder / "server.log"
        self.process = None
        self.endpoint = None
        self.ready_after = None

    def start(self, *more_flags):
        """Starts the process and returns when it is ready."""
        assert self.process is None, "the server runs already"
        command = [str(binary()), "serve", "--listen", self.listen]
        command += ["--data-dir", str(self.data_dir), "--kms-dir", str(self.kms_dir)]
        command += self.flags + [str(flag) for flag in more_flags]
        started = time.monotonic()
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment()
            )
        lines = queue.Queue()

        def drain(stdout):
            for line in stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=drain, args=(self.process.stdout,), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=max(0.01, started + READY_WITHIN - time.monotonic()))
            except queue.Empty:
                self.kill()
                raise NotReady("not ready in time", None, self.log()) from None
            if line is None:
                status = self.process.wait()
                self.process = None
                raise NotReady("ended before it was ready", status, self.log())
            if line.startswith(READY):
                self.endpoint = line[len(READY):].strip()
                self.ready_after = time.monotonic() - started
                return self

    @property
    def address(self):
        """HOST:PORT."""
        return self.endpoint.partition("://")[2].rstrip("/")

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """Asks the process to stop, and asserts that it does so in order."""
        if self.process is None:
            return
        process, self.process = self.process, None
        ended_early = process.poll() is not None
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the server did not stop in {STOP_WITHIN} s:\n{self.log()[-4000:]}") from None
        assert not ended_early, f"the server had died with status {status}:\n{self.log()[-4000:]}"
        assert status == 0, f"the server stopped with status {status}:\n{self.log()[-4000:]}"
        assert "panicked at" not in self.log(), self.log()[-4000:]

    def kill(self):
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self, *more_flags, kill=False):
        """The same directories, a new process."""
        if kill:
            self.kill()
        else:
            self.stop()
        return self.start(*more_flags)

    def run(self, *arguments, project="p1", **options):
        """Runs the `claviger` command line against this server; its standard output."""
        told = environment(CLAVIGER_ENDPOINT=self.endpoint, CLAVIGER_PROJECT=project)
        done = subprocess.run(
            [str(binary()), *arguments], env=told, capture_output=True, text=True, timeout=60, **options
        )
        assert done.returncode == 0, f"claviger {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout
