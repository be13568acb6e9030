//! From a configuration to a running gate.

use std::io::Write;
use std::sync::Arc;

use crate::config::{Config, ResourceConfig};
use crate::coordinator::embedded::{self, Embedded};
use crate::resource::Resource;
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
    let resources =
        resources.into_iter().map(|resource| open(resource, &limits.sqlite)).collect::<Result<Vec<_>, _>>()?;
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

fn open(resource: ResourceConfig, limits: &sqlite::Limits) -> Result<Mount, ServeError> {
    let ResourceConfig { name, path, file, fence, tables, enforce } = resource;
    if !enforce {
        tracing::warn!(resource = name, "enforce is off: stale writes are counted and go through");
    }
    let options = sqlite::Options { name: name.clone(), file, fence, tables, limits: limits.clone(), enforce };
    match Sqlite::open(options) {
        Ok(resource) => Ok(Mount { path, resource: Arc::new(resource) }),
        Err(error) => Err(ServeError::Resource { name, why: error.to_string() }),
    }
}
