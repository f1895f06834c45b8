"""A PKCS #11 token in software, SoftHSM 2, for the tests of root seals and of HSM keys."""

import os
import pathlib
import shutil
import subprocess

import pytest

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")
PIN = "20482048"


class Token:
    """One token of the test's own, and the file of its PIN. `monkeypatch` tells the servers of the test where it is."""

    def __init__(self, folder, monkeypatch, label):
        self.module = next((path for path in MODULES if os.path.exists(path)), None)
        if self.module is None or shutil.which("softhsm2-util") is None:
            pytest.skip("there is no SoftHSM here (Debian: apt-get install softhsm2), so no PKCS #11 token to test with")
        self.label = label
        folder = pathlib.Path(folder)
        self.directory = folder / "tokens"
        self.directory.mkdir()
        config = folder / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {self.directory}\nobjectstore.backend = file\nlog.level = ERROR\n")
        monkeypatch.setenv("SOFTHSM2_CONF", str(config))
        self.add(label)
        self.pin_file = folder / "pin"
        self.set_pin(PIN)

    def add(self, label):
        """A further token beside it."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True)

    def set_pin(self, pin):
        """Changes the file, not the token."""
        self.pin_file.write_text(pin + "\n")

    def objects(self):
        """The files of the token's objects."""
        return {path for path in self.directory.glob("*/*.object") if path.name != "token.object"}

    @property
    def _away(self):
        return self.directory.with_name("tokens-away")

    def take_away(self):
        """As if its cable was pulled."""
        self.directory.rename(self._away)

    def bring_back(self):
        self._away.rename(self.directory)
