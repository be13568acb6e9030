//! Listeners, routes, requests in and responses out. A running gate is [`Server::start`], then [`Server::run`].
//!
//! - [`data`]: the data listener's routes: resources, `/-/fences`, `/-/elections`
//! - [`elections`]: the embedded coordinator's routes
//! - [`admin`]: the admin listener's routes: state, history, metrics, events
//! - [`console`]: the page that it shows in a browser; [`origin`]: which browsers' requests it takes; [`listing`]: fences for both
//! - [`routes`]: the tables of the gate's own paths; [`openapi`]: the documents that describe them
//! - [`respond`]: the one place where an outcome becomes a response
//! - [`guard`]: who asks, and whether that may
//! - [`tls`](mod@tls): handshakes
//! - [`http`]: accepting connections and speaking HTTP on them; [`places`]: how many there may be; [`descriptors`]: for how many the
//!   operating system has room; [`memory`]: what all limits come to
//! - [`pace`]: how fast refusals are told

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, broadcast, watch};

use crate::coordinator::embedded::Embedded;
use crate::fence::FenceName;
use crate::resource::Resource;
use crate::resource::threads::abort;

pub mod admin;
pub mod console;
pub mod data;
pub mod descriptors;
pub mod elections;
pub mod events;
pub mod guard;
pub mod http;
mod in_work;
pub mod listing;
pub mod memory;
pub mod metrics;
mod notify;
pub mod openapi;
pub mod origin;
pub mod pace;
pub mod places;
pub mod plain;
pub mod respond;
pub mod routes;
mod serve;
pub mod tls;
mod trust;

pub use guard::Guard;
use pace::Pace;
use places::Places;
pub use serve::serve;

/// How many threads serve: one for each processor that this process may use.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The text, if it is a whole number in digits and nothing else: Rust would take a sign, too.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// What a gate is made of.
#[allow(missing_debug_implementations, reason = "resources are trait objects")]
pub struct Setup {
    /// Address of the data listener; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Address of the admin listener; port 0 picks a free one.
    pub admin: SocketAddr,
    /// Names under which the admin listener may be asked, besides its addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    /// The resources, each with its mount point: `/`, or `/shop` without a slash at its end.
    pub resources: Vec<Mount>,
    /// The embedded coordinator, if there is one.
    pub coordinator: Option<Embedded>,
    /// Who may do what, and TLS.
    pub guard: Guard,
    /// Most connections open at once on the data listener.
    pub connections: usize,
    /// The same, on the admin listener.
    pub admin_connections: usize,
    /// How long a connection may take to send the next request's headers: so long an unused one is kept.
    pub header_time: Duration,
    /// How long a client of the data listener may take nothing of what it is sent.
    pub send_time: Duration,
    /// How many refusals each thread tells at once in a second, while others are served.
    pub refusals: usize,
    /// How long requests in work may take to finish when the gate stops.
    pub drain: Duration,
    /// Threads that serve connections.
    pub threads: usize,
}

/// A resource at its mount point.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "resources are trait objects")]
pub struct Mount {
    /// `/`, or `/shop` without a slash at its end.
    pub path: String,
    /// The resource.
    pub resource: Arc<dyn Resource>,
}

/// Why a gate can't start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address can't be listened on.
    #[error("can't listen on {addr} ({which}): {source}{hint}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// `data listener` or `admin listener`.
        which: &'static str,
        /// What the operating system said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A resource can't be opened.
    #[error("resource {name}: {why}")]
    Resource {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// A coordinator can't be asked, whatever it would say.
    #[error("coordinator {name}: {why}")]
    Coordinator {
        /// Its address.
        name: String,
        /// Why.
        why: String,
    },
    /// The data directory can't be used.
    #[error("data directory {dir}: {why}")]
    DataDir {
        /// The directory.
        dir: String,
        /// Why.
        why: String,
    },
    /// A listener's certificate or key can't be used.
    #[error("TLS of the {which}: {why}")]
    Tls {
        /// `data listener` or `admin listener`.
        which: &'static str,
        /// Why.
        why: String,
    },
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// What all the threads of a gate share.
#[allow(missing_debug_implementations, reason = "resources are trait objects")]
pub struct Gate {
    /// The resources, the longest mount point first.
    pub mounts: Vec<Mount>,
    /// The embedded coordinator, if there is one.
    pub coordinator: Option<Embedded>,
    /// Whether requests are welcome: false once the gate is stopping.
    pub ready: AtomicBool,
    /// When it started.
    pub started: Instant,
    /// The bound address of the data listener.
    pub data_addr: SocketAddr,
    /// The bound address of the admin listener.
    pub admin_addr: SocketAddr,
    /// The metrics.
    pub metrics: PrometheusHandle,
    /// What happens, for whoever watches.
    pub events: broadcast::Sender<Arc<events::Event>>,
    /// Who may do what, and TLS.
    pub guard: Guard,
    /// Places for those who watch.
    pub watchers: Arc<Semaphore>,
    /// The places for connections of the data listener.
    pub data_places: Arc<Places>,
    /// The same, of the admin listener.
    pub admin_places: Arc<Places>,
    /// How fast refusals are told.
    pub pace: Pace,
    /// What was refused lately.
    pub recent: console::recent::Recent,
    /// Names under which the admin listener may be asked, besides its addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    counters: Vec<metrics::RequestCounters>,
}

impl Gate {
    /// The fences that an election of the embedded coordinator gives tokens for, each with its resource's name.
    pub fn fences_of(&self, election: &FenceName) -> Vec<(String, FenceName)> {
        match &self.guard.elections {
            Some(fences) => fences(election),
            None => {
                self.resource_of(election).map(|one| (one.name().to_owned(), election.clone())).into_iter().collect()
            }
        }
    }

    /// The resource that has a fence of this name.
    pub fn resource_of(&self, fence: &str) -> Option<&Arc<dyn Resource>> {
        self.mounts.iter().map(|mount| &mount.resource).find(|resource| resource.fence(fence).is_some())
    }
}

/// A gate whose listeners are bound.
#[allow(missing_debug_implementations, reason = "resources are trait objects")]
pub struct Server {
    gate: Arc<Gate>,
    /// The main thread's runtime, made early: from the moment that the addresses are told, a signal has to find its handler.
    runtime: Runtime,
    signals: Signals,
    /// A runtime and a handle of the data listener for each thread that serves: all that may fail has been done before the addresses are
    /// told. A thread that couldn't begin would leave a gate behind that runs and hears nobody.
    serving: Vec<(Runtime, TcpListener)>,
    admin: TcpListener,
    drain: Duration,
}

fn bind(addr: SocketAddr, which: &'static str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source: std::io::Error| {
        let hint = match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another program has this port: stop it, or choose another (0 picks a free one)"
            }
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
            _ => "",
        };
        ServeError::Listen { addr, which, source, hint }
    };
    let listener = TcpListener::bind(addr).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// How long a client of the admin listener may leave what it was sent: a browser that reads its stream of events no more gives its
/// place back.
const SILENT: Duration = Duration::from_secs(60);

/// Connections of this listener end where the other side takes nothing for so long. They inherit that from it (tcp(7)).
fn give_up_on_silent_peers(listener: &TcpListener, after: Duration) -> Result<(), ServeError> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(listener)
        .set_tcp_user_timeout(Some(after))
        .map_err(|source| ServeError::System { what: "setting up a listener", source })?;
    Ok(())
}

impl Server {
    /// Binds the listeners.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub fn start(setup: Setup) -> Result<Server, ServeError> {
        let Setup {
            listen,
            admin,
            admin_hosts,
            mut resources,
            coordinator,
            guard,
            connections,
            admin_connections,
            header_time,
            send_time,
            refusals,
            drain,
            threads,
        } = setup;
        let (data, data_addr) = bind(listen, "data listener")?;
        let (admin, admin_addr) = bind(admin, "admin listener")?;
        give_up_on_silent_peers(&data, send_time)?;
        give_up_on_silent_peers(&admin, SILENT)?;
        resources.sort_by_key(|mount| std::cmp::Reverse(mount.path.len()));
        let metrics = metrics::install();
        let gate = Gate {
            counters: resources.iter().map(|mount| metrics::RequestCounters::new(mount.resource.name())).collect(),
            mounts: resources,
            coordinator,
            ready: AtomicBool::new(true),
            started: Instant::now(),
            data_addr,
            admin_addr,
            metrics,
            events: broadcast::channel(events::KEPT).0,
            guard,
            watchers: Arc::new(Semaphore::new(events::STREAMS_MAX)),
            data_places: Places::new("data", connections, header_time),
            admin_places: Places::new("admin", admin_connections, header_time),
            pace: Pace::new(refusals),
            recent: console::recent::Recent::default(),
            admin_hosts,
        };
        let system = |what| move |source| ServeError::System { what, source };
        let runtime = runtime().map_err(system("starting the runtime"))?;
        let signals = runtime.block_on(async { Signals::new() }).map_err(system("listening for signals"))?;
        let serving =
            (0..threads.max(1)).map(|_| Ok((self::runtime()?, data.try_clone()?))).collect::<std::io::Result<_>>();
        let serving = serving.map_err(system("preparing to serve"))?;
        Ok(Server { gate: Arc::new(gate), runtime, signals, serving, admin, drain })
    }

    /// The bound address of the data listener.
    pub fn data_addr(&self) -> SocketAddr {
        self.gate.data_addr
    }

    /// The bound address of the admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.gate.admin_addr
    }

    /// Serves until SIGTERM or SIGINT, then drains: not ready any more, no new connections, requests in work finish, resources
    /// are closed. A second signal ends the draining.
    ///
    /// # Errors
    /// [`ServeError::System`].
    pub fn run(self) -> Result<(), ServeError> {
        let system = |what| move |source| ServeError::System { what, source };
        let (stop, stopping) = watch::channel(false);
        let mut workers = Vec::with_capacity(self.serving.len());
        for (number, (runtime, listener)) in self.serving.into_iter().enumerate() {
            let (gate, stopping, drain) = (Arc::clone(&self.gate), stopping.clone(), self.drain);
            let places = Arc::clone(&gate.data_places);
            let settings = http::Settings { places, tls: gate.guard.tls.clone() };
            let serve = move || worker(&gate, &runtime, listener, settings, stopping, drain);
            let thread = std::thread::Builder::new().name(format!("fg-serve-{number}")).spawn(serve);
            workers.push(thread.map_err(system("starting a thread"))?);
        }
        let runtime = self.runtime;
        let places = Arc::clone(&self.gate.admin_places);
        let http = http::Settings { places, tls: self.gate.guard.admin_tls.clone() };
        runtime.block_on(self.gate.attend(self.signals, self.admin, http, stop, workers, self.drain));
        drop(stopping);
        for mount in &self.gate.mounts {
            mount.resource.stop();
        }
        tracing::info!("stopped");
        // Waits for nothing: after a second signal, one of its threads still waits for requests in work.
        runtime.shutdown_background();
        Ok(())
    }
}

/// One current-thread runtime a thread: cheaper than one runtime over all of them, since a request never changes threads here.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn worker(
    gate: &Arc<Gate>,
    runtime: &Runtime,
    listener: TcpListener,
    settings: http::Settings,
    stopping: watch::Receiver<bool>,
    drain: Duration,
) {
    let gate = Arc::clone(gate);
    let served = runtime.block_on(async move {
        tokio::spawn(tick(gate.started));
        let serve = move |request, peer| data::handle(Arc::clone(&gate), request, peer);
        http::accept(listener, settings, stopping, drain, serve).await
    });
    if let Err(error) = served {
        abort(&format!("the data listener can't be used: {error}"));
    }
}

/// Wakes once a second for nothing. A timer that would end before all others makes its runtime write to itself, which is a system
/// call: the timeouts of requests are longer than this, so that none of them does.
///
/// For the pace of refusals it counts the seconds.
async fn tick(began: Instant) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        pace::tick(began);
    }
}

impl Gate {
    /// The main thread's part: the admin listener, the events, the signals.
    async fn attend(
        self: &Arc<Gate>,
        mut signals: Signals,
        admin: TcpListener,
        settings: http::Settings,
        stop: watch::Sender<bool>,
        workers: Vec<JoinHandle<()>>,
        drain: Duration,
    ) {
        let gate = Arc::clone(self);
        let serve = move |request, _peer| {
            let gate = Arc::clone(&gate);
            async move { Ok(admin::handle(&gate, request).await) }
        };
        // The admin listener stays until the end: that is where one sees the gate drain.
        let (end, ending) = watch::channel(false);
        let admin = tokio::spawn(http::accept(admin, settings, ending, Duration::from_millis(100), serve));
        let teller = tokio::spawn(events::tell(Arc::clone(self)));
        let watcher = tokio::spawn(tls::watch(self.guard.clone()));
        let notify = notify::Notify::from_environment();
        notify.ready(&format!("data {}, admin {}", self.data_addr, self.admin_addr));
        tokio::select! {
            () = signals.next() => {}
            () = notify.keep_alive() => {}
        }
        tracing::info!(drain = %humantime::format_duration(drain), "stopping: no new connections, requests in work finish");
        self.ready.store(false, Ordering::SeqCst);
        notify.stopping();
        stop.send_replace(true);
        // Those who wait for an election are told now: they would hold up the end for as long as they may wait.
        if let Some(coordinator) = &self.coordinator {
            coordinator.close().await;
        }
        let drained = tokio::task::spawn_blocking(move || workers.into_iter().for_each(|worker| drop(worker.join())));
        tokio::select! {
            _ = drained => {}
            () = signals.next() => tracing::warn!("second signal: not waiting for requests in work"),
        }
        teller.abort();
        watcher.abort();
        end.send_replace(true);
        let _ = admin.await;
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
