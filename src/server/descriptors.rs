//! File descriptors: for how many connections the operating system has room.
//!
//! What a process may have open at first is often 1,024, which is for programs of another age (`select`): the gate takes as many as it may.
//! Where that isn't enough for what its limits allow, it lowers the number of connections, so that clients are told that there is no
//! room, and the databases, the upstreams and the admin listener still find a descriptor when all clients come at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{KindConfig, Limits, ResourceConfig};

/// What the gate has open by itself: standard streams, runtimes, listeners, its own databases, certificates while they are read, …
const OWN: usize = 128;
/// What one connection to a database has open: the database, its write-ahead log, and their shared memory.
const OF_DATABASE: usize = 3;
/// Fewest connections that are worth serving.
const LEAST: usize = 16;

/// Raises the process's limit as far as it may. How many descriptors it can have then.
fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let before = current;
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
        tracing::info!(from = shown(before), to = shown(maximum), "the limit of open files was raised");
    }
    let can = getrlimit(Resource::Nofile).current;
    can.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Takes as many descriptors as the process may have, and lowers the limits to what they are enough for. And no more requests to upstreams
/// than there may be connections: of those, a part is for writes, so that reads never take all places.
pub fn make_room(limits: &mut Limits, resources: &mut [ResourceConfig], threads: usize) {
    fit(limits, resources, threads, raise());
    share(limits, resources, threads);
}

fn share(limits: &Limits, resources: &mut [ResourceConfig], threads: usize) {
    let upstreams = resources.iter().filter(|resource| matches!(resource.kind, KindConfig::Http(_))).count();
    let most = (limits.connections / upstreams.max(1) / threads.max(1)).max(1);
    for resource in resources {
        if let KindConfig::Http(http) = &mut resource.kind {
            http.limits.connections_per_thread = http.limits.connections_per_thread.min(most);
        }
    }
}

/// Lowers the limits to what so many descriptors are enough for.
pub fn fit(limits: &mut Limits, resources: &mut [ResourceConfig], threads: usize, can: usize) {
    let sqlite = &limits.sqlite;
    let of_database = (sqlite.readers + sqlite.transactions + 4).saturating_mul(OF_DATABASE);
    let databases = resources.iter().filter(|resource| matches!(resource.kind, KindConfig::Sqlite(_))).count();
    let upstreams = resources.len() - databases;
    let fixed = (databases.saturating_mul(of_database)).saturating_add(OWN).saturating_add(limits.admin_connections);
    let per_upstream = |resource: &ResourceConfig| match &resource.kind {
        KindConfig::Http(http) => http.limits.connections_per_thread.saturating_mul(threads),
        KindConfig::Sqlite(_) => 0,
    };
    let outward = resources.iter().map(per_upstream).fold(0, usize::saturating_add);
    // Connections that give way are there for a moment longer.
    let inward = limits.connections.saturating_add(limits.connections / 16);
    if fixed.saturating_add(outward).saturating_add(inward) <= can {
        return;
    }
    let left = can.saturating_sub(fixed);
    // A request to an upstream takes one of each.
    let (inward, outward) = if upstreams > 0 { (left / 2, left / 2) } else { (left, 0) };
    let connections = (inward - inward / 16).clamp(LEAST, limits.connections.max(LEAST));
    tracing::warn!(
        open_files = can,
        wanted = limits.connections,
        connections,
        "there are not enough file descriptors for the limits: fewer connections are taken; raise the hard limit of open files"
    );
    limits.connections = connections.min(limits.connections);
    for resource in resources {
        if let KindConfig::Http(http) = &mut resource.kind {
            let most = (outward / upstreams.max(1) / threads.max(1)).max(1);
            http.limits.connections_per_thread = http.limits.connections_per_thread.min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    /// A database and, where wanted, a service.
    fn config(upstream: Option<&str>) -> Config {
        let overrides = Overrides { upstream: upstream.map(str::to_owned), ..Overrides::default() };
        Config::without_file(&overrides).expect("it is right")
    }

    #[test]
    fn limits_fit_what_there_is() {
        for (upstream, can) in [(None, 1024), (Some("http://127.0.0.1:9000"), 1024), (None, 100_000), (None, 10)] {
            let Config { mut limits, mut resources, .. } = config(upstream);
            let before = limits.connections;
            fit(&mut limits, &mut resources, 2, can);
            let (connections, admin) = (limits.connections, limits.admin_connections);
            if can > 50_000 {
                assert_eq!(connections, before);
                continue;
            }
            let outward = match &resources[0].kind {
                KindConfig::Http(http) => 2 * http.limits.connections_per_thread,
                KindConfig::Sqlite(_) => (limits.sqlite.readers + limits.sqlite.transactions + 4) * OF_DATABASE,
            };
            assert!(connections >= LEAST, "{connections}");
            let all = connections + connections / 16 + outward + admin + OWN;
            assert!(all <= can || connections == LEAST, "{all} of {can}");
        }
    }
}
