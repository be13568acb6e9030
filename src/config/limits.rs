//! The `[limits]` table: every limit by its name, with what it may be.

use std::time::Duration;

use super::Limits;

/// One limit.
enum Slot<'a> {
    /// A number of things.
    Count(&'a mut usize),
    /// A number of bytes: an integer, or a text such as `"8MiB"`.
    Bytes(&'a mut usize),
    /// A time: a text such as `"10s"`.
    Time(&'a mut Duration),
}

/// The names of all limits, in the order of the documentation.
pub const NAMES: [&str; 28] = [
    "connections",
    "admin_connections",
    "header_time",
    "send_time",
    "refusals",
    "body_time",
    "body_bytes",
    "sql_bytes",
    "value_bytes",
    "statement_time",
    "result_rows",
    "result_bytes",
    "streams",
    "transactions",
    "stream_idle",
    "transaction_time",
    "lock_wait",
    "queue_requests",
    "queue_bytes",
    "idempotency_retention",
    "idempotency_hold",
    "idempotency_keys",
    "idempotency_bytes",
    "idempotency_answer_bytes",
    "answer_bytes",
    "sqlite_bytes",
    "readers",
    "drain",
];

impl Limits {
    fn slot(&mut self, name: &str) -> Option<Slot<'_>> {
        let sqlite = &mut self.sqlite;
        Some(match name {
            "connections" => Slot::Count(&mut self.connections),
            "admin_connections" => Slot::Count(&mut self.admin_connections),
            "send_time" => Slot::Time(&mut self.send_time),
            "refusals" => Slot::Count(&mut self.refusals),
            "header_time" => Slot::Time(&mut self.header_time),
            "drain" => Slot::Time(&mut self.drain),
            "body_time" => Slot::Time(&mut sqlite.body_time),
            "body_bytes" => Slot::Bytes(&mut sqlite.body_bytes),
            "sql_bytes" => Slot::Bytes(&mut sqlite.sql_bytes),
            "value_bytes" => Slot::Bytes(&mut sqlite.value_bytes),
            "statement_time" => Slot::Time(&mut sqlite.statement_time),
            "result_rows" => Slot::Count(&mut sqlite.result_rows),
            "result_bytes" => Slot::Bytes(&mut sqlite.result_bytes),
            "streams" => Slot::Count(&mut sqlite.streams),
            "transactions" => Slot::Count(&mut sqlite.transactions),
            "stream_idle" => Slot::Time(&mut sqlite.stream_idle),
            "transaction_time" => Slot::Time(&mut sqlite.transaction_time),
            "lock_wait" => Slot::Time(&mut sqlite.lock_wait),
            "queue_requests" => Slot::Count(&mut sqlite.queue_requests),
            "queue_bytes" => Slot::Bytes(&mut sqlite.queue_bytes),
            "idempotency_retention" => Slot::Time(&mut sqlite.idempotency_retention),
            "idempotency_hold" => Slot::Time(&mut sqlite.idempotency_hold),
            "idempotency_keys" => Slot::Count(&mut sqlite.idempotency_keys),
            "idempotency_bytes" => Slot::Bytes(&mut sqlite.idempotency_bytes),
            "idempotency_answer_bytes" => Slot::Bytes(&mut sqlite.idempotency_answer_bytes),
            "answer_bytes" => Slot::Bytes(&mut sqlite.answer_bytes),
            "sqlite_bytes" => Slot::Bytes(&mut sqlite.sqlite_bytes),
            "readers" => Slot::Count(&mut sqlite.readers),
            _ => return None,
        })
    }

    /// Sets one limit, written as `NAME=VALUE`: `connections=500`, `header_time=10s`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn set_text(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
        let value = value.trim();
        let value = value.parse().map_or_else(|_| toml::Value::String(value.to_owned()), toml::Value::Integer);
        self.set(name.trim(), &value)
    }

    /// Sets one limit.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn set(&mut self, name: &str, value: &toml::Value) -> Result<(), String> {
        let Some(slot) = self.slot(name) else {
            return Err(format!("there is no limit {name:?}; there are {}", NAMES.join(", ")));
        };
        match slot {
            Slot::Count(count) => *count = whole(value).ok_or("write a whole number from 1 up")?,
            Slot::Bytes(bytes) => {
                *bytes = size(value).ok_or("write a number of bytes from 1 up, or a text such as \"8MiB\"")?
            }
            Slot::Time(time) => *time = duration(value)?,
        }
        Ok(())
    }
}

fn whole(value: &toml::Value) -> Option<usize> {
    value.as_integer().and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0)
}

fn size(value: &toml::Value) -> Option<usize> {
    let Some(text) = value.as_str() else { return whole(value) };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor).filter(|bytes| *bytes > 0)
}

/// Longest time that a limit can be.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// A time: a text such as `"5s"`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn duration(value: &toml::Value) -> Result<Duration, String> {
    let wanted = "write a time such as \"5s\", \"500ms\" or \"1m\", of at most a day";
    let text = value.as_str().ok_or(wanted)?;
    match humantime::parse_duration(text) {
        Ok(time) if time > Duration::ZERO && time <= TIME_MAX => Ok(time),
        Ok(_) => Err(wanted.into()),
        Err(error) => Err(format!("{error}; {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<Limits, String> {
        let table: toml::Table = format!("x = {value}").parse().unwrap();
        let mut limits = Limits::default();
        limits.set(name, &table["x"]).map(|()| limits)
    }

    #[test]
    fn every_name_is_a_limit() {
        let mut limits = Limits::default();
        for name in NAMES {
            assert!(limits.slot(name).is_some(), "{name}");
        }
    }

    #[test]
    fn texts() {
        let mut limits = Limits::default();
        for text in ["connections=500", "header_time = 10s", "body_bytes=2MiB", "refusals=1"] {
            limits.set_text(text).unwrap();
        }
        assert_eq!((limits.connections, limits.header_time), (500, Duration::from_secs(10)));
        assert_eq!((limits.sqlite.body_bytes, limits.refusals), (2 << 20, 1));
        for text in ["", "connections", "connections=", "connections=x", "header_time=5", "nonsense=1"] {
            assert!(limits.set_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values() {
        assert_eq!(set("body_bytes", "\"8MiB\"").unwrap().sqlite.body_bytes, 8 << 20);
        assert_eq!(set("body_bytes", "4096").unwrap().sqlite.body_bytes, 4096);
        assert_eq!(set("lock_wait", "\"500ms\"").unwrap().sqlite.lock_wait, Duration::from_millis(500));
        for (name, value) in [
            ("body_bytes", "0"),
            ("body_bytes", "-1"),
            ("body_bytes", "\"8 parsecs\""),
            ("body_bytes", "\"99999999999GiB\""),
            ("streams", "\"7\""),
            ("lock_wait", "5"),
            ("lock_wait", "\"0s\""),
            ("lock_wait", "\"3 weeks\""),
            ("nonsense", "1"),
        ] {
            assert!(set(name, value).is_err(), "{name} = {value}");
        }
    }
}
