"""Command-line tools of others, run as their users run them."""

import os
import subprocess


class Done:
    """How a command ended."""

    def __init__(self, status, output, errors):
        self.status = status
        self.output = output
        self.errors = errors


class Tool:
    """A program with the environment that points it at a server."""

    def __init__(self, program, *first, environment):
        self.program = program
        self.first = list(first)
        self.environment = {**os.environ, **environment}

    def run(self, *arguments, **options):
        command = [self.program, *self.first, *[str(argument) for argument in arguments]]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **options
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def __call__(self, *arguments, **options):
        """Runs it; its standard output. It must end well."""
        done = self.run(*arguments, **options)
        assert done.status == 0, f"{' '.join(map(str, arguments))}: {done.errors}{done.output}"
        return done.output

    def fails(self, text, *arguments):
        """Runs it; it must fail and say the text."""
        done = self.run(*arguments)
        assert done.status != 0, f"{' '.join(map(str, arguments))} did not fail: {done.output}"
        assert text in done.errors + done.output, done.errors + done.output
        assert "Traceback" not in done.errors
        return done.errors
