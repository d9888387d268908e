"""Memory and time of pulling a large archive into a lake on S3.

    python benchmarks/pull.py --mb 2048 --source file

An archive of random images goes from disk, a web server or S3 to an S3 server on this machine (moto), in a process of
its own. `peak_mb` is what that took above the interpreter with its libraries at the start of the step. moto reads an
object whole for every range of it, so `--source s3` is slow for gigabytes.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import boto3

IMAGE = 50_000
"""Bytes of an image."""
PULL = """
import json, re, time
from pathlib import Path
from jobs import pull, step

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before, started = peak_mb(), time.perf_counter()
code = step.main("pull", ["--run", "bench"])
print(json.dumps({"peak_mb": round(peak_mb() - before), "seconds": round(time.perf_counter() - started, 1)}))
raise SystemExit(code)
"""


def write_archive(path: Path, megabytes: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("styles.csv", "id\n")
        for number in range(megabytes * 10**6 // IMAGE):
            archive.writestr(f"images/{number}.jpg", os.urandom(IMAGE))


def start_s3(folder: Path) -> tuple[subprocess.Popen, str]:
    """moto as a process, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "moto.log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.1)
    return server, f"http://127.0.0.1:{port}"


def start_web(folder: Path) -> str:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=2048)
    parser.add_argument("--source", choices=("file", "http", "s3"), default="file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        write_archive(folder / "a.zip", given.mb)
        server, endpoint = start_s3(folder)
        try:
            aws = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
            os.environ |= {f"AWS_{key}": value for key, value in aws.items()}
            s3 = boto3.client("s3", region_name="us-east-1")
            s3.create_bucket(Bucket="bench")
            dataset = str(folder / "a.zip")
            if given.source == "http":
                dataset = f"{start_web(folder)}/a.zip"
            if given.source == "s3":
                s3.upload_file(dataset, "bench", "in/a.zip")
                dataset = "s3://bench/in/a.zip"
            settings = {"DATASET": dataset, "LAKE": "s3://bench/lake", "LOGS": name, "SCRATCH": name}
            env = os.environ | {f"LOOKALIKE_{key}": value for key, value in settings.items()}
            done = subprocess.run([sys.executable, "-c", PULL], env=env, stdout=subprocess.PIPE, text=True, check=True)
            print(json.dumps({"source": given.source, "mb": given.mb, **json.loads(done.stdout)}))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
