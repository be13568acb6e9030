//! Telling systemd how it goes (sd_notify(3)): ready, stopping, and at intervals that the gate is alive. Without it, nothing.

use std::ffi::OsStr;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The socket that whoever started this process hears of it by. Nothing is ever waited for: where it can't be told, it isn't.
#[derive(Debug)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// Within which time to tell that the gate is alive.
    watchdog: Option<Duration>,
}

impl Notify {
    /// What the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn from_environment() -> Notify {
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name));
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|time| *time > 0 && is_ours && to.is_some());
        Notify { to, watchdog: watchdog.map(Duration::from_micros) }
    }

    fn say(&self, what: &str) {
        if let Some((socket, to)) = &self.to
            && let Err(error) = socket.send_to_addr(what.as_bytes(), to)
        {
            tracing::debug!(%error, "systemd can't be told: {what}");
        }
    }

    /// The gate serves.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// The gate stops.
    pub fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping: requests in work finish\n");
    }

    /// Tells that the gate is alive, for ever, at half the interval that was asked for. Run by the main thread: where that hangs, it ends.
    pub async fn keep_alive(&self) {
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        let mut ticks = tokio::time::interval(watchdog / 2);
        loop {
            ticks.tick().await;
            self.say("WATCHDOG=1\n");
        }
    }
}

fn open(name: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}
