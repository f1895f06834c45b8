"""Beam's own Python runner behind its Job API, as it is: the peer of the benchmark.

Prints where it answers, in the words of our server, and runs until it is ended.
"""

import signal

from apache_beam.runners.portability.local_job_service import LocalJobServicer

servicer = LocalJobServicer()
print(f"claviger ready http://127.0.0.1:{servicer.start_grpc_server()}", flush=True)
signal.pause()
