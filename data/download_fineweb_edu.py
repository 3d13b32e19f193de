#!/usr/bin/env python3
"""Downloads FineWeb-Edu as published GPT-2 token shards, the ones llm.c trains on: 100M tokens and 200 MB each.

    python3 data/download_fineweb_edu.py --count 10          the validation shard and 1B tokens to train on
    python3 data/download_fineweb_edu.py --count 1001        all there are, 100B tokens in 200 GB

A stopped download goes on where it was, in NAME.part. A file gets its name after size, sha256 and shard header are right; the
sizes and checksums come from the hub, or from a file in the format of sha256sum. Needs nothing but Python."""
import concurrent.futures
import hashlib
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request

import common
from common import EXIT_DATA, EXIT_IO, EXIT_NO_INPUT, EXIT_USAGE, ToolError

REPOSITORY = "karpathy/fineweb-edu-100B-gpt2-token-shards"
TRAIN_SHARDS = 1001
CHUNK = 1 << 20


class Interrupted(Exception):
    """The connection failed in a way that may pass, after it brought so many bytes."""

    def __init__(self, why, came=0):
        super().__init__(why)
        self.came = came


def open_url(url, headers, timeout):
    """A response, or None where the range asked for begins at the end of the file. Passing troubles raise Interrupted, others ToolError."""
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "moba.c", **headers}), timeout=timeout)
    except ValueError as error:
        raise ToolError(EXIT_USAGE, f"--base-url: {error}; expected one like https://huggingface.co")
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return None
        if error.code in (408, 429) or error.code >= 500:
            raise Interrupted(f"HTTP {error.code}") from error
        raise ToolError(EXIT_NO_INPUT, f"{url}: HTTP {error.code} {error.reason} (see --base-url, --repository and --revision)")
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(str(error)) from error


def patiently(attempt, what, retries, pause=time.sleep):
    """attempt() again and again while it is Interrupted, until `retries` times in a row brought nothing."""
    failures = 0
    while True:
        try:
            return attempt()
        except Interrupted as error:
            failures = 1 if error.came > 0 else failures + 1
            if failures > retries:
                raise ToolError(EXIT_NO_INPUT, f"{what}: {error}, {failures} times in a row; the same command goes on from here")
            pause(min(2 ** failures, 240) / 8)      # a quarter of a second to half a minute


# ---- what there is ----------------------------------------------------------------------------------------------------

def hub_listing(options):
    """{file name: (size, sha256)} from the hub's list of the repository, which comes in pages."""
    files, url = {}, f"{options.base_url}/api/datasets/{options.repository}/tree/{options.revision}"

    def page():
        with open_url(url, {}, options.timeout) as response:
            try:
                following = re.search(r'<([^>]+)>;\s*rel="next"', response.headers.get("Link", ""))
                return json.loads(response.read()), following and following[1]
            except (OSError, http.client.HTTPException) as error:
                raise Interrupted(str(error)) from error
            except ValueError as error:
                raise ToolError(EXIT_DATA, f"{url}: not the hub's list of files ({error}); --checksums does without it")

    while url:
        entries, url = patiently(page, url, options.retries)
        for entry in entries:
            if entry.get("lfs"):
                files[entry["path"]] = (entry["lfs"]["size"], entry["lfs"]["oid"].split(":")[-1])
    return files


def checksum_listing(path):
    """The same from the output of sha256sum; sizes are then known from the shards' headers alone."""
    files = {}
    for number, line in enumerate(common.read_bytes(path, "checksums").decode(errors="replace").splitlines(), 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise ToolError(EXIT_DATA, f"checksums {path}: line {number} is not of the form that sha256sum prints")
        files[os.path.basename(match[2])] = (None, match[1])
    return files


def wanted_files(options):
    names = ["edu_fineweb_val_000000.bin"] + [f"edu_fineweb_train_{i:06d}.bin" for i in range(1, options.count + 1)]
    listing = checksum_listing(options.checksums) if options.checksums else hub_listing(options)
    for name in names:
        if name not in listing:
            raise ToolError(EXIT_NO_INPUT, f"{name}: not among the {len(listing)} files of {options.checksums or options.repository}")
    return [(name, *listing[name]) for name in names]


# ---- one file ---------------------------------------------------------------------------------------------------------

def transfer(url, part, size, shared):
    """Appends to `part` what is missing in it. A server that cannot resume sends everything, and the file begins anew."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    if size is not None and have > size:
        os.remove(part)
        have = 0
    if have == size:
        return
    response = open_url(url, {"Range": f"bytes={have}-"} if have else {}, shared.options.timeout)
    if response is None:                               # nothing behind what is there: the checksum judges it
        return
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        expected = int(response.headers.get("Content-Length") or 0)
        try:
            with open(part, "ab" if resumed else "wb") as file:
                came = copy(response, file, shared)
        except OSError as error:
            raise ToolError(EXIT_IO, f"{part}: {error.strerror}; the same command goes on from here")
    if came < expected or size is not None and os.path.getsize(part) < size:
        raise Interrupted("the connection ended early", came)


def copy(response, file, shared):
    came = 0
    while True:
        shared.check_stop()
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Interrupted(str(error), came) from error
        if not chunk:
            return came
        file.write(chunk)
        came += len(chunk)
        shared.add(len(chunk))


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(name, size, sha256, shared):
    options = shared.options
    path = os.path.join(options.out, name)
    part = path + ".part"
    if os.path.exists(path):
        common.check_shard(path)
        if size not in (None, os.path.getsize(path)) or options.verify and sha256_of(path) != sha256:
            raise ToolError(EXIT_DATA, f"{path}: not the file that is published, of sha256 {sha256}; remove it and run again")
        shared.say(f"{path}: there already")
        return
    url = f"{options.base_url}/datasets/{options.repository}/resolve/{options.revision}/{name}"
    patiently(lambda: transfer(url, part, size, shared), url, options.retries, shared.stop.wait)
    found_size, found = os.path.getsize(part), sha256_of(part)
    if found != sha256 or size not in (None, found_size):
        os.remove(part)
        raise ToolError(EXIT_DATA, f"{url}: {found_size} bytes with sha256 {found}, "
                                   f"expected {size or 'some'} bytes with {sha256}; removed, run again")
    tokens = common.check_shard(part)
    try:
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise ToolError(EXIT_IO, f"{path}: {error.strerror}")
    shared.say(f"{path}: {tokens} tokens")


# ---- all of them ------------------------------------------------------------------------------------------------------

class Shared:
    """What the downloading threads share: options, one progress display, and the wish to stop."""

    def __init__(self, options, total):
        self.options, self.lock, self.stop = options, threading.Lock(), threading.Event()
        self.progress = common.Progress("downloading", "bytes", total)

    def check_stop(self):
        if self.stop.is_set():
            raise ToolError(EXIT_NO_INPUT, "stopped")

    def add(self, amount):
        with self.lock:
            self.progress.add(amount)

    def say(self, line):
        with self.lock:
            print(line, flush=True)


def download_all(files, options):
    missing = [size for name, size, _ in files if not os.path.exists(os.path.join(options.out, name))]
    shared = Shared(options, sum(missing) if missing and None not in missing else None)
    pool = concurrent.futures.ThreadPoolExecutor(options.jobs)
    try:
        running = [pool.submit(download, *file, shared) for file in files]
        for future in concurrent.futures.as_completed(running):
            future.result()                            # the first error ends all
    finally:
        shared.stop.set()
        pool.shutdown(cancel_futures=True)
        shared.progress.close()


def main():
    parser = common.Parser("Published FineWeb-Edu token shards (GPT-2 BPE, llm.c's format): one for validation and --count to train on.")
    parser.add_argument("--count", type=common.whole_number(0, TRAIN_SHARDS), default=1, metavar="N",
                        help=f"training shards of 100M tokens, at most {TRAIN_SHARDS}")
    parser.add_argument("--out", default="edu_fineweb100B", metavar="DIR", help="output folder")
    parser.add_argument("--jobs", type=common.whole_number(1, 64), default=4, metavar="N", help="files at a time")
    parser.add_argument("--verify", action="store_true", help="compare the checksums of files that are there already, too")
    parser.add_argument("--checksums", metavar="FILE", help="sha256sum's output for the files, in place of the hub's list")
    parser.add_argument("--base-url", default="https://huggingface.co", metavar="URL", help="the hub or a mirror of it")
    parser.add_argument("--repository", default=REPOSITORY, help="data set on the hub")
    parser.add_argument("--revision", default="main", help="branch, tag or commit of it")
    parser.add_argument("--timeout", type=common.whole_number(1), default=60, metavar="SECONDS",
                        help="silence after which a connection is given up")
    parser.add_argument("--retries", type=common.whole_number(0), default=8, metavar="N", help="failures in a row before giving up")
    options = parser.parse_args()
    options.base_url = options.base_url.rstrip("/")
    common.make_directory(options.out)
    download_all(wanted_files(options), options)


if __name__ == "__main__":
    common.run(main)
