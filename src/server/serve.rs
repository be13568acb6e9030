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
use crate::resource::sqlite::{self, Sqlite};

use super::{Mount, ServeError, Server, Setup};

/// Opens everything that the configuration names, binds the listeners, says on one line of `out` where they are, and serves until
/// SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError`]: what can't be opened, bound or started.
pub fn serve(config: Config, out: &mut dyn Write) -> Result<(), ServeError> {
    let Config { listen, admin, data_dir, resources, limits } = config;
    let failed =
        |error: std::io::Error| ServeError::DataDir { dir: data_dir.display().to_string(), why: error.to_string() };
    std::fs::create_dir_all(&data_dir).map_err(failed)?;
    let fences = fences(&data_dir, &resources)?;
    let mut scopes = 0..;
    let resources = resources
        .into_iter()
        .map(|resource| open(resource, &limits.sqlite, fences.as_ref(), &mut scopes))
        .collect::<Result<Vec<_>, _>>()?;
    let all: Vec<Arc<dyn Resource>> = resources.iter().map(|mount| Arc::clone(&mount.resource)).collect();
    // The embedded coordinator issues no token at or below the mark of the fence that its election is for.
    let floor =
        Arc::new(move |fence: &crate::fence::FenceName| all.iter().find_map(|resource| resource.fence(fence)?.highest));
    let runtime = super::runtime().map_err(|source| ServeError::System { what: "starting the runtime", source })?;
    let options = embedded::Options::new(floor);
    let coordinator = runtime
        .block_on(Embedded::open(&data_dir, options))
        .map_err(|error| ServeError::DataDir { dir: data_dir.display().to_string(), why: error.to_string() })?;
    drop(runtime);
    let server = Server::start(Setup {
        listen,
        admin,
        resources,
        coordinator: Some(coordinator),
        connections: limits.connections,
        header_time: limits.header_time,
        drain: limits.drain,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
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

/// The fences of all HTTP resources, in one store: a fence that moves from one resource to another keeps its mark.
fn fences(data_dir: &Path, resources: &[ResourceConfig]) -> Result<Option<Arc<Fences>>, ServeError> {
    let scopes: Vec<Scope> = resources.iter().filter_map(scope).collect();
    if scopes.is_empty() {
        return Ok(None);
    }
    let failed = |error: OpenError| ServeError::DataDir { dir: data_dir.display().to_string(), why: error.to_string() };
    Fences::open(data_dir, scopes).map(Some).map_err(failed)
}

fn scope(resource: &ResourceConfig) -> Option<Scope> {
    let KindConfig::Http(config) = &resource.kind else { return None };
    let HttpConfig { fence, drain, settle, on_unknown, .. } = &**config;
    let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let policy =
        Policy { drain_ms: ms(drain), settle_ms: ms(settle), on_unknown: *on_unknown, enforce: resource.enforce };
    let template = fence.clone();
    Some(Scope { resource: resource.name.clone(), policy, owns: Box::new(move |name| template.owns(name)) })
}

/// `scopes`: the numbers of the HTTP resources among all, in their order.
fn open(
    resource: ResourceConfig,
    limits: &sqlite::Limits,
    fences: Option<&Arc<Fences>>,
    scopes: &mut impl Iterator<Item = usize>,
) -> Result<Mount, ServeError> {
    let ResourceConfig { name, path, enforce, kind } = resource;
    if !enforce {
        tracing::warn!(resource = name, "enforce is off: stale writes are counted and go through");
    }
    let failed = |why: String| ServeError::Resource { name: name.clone(), why };
    let resource: Arc<dyn Resource> = match kind {
        KindConfig::Sqlite(config) => {
            let crate::config::SqliteConfig { file, fence, tables } = config;
            let options = sqlite::Options { name: name.clone(), file, fence, tables, limits: limits.clone(), enforce };
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
