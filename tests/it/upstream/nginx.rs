//! nginx with WebDAV on a folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Port, until_listening};

/// The program: Debian puts it where not every user's path leads.
pub fn program() -> &'static str {
    if Command::new("nginx").arg("-v").output().is_ok() { "nginx" } else { "/usr/sbin/nginx" }
}

/// A running nginx. Killed when dropped.
pub struct Nginx {
    child: Child,
    port: Port,
    files: PathBuf,
}

impl Nginx {
    /// Serves the folder `files` below `dir`.
    pub fn start(dir: &Path) -> Nginx {
        let (port, files) = (Port::reserve(), dir.join("files"));
        std::fs::create_dir_all(&files).expect("a folder");
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
            events {{ worker_connections 256; }}
            http {{
                access_log off; client_max_body_size 0; keepalive_timeout 60s;
                client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
                uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
                server {{
                    listen {addr}; root {files};
                    location / {{
                        dav_methods PUT DELETE MKCOL COPY MOVE; create_full_put_path on; dav_access user:rw;
                    }}
                }}
            }}",
            dir = dir.display(),
            addr = port.addr,
            files = files.display(),
        );
        let file = dir.join("nginx.conf");
        std::fs::write(&file, config).expect("written");
        let child = Command::new(program())
            .arg("-e")
            .arg(dir.join("nginx.log"))
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx can be started");
        until_listening(port.addr);
        Nginx { child, port, files }
    }

    /// `http://ADDR`.
    pub fn url(&self) -> String {
        format!("http://{}", self.port.addr)
    }

    /// A file's text; `None` where there is none.
    pub fn file(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.files.join(path)).ok()
    }

    /// Where a file is.
    pub fn place(&self, path: &str) -> PathBuf {
        self.files.join(path)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
