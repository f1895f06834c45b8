"""Claviger's boot program for a worker of Beam's Python SDK; what the entry point of Beam's image is there.

It asks the server what the job is, fetches the job's staged files, installs its packages and becomes
Beam's worker. With --spare it first waits, all imports done, for a line that says which worker it is to be.
Invariants: all files go under --semi_persist_dir, pip keeps no cache, the whole process group ends when the
server does, since the server holds the other end of standard input, and a process is one worker at most.
"""
import argparse
import atexit
import ctypes
import hashlib
import json
import os
import queue
import runpy
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading

STAGING_TO = "beam:artifact:role:staging_to:v1"
REQUIREMENTS = "beam:artifact:role:pip_requirements_file:v1"
FILE = "beam:artifact:type:file:v1"
URL = "beam:artifact:type:url:v1"
PYPI = "beam:artifact:type:pypi:v1"
WORKER = "apache_beam.runners.worker.sdk_worker_main"


def fail(sentence):
    print(sentence, file=sys.stderr, flush=True)
    sys.exit(1)


def load():
    """Imports what a worker needs before it knows its job: nearly all. Beam's worker itself comes after that, since
    parts of it read at their import which worker they are in."""
    global artifact_api, artifact_rpc, grpc, json_format, pipeline_api, provision_api, provision_rpc, version
    try:
        import grpc
        from apache_beam import version
        from apache_beam.portability.api import beam_artifact_api_pb2 as artifact_api
        from apache_beam.portability.api import beam_artifact_api_pb2_grpc as artifact_rpc
        from apache_beam.portability.api import beam_provision_api_pb2 as provision_api
        from apache_beam.portability.api import beam_provision_api_pb2_grpc as provision_rpc
        from apache_beam.portability.api import beam_runner_api_pb2 as pipeline_api
        from google.protobuf import json_format
    except ImportError as error:
        fail("the worker's Python has no usable Apache Beam: %s" % error)


def line_of(pipe):
    """The one line that a spare process gets."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(pipe, 4096)
        if not part:
            # Nobody wants it any more.
            os._exit(0)
        line += part
    return line


def end_with_the_server(pipe, lines=None):
    """Ends the process group once nobody holds the other end of `pipe`. A spare's line goes to `lines` before."""
    def watch():
        try:
            if lines is not None:
                lines.put(line_of(pipe))
            while os.read(pipe, 4096):
                pass
        except OSError:
            pass
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def take_stdin():
    """Keeps the pipe to the server for ourselves; user code finds an empty standard input."""
    pipe = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return pipe


def become(told):
    """Takes on what a process would have that was started as this worker only now, and says so."""
    global __file__
    before, home = os.path.dirname(os.path.realpath(__file__)), told["directory"]
    __file__ = os.path.join(home, os.path.basename(__file__))
    sys.argv = [__file__, *told["arguments"]]
    # Since Python 3.10.
    if hasattr(sys, "orig_argv"):
        sys.orig_argv = [*sys.orig_argv[:1], *sys.argv]
    # The server has renamed the directory.
    now = os.path.realpath(home)
    sys.path[:] = [now if entry == before else entry for entry in sys.path]
    sys.path_importer_cache.pop(before, None)
    os.environ.update(told["environment"])
    os.chdir(home)
    tempfile.tempdir = None
    # What was written so far is the spare's, and the rest the worker's.
    for output in (1, 2):
        os.write(output, b"\n%s\n" % told["mark"].encode())


def name_of(artifact, number):
    if artifact.role_urn == STAGING_TO:
        return pipeline_api.ArtifactStagingToRolePayload.FromString(artifact.role_payload).staged_name
    return "artifact-%d" % number


def hash_of(artifact):
    if artifact.type_urn == FILE:
        return pipeline_api.ArtifactFilePayload.FromString(artifact.type_payload).sha256
    if artifact.type_urn == URL:
        return pipeline_api.ArtifactUrlPayload.FromString(artifact.type_payload).sha256
    return ""


def fetch(stub, artifact, staged, number):
    """Writes an artifact below `staged`; gives its path."""
    name = name_of(artifact, number)
    path = os.path.realpath(os.path.join(staged, name))
    if not path.startswith(os.path.realpath(staged) + os.sep):
        fail("the staged file %r has a name that leads out of its directory" % name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in stub.GetArtifact(artifact_api.GetArtifactRequest(artifact=artifact)):
            digest.update(part.data)
            file.write(part.data)
    expected = hash_of(artifact)
    if expected and expected.lower() != digest.hexdigest():
        fail("the staged file %r is not what the job was submitted with: its SHA-256 differs" % name)
    return path


def layer(directory):
    """A virtual environment on top of ours, which takes the job's packages. Gives its interpreter."""
    home = os.path.join(directory, "packages")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    scheme = {"base": home, "platbase": home, "installed_base": home, "installed_platbase": home}
    site = sysconfig.get_path("purelib", "venv", scheme)
    with open(os.path.join(site, "claviger.pth"), "w") as link:
        for below in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
            link.write("import site; site.addsitedir(%r)\n" % below)
    return os.path.join(home, "bin", "python")


def pip(python, *arguments, may_fail=False):
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check",
         "--no-warn-script-location", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode and not may_fail:
        fail("a package of the job could not be installed (pip install %s):\n%s"
             % (" ".join(os.path.basename(a) for a in arguments), done.stdout[-3000:]))
    return done.returncode == 0


def installs(staged, requirements, packages):
    """What is to be installed, as lists of pip's arguments, in the order of Beam's own images."""
    at = lambda name: os.path.join(staged, name)
    if os.path.exists(at("dataflow_python_sdk.tar")):
        yield [at("dataflow_python_sdk.tar")]
    if os.path.exists(at("requirements.txt")):
        requirements = [at("requirements.txt"), *requirements]
    for file in requirements:
        yield ["-r", file]
    if packages:
        yield packages
    if os.path.exists(at("extra_packages.txt")):
        with open(at("extra_packages.txt")) as names:
            for name in filter(None, (line.strip() for line in names)):
                # The order of the list matters: one may need another that is no public package.
                yield ["--no-index", "--find-links", staged, at(name)]
    if os.path.exists(at("workflow.tar.gz")):
        yield [at("workflow.tar.gz")]


def install(directory, staged, requirements, packages):
    """Installs what the job brought. Gives the interpreter that has it: ours, when it brought nothing."""
    todo = list(installs(staged, requirements, packages))
    if not todo:
        return None
    python = layer(directory)
    for arguments in todo:
        if arguments[0] == "-r":
            # What was staged suffices most often, and needs no network.
            if pip(python, "--no-index", "--find-links", staged, *arguments, may_fail=True):
                continue
            arguments = ["--find-links", staged, *arguments]
        elif arguments[0] == "--no-index":
            if pip(python, *arguments, may_fail=True):
                continue
            arguments = arguments[1:]
        pip(python, *arguments)
    return python


def connect_anonymously():
    """Spares Beam its search for Google's credentials, half a minute of it, where there are none to be found."""
    if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or not os.environ.get("NO_GCE_CHECK"):
        return
    try:
        from apache_beam.internal.gcp import auth
        auth._Credentials._credentials_init = True
    except (ImportError, AttributeError):
        pass


class Exit:
    """Ends a process whose worker is through without taking its modules apart, which takes most of a second. It is
    the last to be called at the exit, after all threads and whatever else was to be done, if it is made first."""
    def __init__(self):
        self.is_through = False
        atexit.register(self.leave)

    def leave(self):
        if self.is_through:
            sys.stdout.flush()
            sys.stderr.flush()
            # What libraries in C have not written yet.
            ctypes.CDLL(None).fflush(None)
            os._exit(0)


def work(end):
    """Becomes Beam's worker."""
    connect_anonymously()
    sys.argv = ["worker"]
    runpy.run_module(WORKER, run_name="__main__", alter_sys=True)
    end.is_through = True


def main(end):
    pipe = take_stdin()
    if sys.argv[1:] == ["--spare"]:
        lines = queue.SimpleQueue()
        end_with_the_server(pipe, lines)
        load()
        become(json.loads(lines.get()))
    else:
        end_with_the_server(pipe)
        load()
    parser = argparse.ArgumentParser(prog="worker", allow_abbrev=False)
    for name in ("id", "logging_endpoint", "artifact_endpoint", "provision_endpoint", "control_endpoint",
                 "semi_persist_dir"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--beam_version")
    args, _ = parser.parse_known_args()
    if args.beam_version and version.__version__ != args.beam_version:
        fail("the job wants Apache Beam %s, and the worker's Python has %s"
             % (args.beam_version, version.__version__))

    who = [("worker_id", args.id)]

    class Named(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
        """Says with each call which worker calls."""
        @staticmethod
        def _named(details):
            return details._replace(metadata=[*(details.metadata or []), *who])

        def intercept_unary_unary(self, call, details, request):
            return call(self._named(details), request)

        def intercept_unary_stream(self, call, details, request):
            return call(self._named(details), request)

    def channel(url):
        plain = grpc.insecure_channel(url, options=[("grpc.max_receive_message_length", -1)])
        return grpc.intercept_channel(plain, Named())

    try:
        stub = provision_rpc.ProvisionServiceStub(channel(args.provision_endpoint))
        info = stub.GetProvisionInfo(provision_api.GetProvisionInfoRequest()).info
        staged = os.path.join(args.semi_persist_dir, "staged")
        os.makedirs(staged, exist_ok=True)
        stub = artifact_rpc.ArtifactRetrievalServiceStub(
            channel(info.artifact_endpoint.url or args.artifact_endpoint))
        requirements, packages = [], []
        for number, artifact in enumerate(info.dependencies):
            if artifact.type_urn == PYPI:
                package = pipeline_api.PyPIPayload.FromString(artifact.type_payload)
                packages.append("%s==%s" % (package.artifact_id, package.version))
                continue
            path = fetch(stub, artifact, staged, number)
            if artifact.role_urn == REQUIREMENTS:
                requirements.append(path)
    except grpc.RpcError as error:
        fail("the worker could not get what its job needs: %s" % error.details())

    options = os.path.join(args.semi_persist_dir, "options.json")
    with open(options, "w") as file:
        file.write(json_format.MessageToJson(info.pipeline_options))
    os.environ.update({
        "WORKER_ID": args.id,
        "PIPELINE_OPTIONS_FILE": options,
        "SEMI_PERSISTENT_DIRECTORY": args.semi_persist_dir,
        "LOGGING_API_SERVICE_DESCRIPTOR": 'url: "%s"' % (info.logging_endpoint.url or args.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": 'url: "%s"' % (info.control_endpoint.url or args.control_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    })
    python = install(args.semi_persist_dir, staged, requirements, packages)
    if python:
        # A new interpreter, as packages that this one has loaded may have come in another version.
        os.set_inheritable(pipe, True)
        os.execv(python, [python, __file__, str(pipe)])
    work(end)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] != "--spare":
        end_with_the_server(int(sys.argv[1]))
        work(Exit())
    else:
        main(Exit())
