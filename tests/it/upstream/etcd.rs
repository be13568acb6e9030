//! etcd, written to through its JSON gateway.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Port;
use crate::process::{Client, until};

/// A running etcd of one member. Killed when dropped.
pub struct Etcd {
    child: Child,
    port: Port,
}

impl Etcd {
    pub fn start(dir: &Path) -> Etcd {
        let (port, peers) = (Port::reserve(), Port::reserve());
        let (clients, peers) = (format!("http://{}", port.addr), format!("http://{}", peers.addr));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.join("etcd"))
            .args(["--name", "one", "--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("one={peers}"), "--unsafe-no-fsync", "--logger", "zap"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd can be started");
        let etcd = Etcd { child, port };
        until("etcd has a leader", || etcd.try_get("anything").is_some());
        etcd
    }

    /// `http://ADDR`.
    pub fn url(&self) -> String {
        format!("http://{}", self.port.addr)
    }

    fn try_get(&self, key: &str) -> Option<Value> {
        let mut client = Client::connect(self.port.addr).ok()?;
        let answer = client.request("POST", "/v3/kv/range", &[], get(key).as_bytes()).ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// A key's value, past the gate.
    pub fn value(&self, key: &str) -> Option<String> {
        value(&self.try_get(key).expect("etcd answers"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body that reads a key.
pub fn get(key: &str) -> String {
    json!({ "key": STANDARD.encode(key) }).to_string()
}

/// The body that sets one.
pub fn put(key: &str, value: &str) -> String {
    json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) }).to_string()
}

/// The value in an answer to [`get`].
pub fn value(answer: &Value) -> Option<String> {
    let bytes = STANDARD.decode(answer["kvs"][0]["value"].as_str()?).expect("base64");
    Some(String::from_utf8(bytes).expect("UTF-8"))
}
