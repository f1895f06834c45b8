"""One view of the errors of the official clients, over gRPC and REST."""

import contextlib

import grpc
from google.api_core import exceptions


class Caught:
    """The error that a block ended with."""

    def __init__(self):
        self.code = None
        self.message = None
        self.violations = []
        self.fields = []


def _rest_details(error):
    return [detail for detail in error.details or () if isinstance(detail, dict)]


def describe(error):
    """The code's name, the message, the precondition violations and the wrong fields of an error."""
    caught = Caught()
    if isinstance(error, exceptions.RetryError) and error.cause is not None:
        return describe(error.cause)
    if isinstance(error, grpc.RpcError):
        error = exceptions.from_grpc_error(error)
    assert isinstance(error, exceptions.GoogleAPICallError), repr(error)
    caught.message = error.message
    if error.grpc_status_code is not None and isinstance(error.response, grpc.RpcError):
        caught.code = error.grpc_status_code.name
    else:
        caught.code = error.response.json()["error"]["status"]
    for detail in error.details or ():
        if isinstance(detail, dict):
            for violation in detail.get("violations", ()):
                caught.violations.append((violation["type"], violation["subject"], violation["description"]))
            for violation in detail.get("fieldViolations", ()):
                caught.fields.append((violation["field"], violation["description"]))
        else:
            for violation in getattr(detail, "violations", ()):
                caught.violations.append((violation.type, violation.subject, violation.description))
            for violation in getattr(detail, "field_violations", ()):
                caught.fields.append((violation.field, violation.description))
    return caught


@contextlib.contextmanager
def refused(code, *texts):
    """Asserts that the block ends with an error of `code` (one name, or several) that holds each text."""
    codes = (code,) if isinstance(code, str) else code
    caught = Caught()
    try:
        yield caught
    except (exceptions.GoogleAPICallError, exceptions.RetryError, grpc.RpcError) as error:
        seen = describe(error)
        caught.__dict__.update(seen.__dict__)
        assert seen.code in codes, f"{seen.code}, expected {codes}: {seen.message}"
        for text in texts:
            assert text in seen.message, f"{text!r} is not in: {seen.message}"
        return
    raise AssertionError(f"expected {codes}, but there was no error")
