"""A server that answers ``here`` to whoever connects: ``answering_process.py HOST PORT``. It says ``listening``."""

import socket
import sys


def main() -> None:
    host, port = sys.argv[1:]
    with socket.create_server((host, int(port))) as server:
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"here\n")


if __name__ == "__main__":
    main()
