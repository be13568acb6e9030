//! Answers of upstreams in HTTP/1.1. The input is all that comes on a connection until it ends.

use bytes::BytesMut;
use hyper::HeaderMap;

use crate::resource::http::decode::{Decoder, Kept};
use crate::resource::http::message::Broken;

use super::{Checked, hold};

pub(super) mod reference;

/// The largest head here: small, so that inputs reach it.
const HEAD_BYTES_MAX: usize = 512;
/// Of a longer input, only this many places are tried to cut it at.
const CUTS_MAX: usize = 64;

/// What is read of an answer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers that go end to end, in order of their names.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// How many bytes after it are left alone.
    pub left: usize,
    /// Whether another answer can come on the connection.
    pub is_reusable: bool,
}

/// A way to read an answer that comes in pieces. `is_to_head`: to a `HEAD`.
pub type Reads = fn(&[&[u8]], is_to_head: bool, &mut Kept) -> Result<Answer, Broken>;

fn lines(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> =
        map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    // Stable: the values of one name stay in their order.
    all.sort_by(|one, other| one.0.cmp(&other.0));
    all
}

/// As the gate does.
///
/// # Errors
/// An answer that is broken.
pub fn gate(pieces: &[&[u8]], is_to_head: bool, kept: &mut Kept) -> Result<Answer, Broken> {
    let (mut decoder, mut from, mut answer) =
        (Decoder::new(is_to_head, HEAD_BYTES_MAX), BytesMut::new(), Answer::default());
    let mut has_head = false;
    for piece in pieces {
        from.extend_from_slice(piece);
        if !has_head && let Some(head) = decoder.head(&mut from, kept)? {
            (has_head, answer.status, answer.headers) = (true, head.status.as_u16(), lines(&head.headers));
            // The memory is used again, as for the next answer on a connection.
            kept.room = head.headers;
            kept.room.clear();
        }
        while has_head && let Some(frame) = decoder.frame(&mut from)? {
            match frame.into_data() {
                Ok(data) => answer.body.extend_from_slice(&data),
                Err(frame) => answer.trailers = frame.into_trailers().map(|map| lines(&map)).unwrap_or_default(),
            }
        }
    }
    decoder.closed()?;
    (answer.left, answer.is_reusable) = (from.len(), decoder.is_reusable());
    Ok(answer)
}

/// An answer's end is where a second reader sees it, wherever it is cut into pieces, and whatever was read before on the connection.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(reads: Reads, input: &[u8]) -> Checked {
    for is_to_head in [false, true] {
        let read = |pieces: &[&[u8]], kept: &mut Kept| reads(pieces, is_to_head, kept).ok();
        let mut kept = Kept::default();
        let whole = read(&[input], &mut kept);
        let again = read(&[input], &mut kept);
        hold!(whole == again, "the second time {whole:?} is {again:?}");
        let _ = read(&[b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 2\r\ndate: now\r\n\r\nok"], &mut kept);
        let after = read(&[input], &mut kept);
        hold!(whole == after, "after another answer {whole:?} is {after:?}");
        let step = input.len() / CUTS_MAX + 1;
        for cut in (1..input.len()).step_by(step) {
            let in_two = read(&[&input[..cut], &input[cut..]], &mut kept);
            hold!(whole == in_two, "cut at {cut}, {whole:?} is {in_two:?}");
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        let by_bytes = read(&bytes, &mut Kept::default());
        hold!(whole == by_bytes, "byte by byte {whole:?} is {by_bytes:?}");
        let Some(whole) = whole else { continue };
        let by_reference = reference::answer(input, is_to_head);
        hold!(by_reference.as_ref() == Some(&whole), "{whole:?}\nis by the reference {by_reference:?}");
    }
    Ok(())
}

/// The properties of the gate's own decoder.
///
/// # Errors
/// How they don't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(gate, input)?;
    let head = |is_plain: bool| {
        let (mut decoder, mut from) = (Decoder::new(false, HEAD_BYTES_MAX), BytesMut::from(input));
        let mut kept = Kept::default();
        let head =
            if is_plain { decoder.plain_head(&mut from, &mut kept) } else { decoder.any_head(&mut from, &mut kept) };
        // Which of several mistakes is found makes no difference.
        head.map_err(drop).map(|head| head.map(|head| format!("{head:?} {decoder:?} {from:?}")))
    };
    let plain = head(true);
    if plain != Ok(None) {
        let any = head(false);
        hold!(plain == any, "the plain way {plain:?}, the other {any:?}");
    }
    Ok(())
}
