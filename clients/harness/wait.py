"""Waiting for what comes by itself."""

import time

PAUSE = 0.01
WITHIN = 20.0


def eventually(check, within=WITHIN):
    """Calls `check` until it raises no exception, and gives what it returns; after `within` seconds the last one stands.

    A failed `pytest.raises` is no `Exception` and so is not waited out: use `harness.errors.refused` in a check.
    """
    started = time.monotonic()
    while True:
        try:
            return check()
        except Exception:
            if time.monotonic() - started > within:
                raise
            time.sleep(PAUSE)
