"""What imports are made of: disks of both formats, a web server that has them, and the plain tools that do the same work."""

import contextlib
import hashlib
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MIB = 1 << 20


class Disks:
    """One disk as raw and as qcow2: three quarters of it random bytes, the rest never written."""

    def __init__(self, folder: Path, mib: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.bytes = folder, mib * MIB
        self.paths = {form: folder / f"disk.{form}" for form in ("raw", "qcow2")}
        with self.paths["raw"].open("wb", buffering=0) as file:
            for at in range(mib):
                if at % 4 != 3:
                    file.seek(at * MIB)
                    file.write(os.urandom(MIB))
            file.truncate(self.bytes)
        convert("raw", self.paths["raw"], "qcow2", self.paths["qcow2"])

    def sha512(self, form: str) -> str:
        with self.paths[form].open("rb") as file:
            return hashlib.file_digest(file, "sha512").hexdigest()


def convert(source_format: str, source: Path, form: str, target: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-f", source_format, "-O", form, source, target], check=True)


class _Sending(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_GET(self) -> None:
        with (self.folder / self.path.strip("/")).open("rb") as file:
            size, at = os.fstat(file.fileno()).st_size, 0
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.flush()
            while at < size:
                at += os.sendfile(self.connection.fileno(), file.fileno(), at, size - at)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[int]:
    """A web server of the folder's files, in a process of its own; its port."""
    _Sending.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sending)
    if not (pid := os.fork()):
        with contextlib.suppress(BaseException):
            server.serve_forever()
        os._exit(0)
    server.server_close()
    try:
        yield server.server_address[1]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def tool(command: list[str], target: Path) -> dict[str, float]:
    """Run a command that makes a file, then sync that file: seconds and CPU seconds of both."""
    target.unlink(missing_ok=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync", "-d", target], check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    target.unlink()
    return {"wall_s": wall, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def digests(path: Path) -> dict[str, float]:
    """What md5 and sha512, which every image record has, take of a file by themselves, side by side."""
    before, began = time.process_time(), time.perf_counter()

    def one(name: str) -> None:
        with path.open("rb") as file:
            hashlib.file_digest(file, name)

    threads = [threading.Thread(target=one, args=(name,)) for name in ("md5", "sha512")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - before}


def empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
