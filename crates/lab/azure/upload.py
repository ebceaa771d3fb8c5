"""The peer of `cargo xtask bench azure`: the same image, or the ranges of it that changed, to a page blob by Microsoft's client.

upload.py initial URL IMAGE | upload.py delta URL IMAGE RANGES

Pages of up to 4 MiB, several at a time by threads (upload_page is one request, the client's `max_concurrency` is for whole blobs); runs of 64 KiB of zeros are
skipped, or cleared in a delta, as ours are.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from azure.storage.blob import ContainerClient

PAGES_MAX = 4 << 20
BLOCK = 64 << 10
ZEROS = bytes(BLOCK)
# As many requests at a time as ours has.
WORKERS = 8


def runs(data):
    """(offset, length, zero) of what is zero for whole blocks, and of the rest."""
    found = []
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        zero = block == ZEROS[: len(block)]
        if found and found[-1][2] == zero:
            found[-1][1] += len(block)
        else:
            found.append([at, len(block), zero])
    return found


def main():
    mode, url, image, *rest = sys.argv[1:]
    container = ContainerClient.from_container_url(url)
    size = os.path.getsize(image)
    if mode == "initial":
        container.create_container()
        container.get_blob_client("disk.vhd").create_page_blob(size=size)
        wanted = [(0, size)]
    else:
        with open(rest[0]) as lines:
            wanted = [tuple(map(int, line.split())) for line in lines]
    blob = container.get_blob_client("disk.vhd")
    source = os.open(image, os.O_RDONLY)

    def send(piece):
        start, length = piece
        data = os.pread(source, length, start)
        for at, count, zero in runs(data):
            if not zero:
                # The whole of what was read is sent as it is, without another copy.
                page = data if count == len(data) else data[at : at + count]
                blob.upload_page(page, offset=start + at, length=count)
            elif mode == "delta":
                blob.clear_page(offset=start + at, length=count)

    pieces = [
        (at, min(PAGES_MAX, start + length - at))
        for start, length in wanted
        for at in range(start, start + length, PAGES_MAX)
    ]
    with ThreadPoolExecutor(WORKERS) as workers:
        for _ in workers.map(send, pieces):
            pass


main()
