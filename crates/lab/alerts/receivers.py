"""A mail server (aiosmtpd) and a receiver of webhooks (Python's http.server), both with TLS, for tests.

usage: receivers.py CERTIFICATE KEY [SMTP_PORT]

Prints a line of JSON for all that matters: {"smtp": PORT, "smtps": PORT, "https": PORT} first, then what it gets. The mail server takes the login
alerts / "right", and no mail for nobody@example.com. The receiver answers /ok with 204, /redirect with 307, /fail with 500. Ends with its input.
"""

import asyncio
import email
import email.policy
import http.server
import json
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult


def tell(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Mail:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address == "nobody@example.com":
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        tell(mail=mail.get_content(), subject=mail["subject"], id=mail["message-id"], to=envelope.rcpt_tos,
             sender=envelope.mail_from, tls=session.ssl is not None, user=session.authenticated)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"alerts", b"right"), handled=False)


class Hook(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        tell(path=self.path, body=body, timestamp=self.headers["Switchback-Timestamp"],
             signature=self.headers["Switchback-Signature"], kind=self.headers["Content-Type"])
        self.send_response({"/ok": 204, "/redirect": 307}.get(self.path, 500))
        self.send_header("Location", "/ok")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *args):
        pass


def context(certificate, key):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made


async def main(certificate, key, smtp_port=0):
    tls = context(certificate, key)
    loop = asyncio.get_running_loop()

    def server(starttls):
        return SMTP(Mail(), loop=loop, authenticator=authenticate, tls_context=tls if starttls else None,
                    require_starttls=starttls, auth_required=True, auth_require_tls=starttls)

    starttls = await loop.create_server(lambda: server(True), "127.0.0.1", int(smtp_port))
    wrapped = await loop.create_server(lambda: server(False), "127.0.0.1", 0, ssl=tls)
    hooks = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    hooks.socket = tls.wrap_socket(hooks.socket, server_side=True)
    threading.Thread(target=hooks.serve_forever, daemon=True).start()
    port = lambda one: one.sockets[0].getsockname()[1]
    tell(smtp=port(starttls), smtps=port(wrapped), https=hooks.server_port)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main(*sys.argv[1:]))
