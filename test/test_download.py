#!/usr/bin/env python3
"""data/download_fineweb_edu.py against a hub on 127.0.0.1."""
import array
import hashlib
import http.server
import json
import os
import re
import struct
import threading

from tool_test import case, check, contents, equal, fresh, run_cases, tool, write


class Hub:
    """A hub on 127.0.0.1: the list in pages of two, files with ranges. Faults: ranges=False ignores them, cut=N ends every answer after
    N bytes, busy=N answers 503 N times, swap=NAME lists a wrong checksum for a file."""

    def __init__(self, ranges=True, cut=None, busy=0, swap=None):
        self.ranges, self.cut, self.busy, self.swap, self.asked = ranges, cut, busy, swap, []
        self.files = {}
        for i, name in enumerate(["edu_fineweb_val_000000.bin"] + [f"edu_fineweb_train_{k:06d}.bin" for k in range(1, 4)]):
            tokens = array.array("H", [(i * 7919 + k * k) % 50257 for k in range(20000 + i)])
            self.files[name] = struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253) + tokens.tobytes()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                hub.answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def listing(self, request):
        page = int(re.search(r"page=(\d+)|$", request.path)[1] or 0)
        entries = [{"type": "file", "path": ".gitattributes", "size": 3, "oid": "1"}]
        for name, data in self.files.items():
            entries.append({"type": "file", "path": name, "size": len(data), "oid": "2",
                            "lfs": {"oid": hashlib.sha256(b"x" if name == self.swap else data).hexdigest(),
                                    "size": len(data), "pointerSize": 134}})
        following = f"{self.url}{request.path.split('?')[0]}?page={page + 1}"
        headers = {"Link": f'<{following}>; rel="next"'} if 2 * page + 2 < len(entries) else {}
        self.send(request, 200, json.dumps(entries[2 * page:2 * page + 2]).encode(), headers)

    def answer(self, request):
        self.asked.append((request.path, request.headers.get("Range")))
        data = self.files.get(request.path.rsplit("/", 1)[1])
        if self.busy > 0:
            self.busy -= 1
            self.send(request, 503, b"busy", {})
        elif request.path.startswith("/api/datasets/karpathy/fineweb-edu-100B-gpt2-token-shards/tree/main"):
            self.listing(request)
        elif data is None:
            self.send(request, 404, b"", {})
        elif self.ranges and request.headers.get("Range"):
            first = int(re.fullmatch(r"bytes=(\d+)-", request.headers["Range"])[1])
            if first >= len(data):
                self.send(request, 416, b"", {})
            else:
                self.send(request, 206, data[first:], {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})
        else:
            self.send(request, 200, data, {})

    def send(self, request, status, data, headers):
        request.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data if self.cut is None or len(data) < 1024 else data[:self.cut])

    def download(self, out, *more, status=0):
        return tool("download_fineweb_edu", "--base-url", self.url, "--out", out, "--retries", 2, *more, status=status, no_proxy="127.0.0.1")

    def check_whole(self, out, count):
        expected = dict(list(self.files.items())[:count])
        check(contents(out) == expected, f"{sorted(contents(out))} are not the published files")


@case
def download_brings_whole_shards():
    with Hub() as hub:
        out = fresh("downloaded")
        hub.download(out, "--count", 3)
        hub.check_whole(out, 4)
        hub.asked.clear()
        check(hub.download(out, "--count", 3, "--verify").count("there already") == 4, "files that are there were not recognised")
        check(not any("resolve" in path for path, _ in hub.asked), "files that are there were downloaded again")


@case
def download_goes_on_in_a_part():
    name = "edu_fineweb_train_000001.bin"
    for ranges in (True, False):
        with Hub(ranges=ranges) as hub:
            out = fresh("downloaded")
            os.makedirs(out)
            for part in (hub.files[name][:12345], hub.files[name], hub.files[name] + b"too long"):
                open(os.path.join(out, name + ".part"), "wb").write(part)
                hub.asked.clear()
                hub.download(out, "--count", 1)
                hub.check_whole(out, 2)
                asked = [at for path, at in hub.asked if path.endswith(name)]
                equal(asked, {12345: ["bytes=12345-"], len(hub.files[name]): []}.get(len(part), [None]), "ranges asked for")
                os.remove(os.path.join(out, name))


@case
def download_outlives_a_bad_connection():
    with Hub(cut=9000, busy=2) as hub:                 # five answers a file, none whole but the last
        out = fresh("downloaded")
        hub.download(out, "--count", 0)
        hub.check_whole(out, 1)
        check(len(hub.asked) >= 7, f"{len(hub.asked)} requests")
    with Hub(busy=99) as hub:
        check("HTTP 503" in hub.download(fresh("never"), "--retries", 1, status=66), "the reason was not named")
    check("error" in hub.download(fresh("never"), "--retries", 0, status=66), "a hub that is gone")


@case
def download_refuses_a_wrong_checksum():
    name = "edu_fineweb_train_000001.bin"
    with Hub(swap=name) as hub:
        out = fresh("downloaded")
        check("sha256" in hub.download(out, "--count", 1, "--jobs", 1, status=65), "no word of the checksum")
        hub.check_whole(out, 1)                        # nothing of the other file is left, not even a part
    with Hub() as hub:                                 # a part that is not a beginning of the file
        open(os.path.join(out, name + ".part"), "wb").write(b"x" * 5000)
        hub.download(out, "--count", 1, status=65)
        hub.download(out, "--count", 1)
        hub.check_whole(out, 2)
        flipped = bytearray(hub.files[name])
        flipped[-1] ^= 1
        open(os.path.join(out, name), "wb").write(flipped)
        hub.download(out, "--count", 1, "--verify", status=65)
        open(os.path.join(out, name), "wb").write(flipped[:-2])
        hub.download(out, "--count", 1, status=65)


@case
def download_takes_a_list_of_checksums():
    with Hub() as hub:
        out = fresh("downloaded")
        lines = [f"{hashlib.sha256(data).hexdigest()}  some/folder/{name}\n" for name, data in hub.files.items()]
        checksums = write("sha256sums", "".join(lines))
        hub.download(out, "--count", 1, "--checksums", checksums)
        hub.check_whole(out, 2)
        check(not any(path.startswith("/api/") for path, _ in hub.asked), "the hub's list was asked for")
        os.rename(os.path.join(out, "edu_fineweb_val_000000.bin"), os.path.join(out, "edu_fineweb_val_000000.bin.part"))
        hub.download(out, "--count", 1, "--checksums", checksums)          # a whole part of unknown size: the server says 416
        hub.check_whole(out, 2)
        check("not among" in hub.download(out, "--count", 9, "--checksums", checksums, status=66), "a file without a checksum")
        hub.download(out, "--checksums", write("sha256sums", "no sum\n"), status=65)
        hub.download(out, "--checksums", fresh("missing"), status=66)
        hub.download(out, "--count", 1002, status=64)
        check("--base-url" in tool("download_fineweb_edu", "--out", out, "--base-url", "huggingface.co", status=64), "no word of the option")
        hub.download(out, "--revision", "none", status=66)


run_cases()
