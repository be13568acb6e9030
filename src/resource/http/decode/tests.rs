use super::*;
use proptest::prelude::*;

/// What came of an answer: its head, body and trailers, and how many bytes after its end were left alone.
#[derive(Debug, Default, PartialEq)]
struct Read {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    left: usize,
    is_reusable: bool,
    is_delimited: bool,
}

/// Reads an answer that comes in pieces, the connection's end being the last one.
fn read_with(pieces: &[&[u8]], is_to_head: bool, head_bytes_max: usize) -> Result<Read, Broken> {
    let (mut decoder, mut from, mut read) =
        (Decoder::new(is_to_head, head_bytes_max), BytesMut::new(), Read::default());
    let (mut has_head, mut kept) = (false, Kept::default());
    for piece in pieces {
        from.extend_from_slice(piece);
        if !has_head && let Some(head) = decoder.head(&mut from, &mut kept)? {
            (has_head, read.status, read.headers) = (true, head.status.as_u16(), head.headers);
        }
        while has_head && let Some(frame) = decoder.frame(&mut from)? {
            match frame.into_data() {
                Ok(data) => {
                    assert!(!data.is_empty() && read.trailers.is_none());
                    read.body.extend_from_slice(&data);
                }
                Err(frame) => read.trailers = frame.into_trailers().ok(),
            }
        }
    }
    decoder.closed()?;
    (read.left, read.is_reusable, read.is_delimited) = (from.len(), decoder.is_reusable(), decoder.is_delimited());
    Ok(read)
}

fn read(answer: &str) -> Result<Read, Broken> {
    let whole = read_with(&[answer.as_bytes()], false, 4096);
    // Byte by byte it has to be the same.
    let bytes: Vec<&[u8]> = answer.as_bytes().chunks(1).collect();
    let by_bytes = read_with(&bytes, false, 4096);
    assert_eq!(format!("{whole:?}"), format!("{by_bytes:?}"), "{answer:?}");
    whole
}

fn body(answer: &str) -> Option<String> {
    let read = read(answer).ok()?;
    String::from_utf8(read.body).ok()
}

#[test]
fn every_way_to_frame_a_body() {
    for (answer, expected, left, is_reusable) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "hello", 0, true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 200", "hello", 12, true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello", "hello", 0, true),
        ("HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", "", 0, true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x, Close\r\n\r\nok", "ok", 0, false),
        ("HTTP/1.1 200 OK\r\n\r\nall that comes", "all that comes", 0, false),
        ("HTTP/1.1 200 OK\r\n\r\n", "", 0, false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", 0, false),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: Keep-Alive\r\n\r\nok", "ok", 0, true),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\nx",
            "abc0123456789",
            1,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a=\"b\"\r\nx\r\n1 \r\ny\r\n1 ;q\r\nz\r\n0;end\r\n\r\n",
            "xyz",
            0,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "x",
            0,
            false,
        ),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello", "", 5, true),
        ("HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", "", 0, true),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nbytes", "", 5, false),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
            "x",
            0,
            true,
        ),
    ] {
        let read = read(answer).unwrap_or_else(|error| panic!("{answer:?}: {error}"));
        let body = String::from_utf8(read.body).expect("text");
        assert_eq!((&*body, read.left, read.is_reusable), (expected, left, is_reusable), "{answer:?}");
    }
    let to_head = read_with(&[b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"], true, 4096).expect("an answer");
    assert_eq!((to_head.body.len(), to_head.is_reusable), (0, true));
    assert_eq!(to_head.headers[CONTENT_LENGTH], "5");
    assert!(!read("HTTP/1.1 200 OK\r\n\r\nx").expect("an answer").is_delimited);
}

#[test]
fn what_is_said_of_a_message() {
    let read = read(
        "HTTP/1.1 201 Created\r\nSet-Cookie: a\r\nset-cookie:  b \r\nx:\r\ntransfer-encoding: chunked\r\n\r\n0\r\nState: \
         fine\r\nsum: 5\r\n\r\n",
    );
    let read = read.expect("an answer");
    assert_eq!((read.status, read.headers.len()), (201, 3), "what is about the connection ends here");
    assert_eq!(read.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
    let trailers = read.trailers.expect("trailers");
    assert_eq!(
        (&trailers["state"], &trailers["sum"]),
        (&HeaderValue::from_static("fine"), &HeaderValue::from_static("5"))
    );
    // Of two lengths that are the same, one goes on; beside a coding none.
    let twice = self::read("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx").expect("an answer");
    assert_eq!(twice.headers.get_all(CONTENT_LENGTH).iter().count(), 1);
    let both = self::read("HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(!both.expect("an answer").headers.contains_key(CONTENT_LENGTH));
}

#[test]
fn what_is_said_of_the_connection_ends_here() {
    let read = read(
        "HTTP/1.1 200 OK\r\nx-private: 1\r\nconnection: keep-alive, X-Private, ,content-length\r\nkeep-alive: timeout=5\r\n\
         te: trailers\r\nupgrade: x\r\nproxy-connection: y\r\nx-end-to-end: 3\r\ncontent-length: 2\r\n\
         connection: x-other\r\nx-other: 2\r\n\r\nok",
    );
    let read = read.expect("an answer");
    let mut names: Vec<&str> = read.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!((names, &*read.body, read.is_reusable), (vec!["content-length", "x-end-to-end"], &b"ok"[..], true));
}

#[test]
fn what_has_two_ends_or_none_breaks_the_connection() {
    for head in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5, 5",
        "content-length: 5, 6",
        "content-length: +5",
        "content-length: -5",
        "content-length: 0x5",
        "content-length: 5 5",
        "content-length:",
        "content-length: 99999999999999999999",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: \x0bchunked",
        "content-length : 5",
        "content-length: 5\r\n folded: 6",
        " content-length: 5",
        "content-length: 5\rx: y",
        "x: a\0b",
        "x y: a",
        ": a",
        "x",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nhello world");
        assert_eq!(body(&answer), None, "{answer:?}");
    }
    for start in
        ["HTTP/1.2 200 OK", "HTTP/2 200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "http/1.1 200 OK", "ICY 200 OK", "x"]
    {
        assert_eq!(body(&format!("{start}\r\ncontent-length: 0\r\n\r\n")), None, "{start}");
    }
    assert_eq!(body("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), None);
}

#[test]
fn chunks_that_are_none() {
    for chunks in [
        "5\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "-1\r\nhello\r\n0\r\n\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\na: b\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        assert_eq!(body(&answer), None, "{answer:?}");
    }
    let long =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(1100));
    assert_eq!(body(&long), None);
}

#[test]
fn what_has_no_end_is_not_kept_without_end() {
    let endless = "a: b\r\n".repeat(1000);
    for answer in [
        format!("HTTP/1.1 200 OK\r\n{endless}"),
        format!("HTTP/1.1 200 {}", "x".repeat(5000)),
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(200),
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{}",
            "a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n".repeat(90)
        ),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", "0".repeat(1100)),
    ] {
        let pieces: Vec<&[u8]> = answer.as_bytes().chunks(100).collect();
        let broken = read_with(&pieces, false, 4096).expect_err("it has no end");
        assert!(!matches!(broken, Broken::Incomplete), "{broken} came only at the end");
    }
}

/// Cuts bytes at these places, each as a part of a thousand.
fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place * bytes.len() / 1000).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn chunked(body: &[u8], sizes: &[usize], trailers: &str) -> Vec<u8> {
    let (mut text, mut rest, mut sizes) = (Vec::new(), body, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().map_or(1, |size| (*size).clamp(1, rest.len()));
        text.extend_from_slice(format!("{size:X}\r\n").as_bytes());
        text.extend_from_slice(&rest[..size]);
        text.extend_from_slice(b"\r\n");
        rest = &rest[size..];
    }
    text.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    text
}

proptest! {
    #[test]
    fn wherever_it_is_cut_it_is_the_same(
        content in proptest::collection::vec(any::<u8>(), 0..300),
        sizes in proptest::collection::vec(1..40_usize, 1..5),
        places in proptest::collection::vec(0..1000_usize, 0..20),
        after in proptest::collection::vec(any::<u8>(), 0..20),
        has_trailers in any::<bool>(),
        framing in 0..3,
    ) {
        let mut answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx: y\r\n".to_vec();
        let trailers = if has_trailers { "a: b\r\nc: d\r\n" } else { "" };
        match framing {
            0 => {
                answer.extend_from_slice(format!("content-length: {}\r\n\r\n", content.len()).as_bytes());
                answer.extend_from_slice(&content);
            }
            1 => {
                answer.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                answer.extend_from_slice(&chunked(&content, &sizes, trailers));
            }
            _ => {
                answer.extend_from_slice(b"\r\n");
                answer.extend_from_slice(&content);
            }
        }
        let after = if framing == 2 { Vec::new() } else { after };
        answer.extend_from_slice(&after);
        let read = read_with(&cut(&answer, &places), false, 4096).expect("an answer");
        prop_assert_eq!(read.body, content);
        prop_assert_eq!((read.left, read.is_delimited), (after.len(), framing != 2));
        prop_assert_eq!(read.trailers.map(|map| map.len()), (framing == 1 && has_trailers).then_some(2));
    }

    #[test]
    fn half_an_answer_is_none(
        content in proptest::collection::vec(any::<u8>(), 1..100),
        sizes in proptest::collection::vec(1..40_usize, 1..5),
        place in 0..1000_usize,
        is_chunked in any::<bool>(),
    ) {
        let (framing, framed) = match is_chunked {
            true => ("transfer-encoding: chunked".to_owned(), chunked(&content, &sizes, "a: b\r\n")),
            false => (format!("content-length: {}", content.len()), content),
        };
        let mut answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").into_bytes();
        answer.extend_from_slice(&framed);
        let len = place * answer.len() / 1000;
        prop_assert!(matches!(read_with(&[&answer[..len]], false, 4096), Err(Broken::Incomplete)));
    }

    #[test]
    fn garbage_is_survived(
        head in "(HTTP/1.[01] [0-9]{3} |)[ -~\r\n]{0,40}",
        framing in "(transfer-encoding: chunked|content-length: [0-9]{1,3}|)\r\n\r\n",
        rest in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), any::<u8>()], 0..60),
        places in proptest::collection::vec(0..1000_usize, 0..10),
    ) {
        let mut answer = format!("{head}\r\n{framing}").into_bytes();
        answer.extend_from_slice(&rest);
        let whole = read_with(&[&answer], false, 4096);
        let in_pieces = read_with(&cut(&answer, &places), false, 4096);
        prop_assert_eq!(format!("{whole:?}"), format!("{in_pieces:?}"));
    }

    #[test]
    fn the_plain_way_reads_the_same(
        status in prop_oneof![Just("200 OK"), Just("201 Created"), Just("204 No Content"), Just("404 Not Found"), Just("200 Fine")],
        lines in proptest::collection::vec(
            ("[a-zA-Z!#$%&'*+.^_`|~ :\\(\\)/-]{0,6}|content-length|transfer-encoding|connection|\\PC{0,3}", ":|: |:\t| : |", "[ -~\t]{0,9}|chunked|close|5|\\PC{0,4}|[\\x00-\\x20\\x7f]{0,3}", "\r\n|\r\n|\r\n|\r\n|\r\n|\n|\r"),
            0..6,
        ),
        end in prop_oneof![Just("\r\n"), Just("\r\n"), Just("\r\n"), Just("\n"), Just("")],
    ) {
        let mut answer = format!("HTTP/1.1 {status}\r\n");
        for (name, colon, value, end) in lines {
            answer.extend([&*name, &colon, &value, &end]);
        }
        answer.push_str(end);
        answer.push_str("hello");
        let by = |is_plain: bool| {
            let (mut decoder, mut from) = (Decoder::new(false, 4096), BytesMut::from(answer.as_bytes()));
            let mut kept = Kept::default();
            let head = if is_plain { decoder.plain_head(&mut from, &mut kept) } else { decoder.any_head(&mut from, &mut kept) };
            // Which of several mistakes is found makes no difference.
            head.map_err(drop).map(|head| head.map(|head| format!("{head:?} {decoder:?} {from:?}")))
        };
        let plain = by(true);
        if plain != Ok(None) {
            prop_assert_eq!(plain, by(false));
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_with(&[&bytes], false, 4096);
    }
}
