"""Rings through a real RabbitMQ: heard while there is room, lost without harm, and heard again after whatever broke."""

import queue
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ikon import broker
from ikon.broker import Broker
from tests.faults.proxy import Proxy
from tests.services.servers import Server, free_port

pytestmark = pytest.mark.slow


class Ear:
    """What one listener heard."""

    def __init__(self, url: str, *names: str) -> None:
        self.room = True
        self._heard: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.broker = Broker(url)
        self.broker.listen(names, lambda: self._heard.put(time.monotonic()), lambda: self.room)

    def hears(self, within_s: float = 20.0) -> bool:
        try:
            self._heard.get(timeout=within_s)
        except queue.Empty:
            return False
        return True


@pytest.fixture
def url(rabbitmq: Server) -> str:
    return rabbitmq.url()


@pytest.fixture
def name() -> str:
    return f"any@{time.monotonic_ns()}"  # a queue of this test alone


@pytest.fixture
def ear(url: str, name: str) -> Iterator[Ear]:
    made = Ear(url, name)
    assert made.hears()  # at each new connection: rings may have been missed
    yield made
    made.broker.close()


def test_a_ring_of_one_process_is_heard_by_another(url: str, name: str, ear: Ear) -> None:
    other = Broker(url)
    other.ring("any@elsewhere")
    other.ring(name)
    assert ear.hears()
    assert not ear.hears(0.3)
    other.close()


def test_the_last_rings_of_a_process_that_ends_are_heard(url: str, name: str, ear: Ear) -> None:
    other = Broker(url)
    other.ring("nobody")
    time.sleep(1)  # connected
    other.ring(name)
    other.close()
    assert ear.hears()


def test_a_ring_is_left_to_who_has_room(url: str, name: str, ear: Ear) -> None:
    ear.room = False
    other = Ear(url, name)
    assert other.hears()
    for _ in range(4):
        other.broker.ring(name)
        assert other.hears()
    assert not ear.hears(0.1)

    other.room = False
    other.broker.ring(name)
    assert not ear.hears(0.5)
    ear.room = True
    assert ear.hears()
    other.broker.close()


def test_rings_are_heard_again_after_the_connection_broke_or_hung(rabbitmq: Server, name: str) -> None:
    with Proxy(rabbitmq.port) as proxy:
        ear = Ear(rabbitmq.url(port=proxy.port), name)
        assert ear.hears()
        proxy.refuse()
        time.sleep(1)
        proxy.flow()
        assert ear.hears()
        proxy.stall()
        time.sleep(1)
        proxy.cut()  # what hangs is found dead by its heartbeat only after half a minute
        proxy.flow()
        assert ear.hears(60)
        other = Broker(rabbitmq.url())
        other.ring(name)
        assert ear.hears()
        other.close()
        ear.broker.close()


def test_rings_are_heard_again_after_the_broker_was_killed(name: str) -> None:
    with Server("rabbitmq") as server:
        ear = Ear(server.url(), name)
        assert ear.hears()
        server.kill()
        server.start()
        assert ear.hears(60)
        ear.broker.ring(name)
        assert ear.hears(60)
        ear.broker.close()


def test_without_a_broker_rings_cost_nothing_and_the_log_says_it_once_and_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    made = Broker(f"amqp://ikon:hush@127.0.0.1:{free_port()}/")
    began = time.monotonic()
    for _ in range(10 * broker.WAITING):
        made.ring("any")
    assert time.monotonic() - began < 1
    time.sleep(8)
    made.close()
    said = "".join(capsys.readouterr())
    assert said.count("broker not reached") == 1, said
    assert "hush" not in said
    assert "127.0.0.1" in said


def test_a_wrong_password_is_no_secret_in_the_log(rabbitmq: Server, capsys: pytest.CaptureFixture[str]) -> None:
    made = Broker(rabbitmq.url().replace("secret", "mistaken"))
    time.sleep(5)
    made.close()
    said = "".join(capsys.readouterr())
    assert "ACCESS_REFUSED" in said
    assert "mistaken" not in said


def test_a_broker_whose_certificate_nobody_vouches_for_is_not_spoken_to(tmp_path: Path) -> None:
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=_shake_hands, args=(listener, context), daemon=True).start()
        with pytest.raises(ssl.SSLCertVerificationError), broker.connected(f"amqps://ikon:secret@localhost:{port}/"):
            pass


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        try:
            context.wrap_socket(sock, server_side=True).close()
        except OSError:
            sock.close()
