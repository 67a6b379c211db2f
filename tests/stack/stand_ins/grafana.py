"""Stands in for Grafana: reads what is provisioned, ends if that does not fit, and answers."""

import json
import os
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

PROVISIONED = Path("/etc/grafana/provisioning")


def expanded(value):
    """Replace $__file{...} by that file's content, as Grafana does."""
    if isinstance(value, dict):
        return {key: expanded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [expanded(entry) for entry in value]
    if isinstance(value, str):
        return re.sub(r"\$__file\{(.+?)\}", lambda found: Path(found[1]).read_text().strip(), value)
    return value


def entries(folder, key):
    return [
        expanded(entry)
        for file in sorted((PROVISIONED / folder).glob("*.yaml"))
        for entry in yaml.safe_load(file.read_text())[key]
    ]


sources = entries("datasources", "datasources")
boards = [
    json.loads(file.read_text())
    for provider in entries("dashboards", "providers")
    for file in sorted(Path(provider["options"]["path"]).glob("*.json"))
]
known = {source["uid"] for source in sources}
wanted = {
    panel["datasource"]["uid"]
    for board in boards
    for panel in board["panels"]
    if "datasource" in panel
}
if not wanted <= known:
    raise SystemExit(f"panels ask {wanted - known}, which are not provisioned")
if not Path(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read_text().strip():
    raise SystemExit("no password")
Path("/var/lib/grafana/grafana.db").touch()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade") == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.write(b"\x81\x02hi")
            self.close_connection = True
            return
        body = json.dumps({
            "path": self.path,
            "host": self.headers["Host"],
            "proto": self.headers.get("X-Forwarded-Proto"),
            "sources": sorted(known),
            "dashboards": [board["uid"] for board in boards],
        }).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", 3000), Handler).serve_forever()
