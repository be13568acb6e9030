//! Who may do what: principals, TLS.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fencegate::access::Secret;

mod credentials;
mod rights;
mod secrets;
mod tls;

/// A secret that tests know, and its hash: of 32 bytes with this value.
pub fn secret(byte: u8) -> (String, String) {
    let secret = Secret::from_bytes(&[byte; 32]).unwrap();
    (secret.reveal(), secret.hash().to_string())
}

/// A `[[principal]]` with this secret and these grants.
pub fn principal(name: &str, byte: u8, grants: &str) -> String {
    format!("[[principal]]\nname = \"{name}\"\nsecret_hash = \"{}\"\ngrants = [{grants}]\n", secret(byte).1)
}

pub fn grant(resource: &str, fence: &str, rights: &[&str]) -> String {
    format!("{{ resource = \"{resource}\", fence = \"{fence}\", rights = {rights:?} }}, ")
}

/// A database `shop` with a table `jobs` that has the fence `scheduler`, and an HTTP service `stock` with a fence for each path.
pub fn resources(upstream: SocketAddr) -> String {
    format!(
        "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\ntables = {{ \"jobs\" = \"scheduler\" }}\n\
         [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"http://{upstream}\"\nfence = \"stock/{{1}}\"\n"
    )
}

/// Writes a configuration; its path as an argument.
pub fn config(dir: &Path, text: &str) -> String {
    let file: PathBuf = dir.join("gate.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// An upstream that says yes to everything, and keeps the heads of what it was asked.
pub struct Yes {
    pub addr: SocketAddr,
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Yes {
    pub fn start() -> Yes {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, heads) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let told = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let told = Arc::clone(&told);
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    let mut head = String::new();
                    while stream.read_line(&mut head).is_ok_and(|len| len > 0) {
                        if head.ends_with("\r\n\r\n") {
                            told.lock().unwrap().push(std::mem::take(&mut head));
                            let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                        }
                    }
                });
            }
        });
        Yes { addr, heads }
    }
}
