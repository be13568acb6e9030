//! The console: what an operator opens first. A page, a style sheet and a few scripts, as they lie in this folder: nothing builds
//! them, and they load nothing from elsewhere. All that they show comes from the admin listener's own `/v1/`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, VARY};
use hyper::{Response, StatusCode};

use super::respond::Answer;

pub mod recent;

/// One file of the console.
struct File {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! file {
    ($name:literal, $media_type:literal) => {
        File { path: concat!("/console/", $name), media_type: $media_type, text: include_str!($name) }
    };
}

const PAGE: File = File { path: "/", media_type: "text/html; charset=utf-8", text: include_str!("index.html") };

const FILES: &[File] = &[
    file!("console.css", "text/css; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
    file!("main.js", "text/javascript; charset=utf-8"),
    file!("gate.js", "text/javascript; charset=utf-8"),
    file!("live.js", "text/javascript; charset=utf-8"),
    file!("dom.js", "text/javascript; charset=utf-8"),
    file!("list.js", "text/javascript; charset=utf-8"),
    file!("first.js", "text/javascript; charset=utf-8"),
    file!("fence.js", "text/javascript; charset=utf-8"),
    file!("timeline.js", "text/javascript; charset=utf-8"),
    file!("actions.js", "text/javascript; charset=utf-8"),
];

/// The page, for those who ask for HTML; programs such as curl don't, and get the text.
pub fn page(headers: &HeaderMap, text: &'static str) -> Answer {
    let mut wanted = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let mut answer = if wanted.any(|accept| accept.contains("text/html")) {
        serve(&PAGE, headers)
    } else {
        let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        answer
    };
    answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    answer
}

/// The file of this path, if there is one.
pub fn file(path: &str, headers: &HeaderMap) -> Option<Answer> {
    FILES.iter().find(|file| file.path == path).map(|file| serve(file, headers))
}

/// A browser keeps a file and asks each time whether it is still the same: after an upgrade of the gate, no old script meets a
/// new page.
fn serve(file: &File, headers: &HeaderMap) -> Answer {
    let tag = format!("\"{:016x}\"", hash(file.text));
    let mut known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let is_known = known.any(|tags| tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag));
    let mut answer = Response::new(match is_known {
        true => Full::default(),
        false => Full::new(Bytes::from_static(file.text.as_bytes())),
    });
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ETAG, HeaderValue::try_from(tag).expect("hexadecimal digits in quotes"));
    answer
}

/// FNV-1a, 64 bits: it only tells one version of a file from another.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_only_files_that_are_here() {
        for file in FILES.iter().chain([&PAGE]) {
            for part in file.text.split(['"', '\'']).filter(|part| part.starts_with("/console/")) {
                assert!(FILES.iter().any(|file| file.path == part), "{} names {part}", file.path);
            }
            for part in file.text.split(['"', '\'']).filter(|part| part.starts_with("./") && part.ends_with(".js")) {
                assert!(FILES.iter().any(|file| file.path[9..] == part[2..]), "{} names {part}", file.path);
            }
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere_and_nothing_is_markup_but_the_page() {
        for file in FILES.iter().chain([&PAGE]) {
            let text = file.text.replace("http://www.w3.org/2000/svg", "");
            for word in [
                "//cdn",
                "https://",
                "@import",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!text.contains(word), "{} has {word}", file.path);
            }
        }
        assert!(!PAGE.text.contains("style=") && !PAGE.text.contains(" on"), "the policy wouldn't let it run");
    }
}
