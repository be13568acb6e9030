//! Temporary: the command line is being written.
use fencegate::resource::sqlite::{Limits, Options, Sqlite};
use fencegate::server::{Mount, Server, Setup};
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(std::env::var("FENCEGATE_LOG").unwrap_or("info".into()))
        .init();
    let args: Vec<String> = std::env::args().collect();
    let get = |key: &str, or: &str| args.iter().position(|a| a == key).map_or(or.to_owned(), |i| args[i + 1].clone());
    let options = Options {
        name: "app".into(),
        file: get("--sqlite", "main.db").into(),
        fence: get("--fence", "app").parse()?,
        tables: Vec::new(),
        limits: Limits::default(),
        enforce: !args.iter().any(|a| a == "--no-enforce"),
    };
    let resource = Arc::new(Sqlite::open(options)?);
    let setup = Setup {
        listen: get("--listen", "127.0.0.1:7070").parse()?,
        admin: get("--admin", "127.0.0.1:7071").parse()?,
        resources: vec![Mount { path: "/".into(), resource }],
        connections: 1000,
        header_time: Duration::from_secs(10),
        drain: Duration::from_secs(10),
        threads: 2,
    };
    let server = Server::start(setup)?;
    use std::io::Write;
    writeln!(std::io::stdout(), "listening data={} admin={}", server.data_addr(), server.admin_addr())?;
    server.run()?;
    Ok(())
}
