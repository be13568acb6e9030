//! Numbers for people, with their units.

/// A whole number with commas: `12,345`.
pub fn whole(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits of a number below a thousand: `0.12`, `1.23`, `12.3`, `123`.
pub fn short(number: f64) -> String {
    match number.abs() {
        size if size < 9.995 => format!("{number:.2}"),
        size if size < 99.95 => format!("{number:.1}"),
        _ => whole(number),
    }
}

/// A time that is given in microseconds: `12.3 µs`, `1.23 ms`, `1.23 s`.
pub fn micros(us: f64) -> String {
    match us {
        us if us < 999.5 => format!("{} µs", short(us)),
        us if us < 999_500.0 => format!("{} ms", short(us / 1e3)),
        us => format!("{} s", short(us / 1e6)),
    }
}

/// `1.2%`.
pub fn percent(percent: f64) -> String {
    // Not -0.0.
    format!("{:.1}%", (percent * 10.0).round() / 10.0 + 0.0)
}

/// How far rounds lie apart: `±3%`.
pub fn within(part: f64) -> String {
    format!("±{:.0}%", part * 100.0)
}

/// Bytes: `128 bytes`, `64 KiB`.
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} bytes"),
        count if count < 1 << 20 => format!("{} KiB", short(count as f64 / 1024.0)),
        count if count < 1 << 30 => format!("{} MiB", short(count as f64 / 1_048_576.0)),
        count => format!("{} GiB", short(count as f64 / 1_073_741_824.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_units() {
        assert_eq!([0.0, 999.0, 1000.0, 1234567.4].map(whole), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.123, 9.99, 9.996, 99.94, 123.4].map(short), ["0.12", "9.99", "10.0", "99.9", "123"]);
        assert_eq!(
            [0.5, 12.34, 999.9, 1234.0, 2.5e6].map(micros),
            ["0.50 µs", "12.3 µs", "1.00 ms", "1.23 ms", "2.50 s"]
        );
        assert_eq!([-0.01, 1.25, 100.0].map(percent), ["0.0%", "1.3%", "100.0%"]);
        assert_eq!(within(0.034), "±3%");
        assert_eq!([128, 65536, 3 << 30].map(bytes), ["128 bytes", "64.0 KiB", "3.00 GiB"]);
    }
}
