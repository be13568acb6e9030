"""What the judges look at besides gates: requests, services behind a gate."""

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path


def ask(address, method, path, headers=(), body=None):
    """One request on a connection of its own: status, headers in lower case, body. Headers may stand twice."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        found = {}
        for name, value in answer.getheaders():
            found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
        return answer.status, found, answer.read()
    finally:
        connection.close()


def post(address, path, body, headers=()):
    """A request with a JSON body; its status and the JSON of its answer."""
    status, _, answer = ask(address, "POST", path, headers, json.dumps(body).encode())
    return status, json.loads(answer)


class Breaking:
    """A service that takes requests and closes without an answer: the outcome of a write there is never known."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            with stream:
                stream.recv(65536)

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Nginx:
    """nginx that serves a folder: compressed where asked, some of it to be kept by caches, with WebDAV."""

    CONFIG = """
        daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
        events {{ worker_connections 256; }}
        http {{
            access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
            uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
            types {{ text/html html; text/css css; application/json json; image/png png; }}
            gzip on; gzip_proxied any; gzip_vary on; gzip_min_length 100; gzip_types text/css application/json;
            server {{
                listen 127.0.0.1:{port}; root {dir}/files;
                location / {{ dav_methods PUT DELETE; create_full_put_path on; }}
                location /kept/ {{ expires 1h; }}
                location /private/ {{ add_header Cache-Control "private, no-store"; }}
                location /moved {{ return 301 /page.html; }}
                location /stale/ {{ add_header Cache-Control "max-age=60, stale-while-revalidate=30"; add_header Age 5; }}
            }}
        }}
    """

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="fencegate-nginx-")
        # Held until nginx has it: a socket that doesn't listen keeps others from being given the port.
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        Path(self.dir, "nginx.conf").write_text(self.CONFIG.format(dir=self.dir, port=port))
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        command = [program, "-e", f"{self.dir}/nginx.log", "-p", self.dir, "-c", f"{self.dir}/nginx.conf"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.held = held
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if self.process.poll() is not None:
                    raise OSError(Path(self.dir, "nginx.log").read_text()) from None

    def put(self, path, content):
        file = Path(self.dir, "files", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.held.close()
        shutil.rmtree(self.dir)
