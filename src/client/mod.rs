//! What a program uses that leads and writes.
//!
//! - [`leadership`]: a term of leadership that is kept alive in the background, and known to be over when it is
//! - [`lease`]: until when a lease is known to be alive, by the local clock. Pure
//! - [`clock`]: the clock that this is counted by
//! - [`gate`]: a gate, and the claim that comes before everything else
//! - [`sql`], [`http`]: reading and writing through it
//! - [`error`]: what can go wrong, sorted by what a leader has to know
//! - `bound.rs`, `told.rs`: how every request goes out and is tried again; what its answer says
//!
//! **Invariant.** Once a [`Leadership`] has said that it may be lost, it never again says that it is alive.
//!
//! ```
//! use std::time::Duration;
//! use fencegate::client::{self, Error, Gate, params};
//! use fencegate::coordinator::{Bid, GateCoordinator};
//!
//! async fn lead(url: &str) -> Result<(), Box<dyn std::error::Error>> {
//!     // Stand for election, and wait for as long as it takes. Who has the gate elect needs no other server.
//!     let (orders, bid) = ("orders".parse()?, Bid { holder: Some("node-a".parse()?), ttl: Duration::from_secs(10) });
//!     let leadership = client::campaign(&GateCoordinator::new(url)?, &orders, &bid).await?;
//!     // Claim the fence: from here on no predecessor can write, and what is read stays true.
//!     let fenced = Gate::new(url)?.fenced(&leadership, &orders).await?;
//!     let db = fenced.sql("/");
//!     db.execute("CREATE TABLE IF NOT EXISTS ticks (who TEXT, token INTEGER)", ()).await?;
//!     match db.execute("INSERT INTO ticks VALUES (?, ?)", params!["node-a", leadership.token()]).await {
//!         Ok(_) => println!("written, and the leader still"),
//!         Err(error) if error.is_over() => println!("no longer the leader: {error}"),
//!         Err(Error::Unknown { message, .. }) => println!("look whether it is there: {message}"),
//!         Err(error) => println!("surely not applied: {error}"),
//!     }
//!     // So that the next one needn't wait for the lease to run out.
//!     leadership.resign().await?;
//!     Ok(())
//! }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     let dir = tempfile::tempdir()?;
//! #     let any = Some("127.0.0.1:0".to_owned());
//! #     let (listen, admin, data_dir, fence) = (any.clone(), any, Some(dir.path().into()), Some("orders".into()));
//! #     let overrides = fencegate::config::Overrides { listen, admin, data_dir, fence, ..Default::default() };
//! #     let config = fencegate::config::Config::without_file(&overrides)?;
//! #     let (told, mut tells) = std::io::pipe()?;
//! #     std::thread::spawn(move || fencegate::server::serve(config, &mut tells).expect("the gate serves"));
//! #     let mut line = String::new();
//! #     std::io::BufRead::read_line(&mut std::io::BufReader::new(told), &mut line)?;
//! #     let addr = line.split_whitespace().find_map(|word| word.strip_prefix("data=")).expect("an address");
//! #     tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(lead(&format!("http://{addr}")))
//! # }
//! ```

mod bound;
pub mod clock;
pub mod error;
pub mod gate;
pub mod http;
pub mod leadership;
pub mod lease;
pub mod sql;
mod told;

pub use crate::params;
pub use error::{Applied, Error, NotApplied, Refused, Unknown};
pub use gate::{Fenced, Gate};
pub use http::{Answer, Http};
pub use leadership::{Leadership, campaign};
pub use lease::Lost;
pub use sql::{Executed, FromValue, Params, Row, Rows, Sql, Statement, Transaction, Value, ValueError};
