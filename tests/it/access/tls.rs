//! TLS on the gate's listeners, with real handshakes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::Value;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use super::{Yes, config, grant, resources, secret};
use crate::process::{Client, Gate, PROGRAM, until};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A certificate authority, whose certificate is in `DIR/NAME.pem`.
fn authority(dir: &Path, name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join(name).with_extension("pem"), authority.pem()).unwrap();
    authority
}

/// A certificate with these names in `DIR/NAME.pem`, and its key in `DIR/NAME.key`.
fn certificate(dir: &Path, name: &str, by: &Authority, common: &str, names: Vec<SanType>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = names;
    params.distinguished_name.push(DnType::CommonName, common);
    let certificate = params.signed_by(&key, by).unwrap();
    // The key first: while it is written, certificate and key don't fit.
    std::fs::write(dir.join(name).with_extension("key"), key.serialize_pem()).unwrap();
    std::fs::write(dir.join(name).with_extension("pem"), certificate.pem()).unwrap();
}

fn dns(name: &str) -> Vec<SanType> {
    vec![SanType::DnsName(name.try_into().unwrap())]
}

fn server(dir: &Path, by: &Authority) {
    certificate(dir, "server", by, "gate", dns("localhost"));
}

/// How a client of a test comes.
struct Visit {
    ca: PathBuf,
    client: Option<PathBuf>,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: &'static [&'static [u8]],
}

impl Visit {
    fn new(dir: &Path, ca: &str) -> Visit {
        let ca = dir.join(ca).with_extension("pem");
        Visit { ca, client: None, versions: vec![&TLS13, &TLS12], alpn: &[b"http/1.1"] }
    }

    fn of(dir: &Path, client: &str) -> Visit {
        Visit { client: Some(dir.join(client)), ..Visit::new(dir, "ca") }
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let chain = vec![CertificateDer::from_pem_file(client.with_extension("pem")).unwrap()];
                let key = PrivateKeyDer::from_pem_file(client.with_extension("key")).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        config
    }

    fn open(&self, addr: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(self.config()), name).unwrap();
        StreamOwned::new(connection, TcpStream::connect(addr).unwrap())
    }

    /// One request on a connection of its own: the status and the whole answer, or what went wrong with TLS.
    fn ask(&self, addr: SocketAddr, line: &str, headers: &str) -> Result<(u16, String), String> {
        let mut stream = self.open(addr);
        let request =
            format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok((status, answer))
    }

    /// The status of a question that needs no right.
    fn health(&self, addr: SocketAddr) -> Result<u16, String> {
        self.ask(addr, "GET /-/healthz", "").map(|(status, _)| status)
    }
}

/// A gate with TLS on both listeners.
fn gate(dir: &Path, more_tls: &str, more: &str) -> Gate {
    let tls = format!("cert = \"server.pem\"\nkey = \"server.key\"\n{more_tls}");
    let upstream = Yes::start();
    let text = format!("[tls]\n{tls}[admin_tls]\n{tls}{}{more}", resources(upstream.addr));
    Gate::start(dir, &["--config", &config(dir, &text)])
}

#[test]
fn both_versions_both_listeners_and_no_stranger() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path(), "ca");
    authority(dir.path(), "stranger");
    server(dir.path(), &ca);
    let upstream = Yes::start();
    let tls = "[tls]\ncert = \"server.pem\"\nkey = \"server.key\"\n";
    let both = format!("{tls}{}{}", tls.replace("[tls]", "[admin_tls]"), resources(upstream.addr));
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &both)]);
    for versions in [vec![&TLS12], vec![&TLS13]] {
        let visit = Visit { versions, ..Visit::new(dir.path(), "ca") };
        assert_eq!(visit.health(gate.data), Ok(200));
        assert_eq!(visit.ask(gate.admin, "GET /v1/status", "").unwrap().0, 200);
    }
    assert!(Visit::new(dir.path(), "stranger").health(gate.data).unwrap_err().contains("UnknownIssuer"));
    // Requests over TLS are judged as all are, and an upstream learns how they came.
    let visit = Visit::new(dir.path(), "ca");
    assert_eq!(visit.ask(gate.data, "PUT /stock/a/1", "fencing-token: 7\r\n").unwrap().0, 200);
    let (status, stale) = visit.ask(gate.data, "PUT /stock/a/1", "fencing-token: 6\r\n").unwrap();
    assert!(status == 412 && stale.contains("STALE_TOKEN"), "{stale}");
    let heads = upstream.heads.lock().unwrap().join("");
    assert!(heads.contains("x-forwarded-proto: https\r\n") && heads.contains(";proto=https"), "{heads}");
}

#[test]
fn http2_is_agreed_on() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path(), "ca");
    server(dir.path(), &ca);
    let gate = gate(dir.path(), "", "");
    let visit = Visit { alpn: &[b"h2", b"http/1.1"], ..Visit::new(dir.path(), "ca") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(visit.config()));
        let stream = tokio::net::TcpStream::connect(gate.data).await.unwrap();
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let uri = "https://localhost/-/fences/shop";
        let request = hyper::Request::get(uri).body(Empty::<bytes::Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
        let body: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(body["fence"], "shop");
    });
}

#[test]
fn plain_http_is_told_and_silence_costs_little() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority(dir.path(), "ca");
    server(dir.path(), &ca);
    let gate = gate(dir.path(), "", "");
    let mut plain = Client::connect(gate.data).unwrap();
    plain.send(b"GET /-/healthz HTTP/1.1\r\nhost: gate\r\n\r\n").unwrap();
    let told = plain.read_until_end();
    assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("https://"), "{told}");
    // What is no TLS though it begins like it, and connections that say nothing or break off, harm nobody.
    let mut odd = Client::connect(gate.data).unwrap();
    odd.send(&[22, 3, 1, 255, 255, 0, 1, 2, 3]).unwrap();
    odd.read_until_end();
    let silent: Vec<Client> = (0..600).map(|_| Client::connect(gate.data).unwrap()).collect();
    let mut begun: Vec<Client> = (0..300).map(|_| Client::connect(gate.data).unwrap()).collect();
    begun.iter_mut().for_each(|client| client.send(&[22, 3, 1]).unwrap());
    assert_eq!(
        Visit::new(dir.path(), "ca").health(gate.data),
        Ok(200),
        "there are more of them than places for handshakes"
    );
    drop((silent, begun));
}

#[test]
fn certificates_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, next) = (authority(dir.path(), "ca"), authority(dir.path(), "next"));
    server(dir.path(), &ca);
    let gate = gate(dir.path(), "", "");
    let (old, new) = (Visit::new(dir.path(), "ca"), Visit::new(dir.path(), "next"));
    let mut open = old.open(gate.data);
    open.write_all(b"GET /-/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut byte = [0; 64];
    assert!(open.read(&mut byte).unwrap() > 0);
    // A new certificate whose key is not there yet; and one that is none.
    let reloads = |outcome: &str| {
        let metrics = Visit::new(dir.path(), "ca").ask(gate.admin, "GET /metrics", "").unwrap().1;
        let line = format!("fencegate_tls_reloads_total{{listener=\"data\",outcome=\"{outcome}\"}} ");
        metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse::<u64>().ok()).unwrap_or(0)
    };
    certificate(dir.path(), "half", &next, "gate", dns("localhost"));
    std::fs::copy(dir.path().join("half.pem"), dir.path().join("server.pem")).unwrap();
    until("a certificate without its key is turned down", || reloads("kept") == 1);
    assert_eq!(old.health(gate.data), Ok(200), "the one before stays");
    std::fs::write(dir.path().join("server.pem"), "no certificate").unwrap();
    until("so is what is none", || reloads("kept") == 2);
    assert_eq!(old.health(gate.data), Ok(200));
    server(dir.path(), &next);
    until("the new one is shown", || new.health(gate.data) == Ok(200));
    assert!(old.health(gate.data).is_err());
    open.write_all(b"GET /-/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 200 OK"), "a connection goes on as it began: {rest}");
}

#[test]
fn the_names_of_client_certificates_are_principals() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, clients) = (authority(dir.path(), "ca"), authority(dir.path(), "clients"));
    let stranger = authority(dir.path(), "stranger");
    server(dir.path(), &ca);
    let uri = |name: &str| vec![SanType::URI(name.try_into().unwrap())];
    let email = |name: &str| vec![SanType::Rfc822Name(name.try_into().unwrap())];
    for (file, by, common, names) in [
        ("node", &clients, "x", dns("node-a.example")),
        ("spiffe", &clients, "x", uri("spiffe://prod/worker")),
        ("mail", &clients, "x", email("ops@example.org")),
        ("common", &clients, "old-style", Vec::new()),
        // Another name; the right name as another kind; the right name by another authority.
        ("other", &clients, "x", dns("node-b.example")),
        ("kind", &clients, "node-a.example", email("old-style@example.org")),
        ("forged", &stranger, "x", dns("node-a.example")),
    ] {
        certificate(dir.path(), file, by, common, names);
    }
    let reads = grant("*", "*", &["read"]);
    let names = ["dns:Node-A.example", "uri:spiffe://prod/worker", "email:ops@example.org", "cn:old-style"];
    let principals: String = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            format!("[[principal]]\nname = \"p{index}\"\ncertificate = \"{name}\"\ngrants = [{reads}]\n")
        })
        .collect();
    let by_secret = super::principal("by-secret", 1, &grant("*", "*", &["observe"]));
    let all = format!("{principals}{by_secret}");
    let gate = gate(dir.path(), "client_ca = \"clients.pem\"\nclient_auth = \"optional\"\n", &all);
    let read = |visit: &Visit, headers: &str| visit.ask(gate.data, "GET /stock/a/1", headers).map(|(status, _)| status);
    for name in ["node", "spiffe", "mail", "common"] {
        assert_eq!(read(&Visit::of(dir.path(), name), ""), Ok(200), "{name}");
        let admin = Visit::of(dir.path(), name).ask(gate.admin, "GET /v1/fences", "").unwrap();
        assert_eq!(admin.0, 200, "{name}");
    }
    for name in ["other", "kind"] {
        assert_eq!(read(&Visit::of(dir.path(), name), ""), Ok(401), "{name}");
    }
    assert_eq!(read(&Visit::new(dir.path(), "ca"), ""), Ok(401), "no certificate");
    assert!(read(&Visit::of(dir.path(), "forged"), "").is_err(), "its authority isn't one of ours");
    // A secret that is shown is what counts, good or bad.
    let node = Visit::of(dir.path(), "node");
    assert_eq!(read(&node, &format!("authorization: Bearer {}\r\n", secret(1).0)), Ok(403));
    assert_eq!(read(&node, &format!("authorization: Bearer {}\r\n", secret(2).0)), Ok(401));
    assert_eq!(read(&node, "authorization: Bearer of-the-upstream\r\n"), Ok(200));
}

#[test]
fn a_client_certificate_can_be_required() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, clients) = (authority(dir.path(), "ca"), authority(dir.path(), "clients"));
    server(dir.path(), &ca);
    certificate(dir.path(), "node", &clients, "x", dns("node-a.example"));
    let gate = gate(dir.path(), "client_ca = \"clients.pem\"\n", "");
    assert_eq!(Visit::of(dir.path(), "node").health(gate.data), Ok(200));
    assert!(Visit::new(dir.path(), "ca").health(gate.data).is_err());
}

#[test]
fn commands_reach_a_gate_with_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, clients) = (authority(dir.path(), "ca"), authority(dir.path(), "clients"));
    server(dir.path(), &ca);
    certificate(dir.path(), "node", &clients, "x", dns("node-a.example"));
    let node = format!(
        "[[principal]]\nname = \"node\"\ncertificate = \"dns:node-a.example\"\ngrants = [{}]\n",
        grant("*", "*", &["read", "write", "operate"])
    );
    let worker = super::principal("worker", 1, &grant("*", "*", &["read", "write"]));
    let clients = "client_ca = \"clients.pem\"\nclient_auth = \"optional\"\n";
    let gate = gate(dir.path(), clients, &format!("{node}{worker}"));
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = |args: &[&str], secret: Option<&str>| {
        let mut command = Command::new(PROGRAM);
        command.args(args).args(["--ca", &file("ca.pem")]);
        command.env("FENCEGATE_URL", format!("https://localhost:{}", gate.data.port()));
        command.env("FENCEGATE_ADMIN_URL", format!("https://localhost:{}", gate.admin.port()));
        secret.map(|secret| command.env("FENCEGATE_SECRET", secret));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    };
    let (worker, wrong) = (secret(1).0, secret(2).0);
    let insert = ["sql", "--path", "/shop", "--token", "7", "CREATE TABLE t (v)"];
    assert_eq!(run(&insert, Some(&worker)).0, 0);
    let (status, told) = run(&insert, Some(&wrong));
    assert!(status == 77 && !told.contains(&wrong[4..]), "{told}");
    assert_eq!(run(&insert, None).0, 77);
    assert_eq!(run(&["claim", "shop", "8"], Some(&worker)).0, 0);
    assert_eq!(run(&["status", "--election", "shop"], Some(&worker)).0, 0);
    let certificates = ["--cert", &file("node.pem"), "--key", &file("node.key")];
    let mut reset = vec!["fences", "reset", "shop", "--to", "3", "--reason", "x", "--yes"];
    assert_eq!(run(&reset, Some(&worker)).0, 77, "operators only");
    reset.extend(certificates);
    assert_eq!(run(&reset, None).0, 0);
    std::fs::write(dir.path().join("secret"), format!("{worker}\n")).unwrap();
    let secret_file = file("secret");
    assert_eq!(run(&["fences", "list", "--secret-file", &secret_file], None).0, 0);
    // The command of a leader finds all that it needs in its environment.
    let script =
        format!("'{PROGRAM}' sql --path /shop \"INSERT INTO t VALUES ('led')\" && echo \"$FENCEGATE_AUTH_TOKEN\"");
    let lead = ["lead", "--election", "shop", "--secret-file", &secret_file, "--ca", &file("ca.pem"), "--log", "debug"];
    let mut command = Command::new(PROGRAM);
    command.args(lead).args(["--", "sh", "-c", &script]);
    command.env("FENCEGATE_URL", format!("https://localhost:{}", gate.data.port()));
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains(&format!(".{}", &worker[4..])), "the fgt. form has the secret: {out}");
    assert!(!err.contains(&worker[4..]), "{err}");
}
