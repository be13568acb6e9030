//! Clocks. No decision about a token depends on one; but leases are counted by the monotonic clock, and certificates and credentials end by the
//! wall clock.

use std::fs;
use std::time::{Duration, SystemTime};

use super::finding::Report;

/// What keeps a clock right, by the names of its processes (15 characters, as the kernel keeps them).
const SERVICES: [&str; 9] =
    ["chronyd", "ntpd", "ntpd-rs", "ntp-daemon", "ntpsec", "systemd-timesyn", "openntpd", "phc2sys", "VBoxService"];
/// How far two wall clocks may be apart: answers say their time in whole seconds, and take some to come.
const APART: Duration = Duration::from_secs(10);

/// Checks this machine's clocks.
pub fn check(report: &mut Report) {
    source(report);
    service(report);
}

fn source(report: &mut Report) {
    const CHECK: &str = "clock-source";
    let subject = "monotonic clock";
    match fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource") {
        Err(_) => report.unknown(CHECK, subject, "what it is counted by can't be seen"),
        Ok(name) if matches!(name.trim(), "jiffies" | "refined-jiffies") => report.warning(
            CHECK,
            subject,
            format!(
                "it is counted by {}, which loses time under load: leases are longer here than at their leaders",
                name.trim()
            ),
            "find out why the kernel takes no better source (dmesg | grep clocksource)",
        ),
        Ok(name) => report.good(CHECK, subject, format!("it is counted by {}", name.trim())),
    }
}

fn service(report: &mut Report) {
    const CHECK: &str = "clock-sync";
    let subject = "wall clock";
    if fs::exists("/run/systemd/timesync/synchronized").unwrap_or(false) {
        return report.good(CHECK, subject, "it is synchronised by systemd-timesyncd");
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = processes.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    let found = names.map(|name| name.trim().to_owned()).find(|name| SERVICES.contains(&name.as_str()));
    match found {
        Some(name) => report.good(CHECK, subject, format!("{name} runs, which keeps it right")),
        None => report.warning(
            CHECK,
            subject,
            "nothing is seen that keeps it right: certificates and signed credentials end by it, and the history is dated by it",
            "run chrony or systemd-timesyncd; where the host does it for this container or machine, leave it",
        ),
    }
}

/// Compares the wall clock with another machine's, which said its time in an answer to what was sent `sent`.
pub fn compare(subject: &str, date: SystemTime, sent: SystemTime, report: &mut Report) {
    const CHECK: &str = "clock-offset";
    let now = SystemTime::now();
    let apart = sent.duration_since(date).or_else(|_| date.duration_since(now)).unwrap_or_default();
    match apart > APART {
        false => report.good(CHECK, subject, "its wall clock and this one agree"),
        true => report.warning(
            CHECK,
            subject,
            format!("its wall clock and this one are {} s apart", apart.as_secs()),
            "set both by the same time service: certificates and credentials of the one may not be valid at the other",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Level;

    #[test]
    fn clocks_that_are_apart_are_told() {
        let level = |date: SystemTime| {
            let mut report = Report::default();
            compare("etcd", date, SystemTime::now(), &mut report);
            report.findings[0].level
        };
        let now = SystemTime::now();
        assert_eq!(level(now - Duration::from_secs(3)), Level::Good);
        assert_eq!(level(now + Duration::from_secs(3)), Level::Good);
        assert_eq!(level(now - Duration::from_secs(60)), Level::Warning);
        assert_eq!(level(now + Duration::from_secs(60)), Level::Warning);
    }
}
