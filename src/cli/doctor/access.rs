//! Listeners, certificates, keys, and settings that switch the check off.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{Config, CoordinatorConfig, KindConfig};
use crate::fence::drain::OnUnknown;
use crate::tls::certificates;
use crate::tls::server::Options;

use super::finding::Report;
use super::processes::Seen;

const DAY: i64 = 24 * 3600;
/// A certificate that ends sooner should have been renewed.
const SOON: i64 = 14 * DAY;

/// Checks all of it. `file`: the configuration file.
pub fn check(config: &Config, file: Option<&Path>, seen: &Seen, report: &mut Report) {
    let listeners =
        [("data listener", config.listen, &config.tls), ("admin listener", config.admin, &config.admin_tls)];
    for (name, address, tls) in listeners {
        let subject = format!("{name} ({address})");
        listener(&subject, address.ip().to_canonical().is_loopback(), tls.is_some(), config.access.is_some(), report);
        for (what, file) in tls.iter().flat_map(files) {
            let subject = format!("{what} of the {name} ({})", file.display());
            expiry(&subject, &file, what == AUTHORITY, report);
        }
    }
    elsewhere(config, seen, report);
    for file in secrets(config) {
        secret(&file, report);
    }
    if let Some(file) = file {
        super::files::rights(&format!("configuration ({})", file.display()), file, true, report);
    }
    settings(config, report);
}

/// Whether the gate that runs is open where nothing said here tells of it: it was started with other arguments.
fn elsewhere(config: &Config, seen: &Seen, report: &mut Report) {
    let said = [config.listen, config.admin].map(|address| (address.ip().to_canonical(), address.port()));
    let is_said = |address: &SocketAddr| {
        said.iter().any(|(ip, port)| *ip == address.ip() && (*port == 0 || *port == address.port()))
    };
    for address in seen.gate_listens().iter().filter(|address| !address.ip().is_loopback() && !is_said(address)) {
        report.warning(
            "listener",
            format!("listener of the running gate ({address})"),
            "other machines reach it, and by what was said here it isn't there, so whether it has TLS and principals was not looked at",
            "run this with the arguments that the gate was started with: --config, or --listen and --admin",
        );
    }
}

fn listener(subject: &str, is_loopback: bool, has_tls: bool, has_principals: bool, report: &mut Report) {
    const CHECK: &str = "listener";
    let missing: Vec<&str> =
        [(!has_tls).then_some("TLS"), (!has_principals).then_some("principals")].into_iter().flatten().collect();
    match (is_loopback, missing.is_empty()) {
        (_, true) => report.good(CHECK, subject, "it has TLS and principals"),
        (true, false) => report.good(
            CHECK,
            subject,
            format!(
                "only this machine reaches it (without {}: whoever has an account here may present any token)",
                missing.join(" and ")
            ),
        ),
        (false, false) => report.problem(
            CHECK,
            subject,
            format!(
                "other machines reach it, and it has no {}: whoever does can present any token",
                missing.join(" and no ")
            ),
            "write [tls] and [[principal]] in the configuration, or listen on 127.0.0.1",
        ),
    }
}

/// Whose file may have several certificates, of which one is enough.
const AUTHORITY: &str = "client authority";

fn files(options: &Options) -> Vec<(&'static str, PathBuf)> {
    let clients = options.clients.as_ref().map(|clients| (AUTHORITY, clients.ca.clone()));
    [Some(("certificate", options.cert.clone())), clients].into_iter().flatten().collect()
}

/// `is_any`: each certificate in the file stands for itself; otherwise they are a chain.
fn expiry(subject: &str, file: &Path, is_any: bool, report: &mut Report) {
    const CHECK: &str = "certificate";
    let chain = match certificates(file) {
        Ok(chain) => chain,
        Err(why) => return report.problem(CHECK, subject, why, "give the gate a certificate that it can read"),
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0);
    let ends = chain.iter().filter_map(|one| {
        let (_, certificate) = X509Certificate::from_der(one).ok()?;
        let validity = certificate.validity();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    });
    // Of several, the one that is valid for longest; of a chain, the link that breaks first.
    let reduced = match is_any {
        true => ends.max_by_key(|(_, ends)| *ends),
        false => ends.reduce(|one, other| (one.0.max(other.0), one.1.min(other.1))),
    };
    let Some((begins, ends)) = reduced else {
        return report.unknown(CHECK, subject, "until when it is valid can't be read");
    };
    let advice = "renew it; the gate reads changed files by itself";
    if ends <= now {
        report.problem(CHECK, subject, format!("it ended {} days ago", (now - ends) / DAY), advice);
    } else if begins > now {
        report.problem(CHECK, subject, "it is not valid yet", "set the clock right, or wait");
    } else if ends - now < SOON {
        report.warning(CHECK, subject, format!("it ends in {} days", (ends - now) / DAY), advice);
    } else {
        report.good(CHECK, subject, format!("it is valid for another {} days", (ends - now) / DAY));
    }
}

/// Files that only the gate should read.
fn secrets(config: &Config) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        [&config.tls, &config.admin_tls].into_iter().flatten().map(|tls| tls.key.clone()).collect();
    all.extend(config.signing_key.clone());
    for resource in &config.resources {
        match resource.trust.as_ref().map(|trust| &trust.coordinator) {
            #[cfg(feature = "etcd")]
            Some(CoordinatorConfig::Etcd(options)) => {
                let client = options.tls.as_ref().and_then(|tls| tls.client.as_ref());
                all.extend(client.map(|(_, key)| key.clone()));
                if let Some(crate::coordinator::etcd::Password::File(file)) =
                    options.user.as_ref().map(|user| &user.password)
                {
                    all.push(file.clone());
                }
            }
            Some(CoordinatorConfig::Embedded) | None => {}
        }
    }
    all.sort();
    all.dedup();
    all
}

fn secret(file: &Path, report: &mut Report) {
    const CHECK: &str = "secret";
    let subject = format!("secret file ({})", file.display());
    let Ok(meta) = std::fs::metadata(file) else {
        return report.problem(CHECK, subject, "it isn't there, or can't be seen", "give the gate its key");
    };
    let advice = "chmod 600, and make it the gate's own user's";
    match meta.mode() & 0o077 {
        0 => report.good(CHECK, subject, "only its owner can read it"),
        mode if mode & 0o007 != 0 => report.problem(CHECK, subject, "everybody on this machine can read it", advice),
        _ => report.warning(CHECK, subject, "its group can read it", advice),
    }
}

fn settings(config: &Config, report: &mut Report) {
    const CHECK: &str = "settings";
    for resource in &config.resources {
        let subject = format!("resource {}", resource.name);
        if !resource.enforce {
            report.problem(
                CHECK,
                &subject,
                "enforce is off: stale writes are counted and go through",
                "take enforce = false away",
            );
        }
        if let KindConfig::Http(http) = &resource.kind
            && http.on_unknown == OnUnknown::Proceed
        {
            report.warning(
                CHECK,
                &subject,
                "on_unknown is \"proceed\": an older write of unknown outcome may be applied after newer ones",
                "leave it at \"wait\", unless the service checks Fencing-Token itself",
            );
        }
    }
}
