"""Microsoft's SDK for Azure Site Recovery, unmodified, against a configuration server.

client.py URL API-VERSION CA-FILE DIRECTORY CHAPTER...        the token is in the file SWITCHBACK_TOKEN_FILE

Chapters are methods; each file beside this one has some. Every exchange is recorded below DIRECTORY by a policy in the client's pipeline: see recorder.py.
"""

import sys
import time

from guests import Guests
from inventory import Inventory
from operations import Operations
from plans import Plans
from rounds import Rounds
from session import Session


class Run(Inventory, Rounds, Operations, Plans, Guests, Session):
    """All chapters."""


def main():
    url, api_version, authority, directory, *chapters = sys.argv[1:]
    run = Run(url, api_version, authority, directory)
    for chapter in chapters:
        begin = time.monotonic()
        getattr(run, chapter)()
        print(f"{chapter}: {time.monotonic() - begin:.1f} s", flush=True)
    print("done")


main()
