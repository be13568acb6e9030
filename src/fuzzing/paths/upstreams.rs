//! How servers behind the gate read a path: each of these does something that a real one does.

/// Somebody who reads paths.
#[derive(Debug)]
pub struct Upstream {
    /// What it does.
    pub name: &'static str,
    /// The segments before `.` and `..` are followed.
    pub splits: fn(&str) -> Vec<Vec<u8>>,
    /// The segments in the end. One that is empty at the end stands for a slash there.
    pub reads: fn(&str) -> Vec<Vec<u8>>,
}

/// Those that are known.
pub const UPSTREAMS: &[Upstream] = &[
    Upstream { name: "takes it as it is", splits: plain, reads: plain },
    Upstream { name: "splits and decodes", splits: decoding, reads: |path| resolved(decoding(path)) },
    Upstream { name: "decodes and splits", splits: decoded, reads: |path| resolved(decoded(path)) },
    Upstream { name: "cuts parameters off", splits: cutting, reads: |path| resolved(cutting(path)) },
    Upstream {
        name: "decodes, cuts parameters off",
        splits: cutting_decoded,
        reads: |path| resolved(cutting_decoded(path)),
    },
    Upstream { name: "decodes twice", splits: twice, reads: |path| resolved(twice(path)) },
    Upstream { name: "has backslashes", splits: windows, reads: |path| resolved(windows(path)) },
    Upstream {
        name: "has backslashes, decodes twice",
        splits: windows_twice,
        reads: |path| resolved(windows_twice(path)),
    },
    Upstream { name: "ends a name at a NUL", splits: ends_at_nul, reads: |path| resolved(ends_at_nul(path)) },
];

/// Without its escapes; what is none stays.
pub fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let value = |at: usize| text.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < text.len() {
        match (text[at], value(at + 1), value(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.extend(u8::try_from(high * 16 + low));
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn split(path: &[u8], is_slash: fn(u8) -> bool) -> Vec<Vec<u8>> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.split(|byte| is_slash(*byte)).map(<[u8]>::to_vec).collect()
}

fn plain(path: &str) -> Vec<Vec<u8>> {
    split(path.as_bytes(), |byte| byte == b'/')
}

fn decoding(path: &str) -> Vec<Vec<u8>> {
    plain(path).iter().map(|segment| percent_decoded(segment)).collect()
}

fn decoded(path: &str) -> Vec<Vec<u8>> {
    split(&percent_decoded(path.as_bytes()), |byte| byte == b'/')
}

fn twice(path: &str) -> Vec<Vec<u8>> {
    split(&percent_decoded(&percent_decoded(path.as_bytes())), |byte| byte == b'/')
}

fn ends_at_nul(path: &str) -> Vec<Vec<u8>> {
    let all = percent_decoded(path.as_bytes());
    let end = all.iter().position(|byte| *byte == 0).unwrap_or(all.len());
    split(&all[..end], |byte| byte == b'/')
}

fn without_parameters(segment: &[u8]) -> Vec<u8> {
    segment.split(|byte| *byte == b';').next().unwrap_or_default().to_vec()
}

fn cutting(path: &str) -> Vec<Vec<u8>> {
    plain(path).iter().map(|segment| percent_decoded(&without_parameters(segment))).collect()
}

fn cutting_decoded(path: &str) -> Vec<Vec<u8>> {
    decoded(path).iter().map(|segment| without_parameters(segment)).collect()
}

/// Windows drops dots and spaces at the end of a name, and takes a name of nothing else for the folder itself or the one above.
fn windows_names(segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let ends =
        |segment: &[u8]| segment.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(0, |last| last + 1);
    let name = |segment: Vec<u8>| match ends(&segment) {
        0 if segment.is_empty() => segment,
        0 if segment.starts_with(b"..") => b"..".to_vec(),
        0 => b".".to_vec(),
        end => segment[..end].to_vec(),
    };
    segments.into_iter().map(name).collect()
}

fn windows(path: &str) -> Vec<Vec<u8>> {
    windows_names(split(&percent_decoded(path.as_bytes()), |byte| matches!(byte, b'/' | b'\\')))
}

fn windows_twice(path: &str) -> Vec<Vec<u8>> {
    let all = percent_decoded(&percent_decoded(path.as_bytes()));
    windows_names(split(&all, |byte| matches!(byte, b'/' | b'\\')))
}

/// Follows `.` and `..`, and merges slashes.
fn resolved(segments: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let last = segments.len().saturating_sub(1);
    for (at, segment) in segments.into_iter().enumerate() {
        match &segment[..] {
            b"." => {}
            b".." => drop(all.pop()),
            b"" if at < last => {}
            _ => all.push(segment),
        }
    }
    all
}
