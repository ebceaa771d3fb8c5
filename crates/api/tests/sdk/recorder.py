"""A policy for the pipelines of Microsoft's SDKs that records every exchange, and checks what no document says.

One file each, in the form that `oav validate-traffic` reads: in DIRECTORY/contract those that the contract's document describes, in DIRECTORY/polls those of
long-running operations, in DIRECTORY/refusals those that were refused (the document has successes alone), in DIRECTORY/vaults those of the vaults' own contract.
"""

import json
import os
import re

from azure.core.pipeline.policies import SansIOHTTPPolicy


class Recorder(SansIOHTTPPolicy):
    """Keeps each exchange, and checks what no document says: the headers of long-running operations."""

    def __init__(self, directory):
        self.directory = directory
        # It goes on after those of an earlier client.
        self.count = sum(len(files) for _, _, files in os.walk(directory))

    def on_response(self, request, response):
        asked, answered = request.http_request, response.http_response
        # Of long-running operations the SDK reads bodies later; it finds what has been read.
        answered.read()
        text = answered.text()
        live_request = {"headers": self.headers(asked.headers), "method": asked.method, "url": asked.url}
        if asked.body:
            live_request["body"] = json.loads(asked.body)
        live_response = {"statusCode": str(answered.status_code), "headers": self.headers(answered.headers)}
        if text:
            live_response["body"] = json.loads(text)
        self.count += 1
        kind = "refusals" if answered.status_code >= 400 else self.kind(asked.url)
        directory = os.path.join(self.directory, kind)
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, f"{self.count:04}.json"), "w") as file:
            json.dump({"liveRequest": live_request, "liveResponse": live_response}, file, indent=1)
        assert answered.headers.get("x-ms-request-id"), asked.url
        sent = asked.headers.get("x-ms-client-request-id")
        assert sent and answered.headers.get("x-ms-client-request-id") == sent, asked.url
        if kind == "refusals":
            error = live_response["body"]["error"]
            assert error.keys() - {"details"} == {"code", "message", "additionalInfo"}, text
        if answered.status_code == 202:
            self.check_operation(asked, answered.headers)

    @staticmethod
    def headers(headers):
        # What names the caller is nobody's business; types of contents are compared as they are.
        return {name: value for name, value in headers.items() if name.lower() != "authorization"}

    @staticmethod
    def kind(url):
        if re.search(r"/(operationresults|replicationOperationStatus)/", url, re.IGNORECASE):
            return "polls"
        return "contract" if re.search(r"/vaults/[^/]+/|/operations\?", url) else "vaults"

    @staticmethod
    def check_operation(asked, headers):
        location, status = headers["Location"], headers["Azure-AsyncOperation"]
        assert int(headers["Retry-After"]) > 0
        assert headers["Content-Length"] == "0"
        version = re.search(r"api-version=([^&]+)", asked.url).group(1)
        origin = re.match(r"https://[^/]+", asked.url).group(0)
        for link in (location, status):
            assert link.startswith(origin + "/subscriptions/") and link.endswith("api-version=" + version), link
        job = re.search(r"/operationresults/([0-9a-f-]{36})\?", location).group(1)
        assert f"/replicationOperationStatus/{job}?" in status, status
        assert headers["x-ms-request-id"].endswith(f"/replicationJobs/{job}"), headers["x-ms-request-id"]
