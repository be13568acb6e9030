//! Routes to an HTTP service around the gate.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, SystemTime};

use crate::resource::http::Upstream;

use super::clock;
use super::finding::Report;
use super::processes::Seen;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// What to do about a service that others reach.
const ADVICE: &str = "let nothing but the gate reach it: bind it to 127.0.0.1 beside the gate, or have a firewall or network policy let only the gate's \
                      address in, or client certificates that only the gate has; or have it check Fencing-Token itself, which the gate passes on";

/// Checks one resource's service.
pub fn check(name: &str, upstream: &Upstream, seen: &Seen, report: &mut Report) {
    let subject = format!("service of {name} ({upstream})");
    let host = upstream.authority.host().trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match (host, upstream.port).to_socket_addrs() {
        Ok(found) => found.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port())).collect(),
        Err(error) => {
            let what = format!("its name can't be looked up ({error}), so the gate doesn't reach it");
            return report.problem("upstream", subject, what, "mend the name, or the resource's `upstream`");
        }
    };
    strangers(&subject, &addresses, seen, report);
    reach(&subject, &addresses, seen, report);
    direct(&subject, upstream, &addresses, report);
}

/// Who is connected to it past the gate, as far as this machine sees it.
fn strangers(subject: &str, addresses: &[SocketAddr], seen: &Seen, report: &mut Report) {
    const CHECK: &str = "route";
    let open = seen.connections.iter().filter(|connection| !connection.is_listener);
    let mut found = Vec::new();
    for connection in open {
        if is_at(connection.remote, addresses, seen) {
            found.extend(seen.stranger(connection));
        } else if is_at(connection.local, addresses, seen) && !is_here(connection.remote, seen) {
            found.push(format!("the machine at {}", connection.remote.ip()));
        }
    }
    found.sort();
    found.dedup();
    if !found.is_empty() {
        let what = format!("{} is connected to it past the gate: nothing checks its token", found.join(", "));
        report.problem(CHECK, subject, what, ADVICE);
    }
}

/// Whether the service is at this address: by its own, or, where it is on this machine and listens on every address, by another of the machine's.
fn is_at(address: SocketAddr, addresses: &[SocketAddr], seen: &Seen) -> bool {
    let is_local = |ip: IpAddr| ip.is_loopback() || seen.connections.iter().any(|one| one.local.ip() == ip);
    let is_wide = |port: u16| {
        let mut listeners = seen.connections.iter().filter(|one| one.is_listener && one.local.port() == port);
        listeners.any(|one| one.local.ip().is_unspecified())
    };
    let port = address.port();
    addresses.contains(&address)
        || addresses.iter().any(|own| own.port() == port && is_local(own.ip()))
            && is_local(address.ip())
            && is_wide(port)
}

/// Whether an address is this machine's: it is the near end of some connection, or can only be.
fn is_here(address: SocketAddr, seen: &Seen) -> bool {
    address.ip().is_loopback() || seen.connections.iter().any(|connection| connection.local == address)
}

/// From where it can be reached.
fn reach(subject: &str, addresses: &[SocketAddr], seen: &Seen, report: &mut Report) {
    const CHECK: &str = "reach";
    if let Some(far) = addresses.iter().find(|address| !address.ip().is_loopback()) {
        let what = format!("it is at {far}, where other machines can reach it, too, unless something keeps them away");
        return report.warning(CHECK, subject, what, ADVICE);
    }
    let listeners = seen.connections.iter().filter(|one| one.is_listener);
    let wide = listeners.filter(|one| {
        addresses.iter().any(|address| address.port() == one.local.port()) && !one.local.ip().is_loopback()
    });
    let mut wide: Vec<String> = wide.map(|one| one.local.to_string()).collect();
    wide.sort();
    wide.dedup();
    match wide.is_empty() {
        true => report.good(CHECK, subject, "only this machine reaches it"),
        false => {
            let what = format!(
                "it listens on {}, where other machines can reach it, too, unless something keeps them away",
                wide.join(" and ")
            );
            report.warning(CHECK, subject, what, ADVICE);
        }
    }
}

/// What it answers to somebody who isn't the gate: a HEAD without a token, which changes nothing.
fn direct(subject: &str, upstream: &Upstream, addresses: &[SocketAddr], report: &mut Report) {
    const CHECK: &str = "upstream";
    if upstream.tls.is_some() {
        // Whom it trusts shows in the handshake and after it, which the gate's own client speaks.
        return report.unknown(CHECK, subject, "it speaks TLS: whether it answers others than the gate was not tried");
    }
    let sent = SystemTime::now();
    let answer = match head(upstream, addresses) {
        Ok(answer) => answer,
        Err(error) => {
            let what = format!("it isn't reached ({error})");
            return report.warning(CHECK, subject, what, "start it, or mend the resource's `upstream`");
        }
    };
    let status = answer.split(' ').nth(1).unwrap_or_default();
    match status {
        "401" | "403" | "407" => report.good(CHECK, subject, format!("it answers {status} to whoever shows nothing")),
        _ if status.len() == 3 => {
            let what = format!("it is up, and answers whoever reaches it ({status} to HEAD without a token)");
            report.good(CHECK, subject, what);
        }
        _ => {
            let what = "it doesn't answer in HTTP/1.1, so whom it answers was not seen";
            return report.unknown(CHECK, subject, what);
        }
    }
    if let Some(date) = date(&answer) {
        clock::compare(subject, date, sent, report);
    }
}

/// The head of its answer to a HEAD.
fn head(upstream: &Upstream, addresses: &[SocketAddr]) -> std::io::Result<String> {
    let path = if upstream.base.is_empty() { "/" } else { &upstream.base };
    let request = format!(
        "HEAD {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: fencegate-doctor\r\nconnection: close\r\n\r\n",
        upstream.authority
    );
    ask(addresses, &request)
}

/// Sends a request to the first of these addresses that takes it, and reads until the head of the answer is there.
///
/// # Errors
/// No address that answers in time.
pub fn ask(addresses: &[SocketAddr], request: &str) -> std::io::Result<String> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        let asked = TcpStream::connect_timeout(address, PATIENCE).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(request.as_bytes())?;
            let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
            while answer.len() < 1 << 16 && !answer.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer)? {
                    0 => break,
                    len => answer.extend_from_slice(&buffer[..len]),
                }
            }
            Ok(String::from_utf8_lossy(&answer).into_owned())
        });
        match asked {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// When an answer says that it was made.
pub fn date(answer: &str) -> Option<SystemTime> {
    answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| httpdate::parse_http_date(value.trim()).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Level;

    #[test]
    fn a_service_on_another_machine_is_told_of() {
        let level = |address: &str| {
            let mut report = Report::default();
            reach("service", &[address.parse().unwrap()], &Seen::default(), &mut report);
            (report.findings[0].level, report.findings[0].what.clone())
        };
        let (found, what) = level("198.51.100.7:9000");
        assert!(found == Level::Warning && what.contains("198.51.100.7:9000, where other machines"), "{what}");
        assert_eq!(level("127.0.0.1:9000").0, Level::Good);
        assert_eq!(level("[::1]:9000").0, Level::Good);
    }

    #[test]
    fn another_machine_that_is_connected_by_another_address_is_found() {
        use crate::cli::doctor::processes::Connection;
        let told = |listens: &str, local: &str, remote: &str| {
            let [listens, local, remote] = [listens, local, remote].map(|text| text.parse().unwrap());
            let nobody = "0.0.0.0:0".parse().unwrap();
            let listener = Connection { local: listens, remote: nobody, is_listener: true, socket: 1 };
            let open = Connection { local, remote, is_listener: false, socket: 2 };
            let mut seen = Seen::default();
            seen.connections = vec![listener, open];
            let mut report = Report::default();
            strangers("service", &["127.0.0.1:9000".parse().unwrap()], &seen, &mut report);
            report.findings.first().map(|finding| finding.what.contains("the machine at 198.51.100.7"))
        };
        let far = "198.51.100.7:4444";
        assert_eq!(told("0.0.0.0:9000", "192.0.2.5:9000", far), Some(true));
        assert_eq!(told("[::]:9000", "192.0.2.5:9000", far), Some(true));
        assert_eq!(told("127.0.0.1:9000", "192.0.2.5:9000", far), None, "that is another service");
        assert_eq!(told("0.0.0.0:9000", "192.0.2.5:9001", far), None);
    }

    #[test]
    fn the_time_of_an_answer_is_read() {
        let answer = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        assert_eq!(date(answer), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)));
        assert_eq!(date("HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
