"""Whether a proxy answers, and as it should: what is wrong here would be a wrong measurement."""

import http.client
import socket
import ssl
import time


class LeftOut(Exception):
    """A proxy that cannot be measured, and why."""


def status_and_bytes(service, port, token):
    """Of one request, by the name that is in the certificate, which is not looked at further."""
    if "tls" in service.features:
        context = ssl._create_unverified_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        connection = http.client.HTTPSConnection("localhost", port, timeout=5, context=context)
    else:
        connection = http.client.HTTPConnection("localhost", port, timeout=5)
    try:
        connection.request("GET", "/000", headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, len(answer.read())
    finally:
        connection.close()


def try_http(service, port):
    """Raises OSError while nobody is there."""
    right = (200, service.answer)
    found = status_and_bytes(service, port, service.token)
    if found != right:
        raise LeftOut(f"answers by {found} (status, bytes) and not by {right}")
    if service.token:
        status, _ = status_and_bytes(service, port, service.token[:-1])
        if status != 401:
            raise LeftOut(f"answers a broken token by {status} and not by 401")


def answers(service, port):
    """Whether a connection is taken, a datagram comes back, or a request has its answer."""
    try:
        if service.protocol == "http":
            try_http(service, port)
            return True
        if service.protocol == "tcp":
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            one.settimeout(0.1)
            one.connect(("127.0.0.1", port))
            one.send(b"hello")
            return one.recv(100) == b"hello"
    except (OSError, http.client.HTTPException):
        return False


def wait_until_it_answers(work, ports, has_ended=lambda: False):
    deadline = time.monotonic() + 10
    for service in work.services:
        while not answers(service, ports[service.name]):
            if has_ended() or time.monotonic() > deadline:
                raise LeftOut(
                    "ended at its start" if has_ended() else f"does not answer at its port for {service.name}"
                )
            time.sleep(0.02)
