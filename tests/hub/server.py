"""A hub on this machine: what huggingface_hub asks of one to push a repository and to fetch it again."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Keeps the files of the last commit of each repository, by its name and theirs.

    Attributes:
        repositories: name of a repository -> path -> content.
        said: the lines of all requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.said: list[str] = []
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, content: bytes, status=200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value, status=200, **headers) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def do_POST(self) -> None:
        self.server.said.append(f"POST {self.path}")
        body = self._body()
        if self.headers.get("Authorization") != "Bearer hf_test":
            self._json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            given = json.loads(body)
            name = "/".join(filter(None, (given.get("organization"), given["name"])))
            self.server.repositories.setdefault(name, {})
            self._json({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self._json({"files": modes})
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.server.repositories[name] = {
                f["path"]: base64.b64decode(f["content"]) for f in files
            }
            url = f"{self.server.url}/{name}/commit/{SHA}"
            self._json({"success": True, "commitOid": SHA, "commitUrl": url, "hookOutput": ""})
        else:
            self._json({}, 200)

    def do_GET(self) -> None:
        self.server.said.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            name, _, rest = path.removeprefix("/api/models/").partition("/revision/")
            name, _, tree = name.partition("/tree/")
            files = self.server.repositories.get(name)
            if files is None or (rest or "main").partition("/")[0] not in ("main", SHA):
                code = "RepoNotFound" if files is None else "RevisionNotFound"
                self._json({"error": "not found"}, 404, X_Error_Code=code)
            elif tree:
                self._json([self._entry(path, content) for path, content in files.items()])
            else:
                names = [{"rfilename": path} for path in files]
                self._json({"id": name, "sha": SHA, "siblings": names})
            return
        name, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        files = self.server.repositories.get(name)
        content = (files or {}).get(file)
        if content is not None and revision in ("main", SHA):
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(content, ETag=tag, X_Repo_Commit=SHA)
            return
        code = "EntryNotFound" if revision in ("main", SHA) else "RevisionNotFound"
        code = "RepoNotFound" if files is None else code
        self._json({"error": "not found"}, 404, X_Error_Code=code, X_Repo_Commit=SHA)

    do_HEAD = do_GET  # noqa: N815

    def _entry(self, path, content):
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": oid}

    def log_message(self, *_) -> None:
        pass
