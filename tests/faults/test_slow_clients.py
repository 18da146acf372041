"""Many who take their time, and one who is in a hurry."""

import selectors
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Say
from tests.faults.world import MIB, Ikon, chunk, eventually, is_whole, noise, read_answer

DOWNLOADS, UPLOADS, LOOK_S = 500, 40, 20
DATA = noise(16 * MIB)


@pytest.mark.slow
def test_slow_clients_cost_others_nothing_and_the_server_little(tmp_path: Path, say: Say) -> None:
    with Ikon(tmp_path, settings="[http]\nstall_s = 120.0") as server:
        image = server.create()
        assert server.upload(image, DATA).status == 204
        assert is_whole(server, image, DATA)
        for number in range(30):
            server.create(name=str(number))
        alone = listing(server, 2)
        idle_mib, sent = server.memory_mib(), sent_bytes(server)
        stalled = [server.create() for _ in range(UPLOADS)]
        uploads = [server.begin_upload(each, 8 * MIB if at % 2 else None) for at, each in enumerate(stalled)]
        for at, sock in enumerate(uploads):
            sock.sendall(noise(MIB, at) if at % 2 else chunk(noise(MIB, at)))
        downloads = [server.begin_download(image) for _ in range(DOWNLOADS)]
        done = threading.Event()
        received: list[int] = []
        reader = threading.Thread(target=sip, args=(downloads, done, received))
        reader.start()
        burst = listing(server, LOOK_S / 4)
        steady = listing(server, LOOK_S)
        took = burst + steady
        busy_mib, each_kib = server.memory_mib(), (sent_bytes(server) - sent) / DOWNLOADS / 1024
        done.set()
        reader.join()
        say(
            f"{DOWNLOADS} slow downloads and {UPLOADS} stalled uploads: worst of {len(took)} lists {max(took):.3f} s "
            f"(alone {max(alone):.3f} s, after the first {LOOK_S // 4} s {max(steady):.3f} s), median {sorted(took)[len(took) // 2]:.4f} s; "
            f"memory {idle_mib:.0f} + {busy_mib - idle_mib:.0f} MiB; "
            f"{len(received)} clients got {min(received) // 1024} to {max(received) // 1024} KiB"
        )
        assert len(took) > 10
        assert busy_mib - idle_mib < 150
        assert each_kib < 1024, "the kernel holds megabytes for each"
        for sock in downloads:
            sock.close()
        for at, (each, sock) in enumerate(zip(stalled, uploads, strict=True)):  # they go on, or leave
            if at % 4 == 1:
                sock.sendall(noise(7 * MIB, at + MIB))
                assert read_answer(sock).status == 204
                assert is_whole(server, each, noise(8 * MIB, at))
            sock.close()
        eventually(lambda: all(server.show(each)["status"] in ("queued", "active") for each in stalled), within_s=30)
        server.settle(within_s=30)


def sip(downloads: list[socket.socket], done: threading.Event, received: list[int]) -> None:
    """Take a little from every download, all the time."""
    got = dict.fromkeys(downloads, 0)
    with selectors.DefaultSelector() as selector:
        for sock in downloads:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        while not done.wait(0.2):
            for key, _ in selector.select(0):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                got[sock] += len(sock.recv(4096))
    received += got.values()


def sent_bytes(server: Ikon) -> float:
    """Bytes of image data that have left the server for the kernel."""
    [line] = [line for line in server.call("GET", "/metrics").body.decode().splitlines() if line.startswith("ikon_image_bytes_sent_total")]
    return float(line.split()[1])


def listing(server: Ikon, for_s: float) -> list[float]:
    """How long lists take, one after the other."""
    end, took = time.monotonic() + for_s, []
    while time.monotonic() < end:
        began = time.monotonic()
        assert server.call("GET", "/v2/images").status == 200
        took.append(time.monotonic() - began)
        time.sleep(0.02)
    return took
