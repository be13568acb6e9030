//! From a configuration to a running gate.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, HttpConfig, KindConfig, ResourceConfig};
use crate::coordinator::embedded::{self, Embedded};
use crate::fence::drain::Policy;
use crate::resource::Resource;
use crate::resource::http::fences::{Fences, OpenError, Scope};
use crate::resource::http::{self, Http};
use crate::resource::issuer::Trust;
use crate::resource::sqlite::{self, Sqlite};
use crate::tls::server::{self as tls, ServerTls};

use super::memory::MemoryBound;
use super::trust::{self, Desks};
use super::{Guard, Mount, ServeError, Server, Setup, descriptors};

/// Opens everything that the configuration names, binds the listeners, says on one line of `out` where they are, and serves until
/// SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError`]: what can't be opened, bound or started.
pub fn serve(config: Config, out: &mut dyn Write) -> Result<(), ServeError> {
    let threads = super::threads();
    tell_memory(&config, threads);
    let Config {
        listen, admin, admin_hosts, data_dir, mut resources, mut limits, access, signer, tls, admin_tls, ..
    } = config;
    descriptors::make_room(&mut limits, &mut resources, threads);
    let failed =
        |error: std::io::Error| ServeError::DataDir { dir: data_dir.display().to_string(), why: error.to_string() };
    crate::files::make_dir(&data_dir).map_err(failed)?;
    let (tls, admin_tls) = (open_tls("data listener", tls)?, open_tls("admin listener", admin_tls)?);
    // Before anything is opened that counts: a counter that is made earlier counts nowhere.
    super::metrics::install();
    let desks = Desks::open(&resources)?;
    let trust = |config: &ResourceConfig| desks.as_ref().and_then(|desks| desks.trust(config.trust.as_ref()));
    let fences = fences(&data_dir, &resources, trust)?;
    let mut scopes = 0..;
    let (mut mounts, mut asking) = (Vec::with_capacity(resources.len()), Vec::with_capacity(resources.len()));
    for resource in resources {
        let (trusted, config) = (trust(&resource), resource.trust.clone());
        let mount = open(resource, &limits.sqlite, fences.as_ref(), &mut scopes, trusted)?;
        asking.push((Arc::clone(&mount.resource), config));
        mounts.push(mount);
    }
    let guard = Guard { access, signer, tls, admin_tls, elections: Some(trust::fences_of(&asking)) };
    let floor = Arc::new(trust::floor(&asking));
    let runtime = super::runtime().map_err(|source| ServeError::System { what: "starting the runtime", source })?;
    let options = embedded::Options::new(floor);
    let coordinator = runtime
        .block_on(Embedded::open(&data_dir, options))
        .map_err(|error| ServeError::DataDir { dir: data_dir.display().to_string(), why: error.to_string() })?;
    drop(runtime);
    if let Some(desks) = &desks {
        desks.start(&asking, &coordinator);
    }
    let server = Server::start(Setup {
        listen,
        admin,
        admin_hosts,
        resources: mounts,
        coordinator: Some(coordinator),
        guard,
        connections: limits.connections,
        admin_connections: limits.admin_connections,
        header_time: limits.header_time,
        send_time: limits.send_time,
        refusals: limits.refusals,
        drain: limits.drain,
        threads,
    })?;
    let said =
        writeln!(out, "listening data={} admin={}", server.data_addr(), server.admin_addr()).and_then(|()| out.flush());
    if let Err(error) = said {
        // Whoever started the gate doesn't want to know where it listens: no reason not to serve.
        tracing::warn!(%error, "standard output can't be written to");
    }
    tracing::info!(data = %server.data_addr(), admin = %server.admin_addr(), "serving");
    server.run()
}

/// Says how much memory all limits together come to.
fn tell_memory(config: &Config, threads: usize) {
    let most = MemoryBound::of(config, threads).total() >> 20;
    tracing::info!(mib = most, "the most memory that the gate takes with all of its limits reached");
}

fn open_tls(which: &'static str, options: Option<tls::Options>) -> Result<Option<Arc<ServerTls>>, ServeError> {
    let opened = options.map(ServerTls::open).transpose();
    opened.map(|tls| tls.map(Arc::new)).map_err(|why| ServeError::Tls { which, why })
}

/// The fences of all HTTP resources, in one store: a fence that moves from one resource to another keeps its mark.
fn fences(
    data_dir: &Path,
    resources: &[ResourceConfig],
    trust: impl Fn(&ResourceConfig) -> Trust,
) -> Result<Option<Arc<Fences>>, ServeError> {
    let scopes: Vec<Scope> = resources.iter().filter_map(|resource| scope(resource, trust(resource))).collect();
    if scopes.is_empty() {
        return Ok(None);
    }
    let failed = |error: OpenError| ServeError::DataDir { dir: data_dir.display().to_string(), why: error.to_string() };
    Fences::open(data_dir, scopes).map(Some).map_err(failed)
}

fn scope(resource: &ResourceConfig, trust: Trust) -> Option<Scope> {
    let KindConfig::Http(config) = &resource.kind else { return None };
    let HttpConfig { fence, drain, settle, on_unknown, .. } = &**config;
    let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let policy =
        Policy { drain_ms: ms(drain), settle_ms: ms(settle), on_unknown: *on_unknown, enforce: resource.enforce };
    let template = fence.clone();
    Some(Scope { resource: resource.name.clone(), policy, owns: Box::new(move |name| template.owns(name)), trust })
}

/// `scopes`: the numbers of the HTTP resources among all, in their order.
fn open(
    resource: ResourceConfig,
    limits: &sqlite::Limits,
    fences: Option<&Arc<Fences>>,
    scopes: &mut impl Iterator<Item = usize>,
    trust: Trust,
) -> Result<Mount, ServeError> {
    let ResourceConfig { name, path, enforce, kind, .. } = resource;
    if !enforce {
        tracing::warn!(resource = name, "enforce is off: stale writes are counted and go through");
    }
    let failed = |why: String| ServeError::Resource { name: name.clone(), why };
    let resource: Arc<dyn Resource> = match kind {
        KindConfig::Sqlite(config) => {
            let crate::config::SqliteConfig { file, fence, tables } = config;
            let (name, limits) = (name.clone(), limits.clone());
            let options = sqlite::Options { name, file, fence, tables, limits, enforce, trust };
            Arc::new(Sqlite::open(options).map_err(|error| failed(error.to_string()))?)
        }
        KindConfig::Http(config) => {
            let HttpConfig { upstream, fence, rules, limits, .. } = *config;
            let fences = Arc::clone(fences.expect("there is a store of fences where there is an HTTP resource"));
            let scope = scopes.next().expect("numbers don't end");
            let options = http::Options {
                name: name.clone(),
                mount: path.clone(),
                upstream,
                fence,
                rules,
                limits,
                fences,
                scope,
                enforce,
            };
            Arc::new(Http::open(options).map_err(|error| failed(error.to_string()))?)
        }
    };
    Ok(Mount { path, resource })
}
