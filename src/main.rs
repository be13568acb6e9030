//! Temporary.
use fencegate::resource::sqlite::*;
use fencegate::server::*;
use std::sync::Arc;
fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let file = std::env::args().nth(1).unwrap();
    let opts = Options {
        name: "app".into(),
        file: file.into(),
        fence: "app".parse().unwrap(),
        tables: vec![TableFence { pattern: "jobs".into(), fence: "scheduler".parse().unwrap() }],
        limits: Limits::default(),
        enforce: true,
    };
    let r = match Sqlite::open(opts) {
        Ok(r) => r,
        Err(e) => {
            eprintln!("{e}");
            return;
        }
    };
    let s = Server::start(Setup {
        listen: "127.0.0.1:7070".parse().unwrap(),
        admin: "127.0.0.1:7071".parse().unwrap(),
        resources: vec![Mount { path: "/".into(), resource: Arc::new(r) }],
        connections: 1000,
        header_time: std::time::Duration::from_secs(10),
        drain: std::time::Duration::from_secs(10),
        threads: 2,
    })
    .unwrap();
    println!("listening data={} admin={}", s.data_addr(), s.admin_addr());
    s.run().unwrap();
}
