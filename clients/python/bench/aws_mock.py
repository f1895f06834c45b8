"""Moto's server of AWS's APIs, as the benchmark of the KMS starts it: on a free port, with a line when it is ready."""

import threading

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"claviger ready http://{host}:{port}", flush=True)
threading.Event().wait()
