//! Many fenced writes at once to a database that is opened here, over connections of hyper's that no socket is behind: the writer thread
//! commits together what waits for it together.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use fencegate::resource::sqlite::{Limits, Options, Sqlite};
use fencegate::resource::{Call, Received, Resource};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

const CREATE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)";
const INSERT: &str = "INSERT INTO t (v) VALUES ('hello world')";
/// Bytes that may be under way on a connection.
const PIPE_BYTES: usize = 64 * 1024;

fn request(sql: &str) -> Vec<u8> {
    let body = format!(r#"{{"requests":[{{"type":"execute","stmt":{{"sql":"{sql}"}}}},{{"type":"close"}}]}}"#);
    let len = body.len();
    format!("POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\ncontent-length: {len}\r\n\r\n{body}")
        .into_bytes()
}

/// The database, and connections to it.
pub struct Batches {
    runtime: Runtime,
    tasks: LocalSet,
    resource: Arc<Sqlite>,
    conns: Vec<DuplexStream>,
    insert: Vec<u8>,
}

impl Batches {
    /// With one table.
    pub fn open(dir: &Path) -> Batches {
        let resource = Sqlite::open(Options {
            name: "app".into(),
            file: dir.join("app.db"),
            fence: "app".parse().expect("a name"),
            tables: Vec::new(),
            limits: Limits::default(),
            enforce: true,
            trust: None,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut batches = Batches {
            runtime,
            tasks: LocalSet::new(),
            resource: Arc::new(resource.expect("it opens")),
            conns: Vec::new(),
            insert: request(CREATE),
        };
        batches.connect(1);
        batches.write();
        batches.insert = request(INSERT);
        batches
    }

    /// From now on this many write at once.
    pub fn connect(&mut self, writers: usize) {
        self.conns.clear();
        for _ in 0..writers {
            let (client, server) = tokio::io::duplex(PIPE_BYTES);
            let resource = Arc::clone(&self.resource);
            let service = service_fn(move |request| serve(Arc::clone(&resource), request));
            let _inside = self.runtime.enter();
            self.tasks.spawn_local(http1::Builder::new().serve_connection(TokioIo::new(server), service));
            self.conns.push(client);
        }
    }

    /// Each of them writes once; back when all are answered, and so all is on the disk.
    pub fn write(&mut self) {
        let Batches { conns, insert, .. } = self;
        self.runtime.block_on(self.tasks.run_until(async {
            for conn in &mut *conns {
                conn.write_all(insert).await.expect("sent");
            }
            for conn in conns {
                answer(conn).await;
            }
        }));
    }
}

async fn serve(
    resource: Arc<Sqlite>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<fencegate::resource::Body>, Infallible> {
    let (parts, body) = Received::of(request).into_parts();
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let hyper::http::request::Parts { method, uri, version, headers, .. } = parts;
    let (below, is_secure, caller, upgrade) = (0, false, None, None);
    let call = Call { method, uri, below, version, headers, peer, is_secure, caller, body, upgrade };
    Ok(resource.call(call).wait().await.expect("it is admitted").response)
}

/// Reads one answer, which says that nothing failed.
async fn answer(conn: &mut DuplexStream) {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let got = conn.read(&mut piece).await.expect("an answer");
        assert!(got > 0, "the connection was closed");
        answer.extend_from_slice(&piece[..got]);
        // The last that a pipeline's answer says.
        if answer.ends_with(b"]}") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200") && !text.contains("\"type\":\"error\""), "{text}");
}
