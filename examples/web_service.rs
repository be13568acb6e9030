//! A web service of which several copies run and one writes:
//!
//! ```sh
//! fencegate serve                                                # elects, and keeps the database
//! LISTEN=127.0.0.1:8080 cargo run --example web_service          # and another at 127.0.0.1:8081
//! curl -X POST -d alice http://127.0.0.1:8080/visits             # 201, or 503 from the copy that doesn't lead
//! curl http://127.0.0.1:8080/visits
//! ```
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use fencegate::client::{self, Applied, Error, Fenced, Gate, params};
use fencegate::coordinator::{Bid, GateCoordinator};
use fencegate::fence::FenceName;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::RETRY_AFTER;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

/// What may write, while this copy leads.
type Leads = watch::Receiver<Option<Fenced>>;

fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = setting("FENCEGATE_URL", "http://127.0.0.1:7070");
    let election = setting("ELECTION", "main").parse()?;
    let ttl = Duration::from_millis(setting("LEASE_MS", "10000").parse()?);
    let bid = Bid { holder: Some(format!("web-{}", std::process::id()).parse()?), ttl };
    let listener = tokio::net::TcpListener::bind(setting("LISTEN", "127.0.0.1:8080")).await?;
    println!("listening on {}", listener.local_addr()?);
    let (tells, leads) = watch::channel(None);
    tokio::spawn(serve(listener, leads));
    stand(&url, &election, &bid, &tells).await
}

/// Leads whenever it is this copy's turn, and says so to those who serve.
async fn stand(
    url: &str,
    election: &FenceName,
    bid: &Bid,
    tells: &watch::Sender<Option<Fenced>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (elections, gate) = (GateCoordinator::new(url)?, Gate::new(url)?);
    loop {
        let leadership = client::campaign(&elections, election, bid).await?;
        match lead(&gate, &leadership, election).await {
            Ok(fenced) => {
                println!("leading with token {}", leadership.token());
                tells.send_replace(Some(fenced));
                println!("stepping down: {}", leadership.lost().await);
            }
            Err(error) => println!("not leading after all: {error}"),
        }
        tells.send_replace(None);
        let _ = leadership.resign().await;
    }
}

/// Claims first, so that what is read from now on can't be changed by a predecessor.
async fn lead(gate: &Gate, leadership: &client::Leadership, election: &FenceName) -> Result<Fenced, Error> {
    let fenced = gate.fenced(leadership, election).await?;
    fenced.sql("/").execute("CREATE TABLE IF NOT EXISTS visits (who TEXT, token INTEGER)", ()).await?;
    Ok(fenced)
}

async fn serve(listener: tokio::net::TcpListener, leads: Leads) {
    while let Ok((stream, _)) = listener.accept().await {
        let leads = leads.clone();
        let service = hyper::service::service_fn(move |request| answer(request, leads.clone()));
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, leads: Leads) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(fenced) = leads.borrow().clone() else {
        return Ok(say(StatusCode::SERVICE_UNAVAILABLE, "another copy leads\n"));
    };
    let outcome = match (request.method(), request.uri().path()) {
        (&Method::POST, "/visits") => visit(&fenced, request).await,
        (&Method::GET, "/visits") => visits(&fenced).await,
        _ => Ok(say(StatusCode::NOT_FOUND, "POST or GET /visits\n")),
    };
    // What the visitor is told depends on one thing only: whether it was written.
    Ok(outcome.unwrap_or_else(|error| match error.applied() {
        Applied::Yes => say(StatusCode::CREATED, "welcome; this copy led until just now\n"),
        Applied::No => say(StatusCode::SERVICE_UNAVAILABLE, &format!("not written, please try again: {error}\n")),
        Applied::Unknown => say(StatusCode::GATEWAY_TIMEOUT, &format!("it may have been written: {error}\n")),
    }))
}

async fn visit(fenced: &Fenced, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Error> {
    let Ok(body) = Limited::new(request.into_body(), 1024).collect().await else {
        return Ok(say(StatusCode::PAYLOAD_TOO_LARGE, "a name has at most 1024 bytes\n"));
    };
    let who = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let token = fenced.leadership().token();
    fenced.sql("/").execute("INSERT INTO visits VALUES (?, ?)", params![who, token]).await?;
    Ok(say(StatusCode::CREATED, "welcome\n"))
}

async fn visits(fenced: &Fenced) -> Result<Response<Full<Bytes>>, Error> {
    let rows = fenced.sql("/").query("SELECT who FROM visits ORDER BY rowid", ()).await?;
    let names = rows.iter().map(|row| row.get::<String>("who")).collect::<Result<Vec<_>, _>>()?;
    Ok(say(StatusCode::OK, &format!("{}\n", names.join("\n"))))
}

fn say(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, hyper::header::HeaderValue::from_static("1"));
    }
    response
}
