"""A TCP proxy that cuts connections, to test how clients resume."""

import socket
import threading


class Proxy:
    """Passes bytes to and from a server. `cut_after` bytes from it, once each, it closes the connection."""

    def __init__(self, target, address="127.0.0.1:0"):
        host, _, port = target.rpartition(":")
        self.target = host, int(port)
        self.open = []
        self.cuts = []
        self.made = 0
        host, _, port = address.rpartition(":")
        self.listener = socket.create_server((host, int(port)))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, *counts):
        """The next connections are cut after so many bytes from the server, one count each."""
        self.cuts = list(counts)

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.made += 1
            server = socket.create_connection(self.target)
            self.open += [client, server]
            limit = self.cuts.pop(0) if self.cuts else None
            threading.Thread(target=self._pass, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, limit), daemon=True).start()

    @staticmethod
    def _pass(source, sink, limit):
        try:
            while data := source.recv(65536):
                if limit is not None:
                    limit -= len(data)
                    if limit < 0:
                        break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def cut_all(self):
        """Cuts the connections that there are."""
        for end in self.open:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.open = []

    def stop(self):
        """Takes no more connections; those that there are go on."""
        try:
            # Wakes whoever waits in accept.
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
